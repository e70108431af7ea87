/** The image that the demonstration uses when none is given: ext4 with real files, or plain bytes where mke2fs is missing. */
import { execFileSync } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { closeSync, existsSync, ftruncateSync, mkdirSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { delimiter, join } from 'node:path';

const IMAGE_BYTES = 64 * 1024 * 1024;
const FILES = 40;

/** Makes the image at `path`; returns a sentence that says what it is. */
export function makeDemoImage(path: string): string {
  rmSync(path, { force: true });
  const mke2fs = findTool('mke2fs');
  if (mke2fs === undefined) {
    writePlain(path);
    return 'a plain image of random bytes, since mke2fs (package e2fsprogs) is not installed';
  }
  const tree = `${path}.tree`;
  rmSync(tree, { recursive: true, force: true });
  try {
    writeTree(tree);
    const file = openSync(path, 'w', 0o600);
    ftruncateSync(file, IMAGE_BYTES);
    closeSync(file);
    execFileSync(mke2fs, ['-q', '-F', '-t', 'ext4', '-L', 'pvkit', '-d', tree, path], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
  } finally {
    rmSync(tree, { recursive: true, force: true });
  }
  return `an ext4 file system of ${FILES + 1} files`;
}

/** Checks an ext4 image with e2fsck; undefined where that is missing. */
export function checkImage(path: string): boolean | undefined {
  const e2fsck = findTool('e2fsck');
  if (e2fsck === undefined) return undefined;
  try {
    execFileSync(e2fsck, ['-fn', path], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

function findTool(name: string): string | undefined {
  const directories = [...(process.env.PATH ?? '').split(delimiter), '/sbin', '/usr/sbin'];
  return directories.map((directory) => join(directory, name)).find((path) => existsSync(path));
}

function writeTree(root: string): void {
  mkdirSync(join(root, 'data'), { recursive: true });
  writeFileSync(
    join(root, 'hello.txt'),
    'This file was read through xenstore, grants, event channels and a blkif ring.\n',
  );
  const bytes = Buffer.alloc(1024 * 1024);
  for (let index = 0; index < FILES; index++)
    writeFileSync(join(root, 'data', `file-${String(index).padStart(2, '0')}.bin`), randomFillSync(bytes));
}

function writePlain(path: string): void {
  const file = openSync(path, 'w', 0o600);
  const bytes = Buffer.alloc(1024 * 1024);
  for (let written = 0; written < IMAGE_BYTES; written += bytes.length) writeSync(file, randomFillSync(bytes));
  closeSync(file);
}
