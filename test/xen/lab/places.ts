// Where the lab keeps what. Works the same from the sources (vitest) and from dist (npm run xen:shell).
import { existsSync, mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { LabError } from './errors.ts';

const findRepository = (): string => {
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    if (existsSync(join(folder, 'package-lock.json'))) return folder;
    if (folder === dirname(folder)) throw new LabError('the Xen lab only runs inside the pvkit repository');
  }
};

/** The repository's top folder. */
export const repository = findRepository();

/** The lab's own scripts and C sources; not compiled, so the same for sources and dist. */
export const labSources = join(repository, 'test/xen/lab');

/** The cache of everything built or downloaded: `PVKIT_LAB_DIR`, or `.pvkit/lab` in the repository. */
export const cacheFolder = (...parts: string[]): string => {
  const folder = join(process.env.PVKIT_LAB_DIR ?? join(repository, '.pvkit/lab'), ...parts);
  mkdirSync(folder, { recursive: true });
  return folder;
};
