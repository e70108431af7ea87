/** What the checks of the self-test have in common. */
import assert from 'node:assert/strict';
import { ErrnoError, GrantError } from '@pvkit/ring';

const PATIENCE_MS = 5000;

/** Facts worth printing beside a check's result. */
export type Details = Readonly<Record<string, unknown>>;

export interface Check {
  readonly name: string;
  /** Throws when the check fails. */
  readonly run: () => Details | Promise<Details>;
}

export async function within<T>(promise: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not come within ${PATIENCE_MS} ms`)), PATIENCE_MS);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** A few turns of the event loop, in which any event that is there would be delivered. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setTimeout(resolve, 5));
}

export const errnoOfThrown = (action: () => unknown): string => {
  try {
    action();
  } catch (error) {
    assert(error instanceof ErrnoError, String(error));
    return error.errno;
  }
  assert.fail('nothing was thrown');
};

export const statusOfThrown = (action: () => unknown): string => {
  try {
    action();
  } catch (error) {
    assert(error instanceof GrantError, String(error));
    return error.status;
  }
  assert.fail('nothing was thrown');
};
