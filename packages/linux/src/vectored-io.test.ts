import {
  closeSync,
  existsSync,
  fdatasyncSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  statfsSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ErrnoError } from '@pvkit/ring';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { IOV_MAX, IovecTable, readNoWait, readVector, writeVector } from './vectored-io.ts';

const onLinux = process.platform === 'linux';
const TMPFS_MAGIC = 0x0102_1994;
const isTmpfs = (path: string) => existsSync(path) && statfsSync(path).type === TMPFS_MAGIC;

describe.runIf(onLinux)('vectored I/O', () => {
  let directory: string;
  let fd: number;
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'pvkit-vectored-'));
    fd = openSync(join(directory, 'file'), 'w+');
  });
  afterAll(() => {
    closeSync(fd);
    rmSync(directory, { recursive: true });
  });

  it('reads and writes parts in order, at their offsets', () => {
    const source = Buffer.from('0123456789abcdefghij');
    const vector = new IovecTable(3);
    vector.add(source, 10, 5);
    vector.add(source.subarray(5), 0, 0);
    vector.add(source.subarray(3), 2, 4);
    expect([vector.count, vector.byteLength]).toEqual([3, 9]);
    expect(writeVector(fd, vector, 100)).toBe(9);

    const plain = Buffer.alloc(9);
    readSync(fd, plain, 0, 9, 100);
    expect(plain.toString()).toBe('abcde5678');

    const target = Buffer.alloc(12, '.');
    vector.clear();
    vector.add(target, 6, 2);
    vector.add(target, 1, 4);
    expect(readVector(fd, vector, 101)).toBe(6);
    expect(target.toString()).toBe('.de56.bc....');
  });

  it('reads fewer bytes at the end of the file, and none beyond', () => {
    const target = Buffer.alloc(64);
    const vector = new IovecTable(1);
    vector.add(target, 0, 64);
    expect(readVector(fd, vector, 105)).toBe(4);
    expect(readVector(fd, vector, 10_000)).toBe(0);
    expect(readNoWait(fd, vector, 10_000)).not.toBe('would-block');
  });

  it('reaches beyond 4 GiB in a sparse file, whose holes read as zeros', () => {
    const position = 2 ** 40 + 7;
    const vector = new IovecTable(1);
    vector.add(Buffer.from('far away'), 0, 8);
    expect(writeVector(fd, vector, position)).toBe(8);
    const target = Buffer.alloc(16, 1);
    vector.clear();
    vector.add(target, 0, 16);
    expect(readVector(fd, vector, position - 8)).toBe(16);
    expect(target.toString('latin1')).toBe('\0\0\0\0\0\0\0\0far away');
    expect(readVector(fd, vector, 2 ** 32 + 3)).toBe(16);
    expect(target.every((byte) => byte === 0)).toBe(true);
  });

  it('reads cached data without waiting, where the file system can', () => {
    writeSync(fd, Buffer.alloc(8192, 7), 0, 8192, 0);
    fdatasyncSync(fd);
    const target = Buffer.alloc(4096);
    const vector = new IovecTable(1);
    vector.add(target, 0, 4096);
    expect(readVector(fd, vector, 1024)).toBe(4096);
    target.fill(0);
    const result = readNoWait(fd, vector, 1024);
    if (result === 'unsupported') return; // this machine's temporary directory is on such a file system
    expect(result).toBe(4096);
    expect(target.every((byte) => byte === 7)).toBe(true);
  });

  it.runIf(isTmpfs('/dev/shm'))('says so when a file system cannot tell', () => {
    const path = join('/dev/shm', `pvkit-vectored-${process.pid}`);
    const tmpfs = openSync(path, 'w+');
    try {
      writeSync(tmpfs, 'some data');
      const vector = new IovecTable(1);
      vector.add(new Uint8Array(4), 0, 4);
      expect(['unsupported', 4]).toContain(readNoWait(tmpfs, vector, 0)); // newer kernels can
      expect(readVector(tmpfs, vector, 0)).toBe(4);
    } finally {
      closeSync(tmpfs);
      rmSync(path);
    }
  });

  it('goes on after a part of it was done', () => {
    const text = Buffer.from('the quick brown fox jumps over the lazy dog');
    const vector = new IovecTable(4);
    for (const [offset, length] of [
      [4, 6],
      [10, 6],
      [16, 4],
      [20, 6],
    ] as const)
      vector.add(text, offset, length);
    vector.skip(0);
    vector.skip(9);
    expect([vector.count, vector.byteLength]).toEqual([3, 13]);
    expect(writeVector(fd, vector, 500)).toBe(13);
    vector.skip(7);
    expect([vector.count, vector.byteLength]).toEqual([1, 6]);
    vector.skip(6);
    expect([vector.count, vector.byteLength]).toEqual([0, 0]);
    expect(() => vector.skip(1)).toThrow(RangeError);
    const back = Buffer.alloc(13);
    readSync(fd, back, 0, 13, 500);
    expect(back.toString()).toBe('wn fox jumps ');
  });

  it('reads into shared memory and into views that do not start at 0', () => {
    const shared = new SharedArrayBuffer(32);
    const view = new Uint8Array(shared, 8, 16);
    const vector = new IovecTable(1);
    vector.add(view, 4, 9);
    writeSync(fd, 'shared it', 700);
    expect(readVector(fd, vector, 700)).toBe(9);
    expect(Buffer.from(new Uint8Array(shared)).toString('latin1', 12, 21)).toBe('shared it');
  });

  it('refuses what is outside', () => {
    const vector = new IovecTable(2);
    const array = new Uint8Array(16);
    expect(() => vector.add(array, 10, 7)).toThrow(RangeError);
    expect(() => vector.add(array, -1, 2)).toThrow(RangeError);
    expect(() => vector.add(array, Number.NaN, 2)).toThrow(RangeError);
    vector.add(array, 0, 16);
    vector.add(array, 16, 0);
    expect(() => vector.add(array, 0, 1)).toThrow(/full/);
    for (const position of [-1, 0.5, 2 ** 53, Number.NaN]) {
      expect(() => readVector(fd, vector, position)).toThrow(RangeError);
      expect(() => readNoWait(fd, vector, position)).toThrow(RangeError);
      expect(() => writeVector(fd, vector, position)).toThrow(RangeError);
    }
    for (const capacity of [0, IOV_MAX + 1, 1.5]) expect(() => new IovecTable(capacity)).toThrow(RangeError);
  });

  it('names the errno of a failure', () => {
    const readOnly = openSync(join(directory, 'file'), 'r');
    const vector = new IovecTable(1);
    vector.add(new Uint8Array(4), 0, 4);
    const failure = (action: () => unknown) => {
      try {
        action();
      } catch (error) {
        return error instanceof ErrnoError ? error.errno : error;
      }
      return undefined;
    };
    expect(failure(() => writeVector(readOnly, vector, 0))).toBe('EBADF');
    closeSync(readOnly);
    const folder = openSync(directory, 'r');
    expect(failure(() => readVector(folder, vector, 0))).toBe('EISDIR');
    closeSync(folder);
  });
});
