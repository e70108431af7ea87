// The one boot that all test files of a run share (see vitest.config.ts).
import { Lab } from './lab.ts';

let shared: Promise<Lab> | undefined;

/** The run's lab; booted by whoever asks first. It ends with the process. */
export const sharedLab = (): Promise<Lab> => {
  shared ??= Lab.boot();
  return shared;
};
