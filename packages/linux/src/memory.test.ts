import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { GrantError, PAGE_SIZE, PagedMemory, standardRuntime } from '@pvkit/ring';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { allocatePages, PageRange, PageRanges, putZeroPages } from './memory.ts';

/** As a platform's pages are: given back by {@link release}. */
class Pages extends PagedMemory {
  release(): void {
    this.invalidate();
  }
}

describe.runIf(process.platform === 'linux')('page ranges', () => {
  const runtime = standardRuntime();
  let directory: string;
  let fd: number;
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'pvkit-memory-'));
    fd = openSync(join(directory, 'pages'), 'w+');
    writeSync(fd, Buffer.alloc(8 * PAGE_SIZE));
  });
  afterAll(() => {
    closeSync(fd);
    rmSync(directory, { recursive: true });
  });

  it('show what is mapped, and zeros after it', () => {
    writeSync(fd, Buffer.from('second page'), 0, 11, PAGE_SIZE);
    const range = new PageRange(2);
    expect(range.attach(fd, PAGE_SIZE, true)).toBeUndefined();
    const pages = new Pages(runtime, range.pages);
    const text = Buffer.alloc(11);
    pages.read(0, text, 0, 11);
    expect(text.toString()).toBe('second page');
    pages.store32(PAGE_SIZE + 8, 0xfeed_f00d);
    readSync(fd, text, 0, 4, 2 * PAGE_SIZE + 8);
    expect(text.readUInt32LE(0)).toBe(0xfeed_f00d);

    range.detach();
    pages.release();
    expect(() => pages.load32(0)).toThrow(GrantError);
    expect(() => pages.write(0, text, 0, 1)).toThrow(GrantError);
    // What a bug that kept the view would touch:
    expect(range.pages[0]!.bytes.every((byte) => byte === 0)).toBe(true);
    range.pages[1]!.bytes.fill(1);
    readSync(fd, text, 0, 4, 2 * PAGE_SIZE + 8);
    expect(text.readUInt32LE(0)).toBe(0xfeed_f00d);
  });

  it('are checked at both ends', () => {
    const pages = new Pages(runtime, new PageRange(3).pages);
    const end = 3 * PAGE_SIZE;
    pages.store32(end - 4, 7);
    expect(pages.load32(end - 4)).toBe(7);
    for (const offset of [-4, end, end - 2, 2, Number.NaN]) expect(() => pages.load32(offset)).toThrow(RangeError);
    expect(() => pages.read(end - 8, new Uint8Array(16), 0, 9)).toThrow(RangeError);
    expect(() => pages.readWords(end - 8, new Int32Array(4), 3)).toThrow(RangeError);
    expect(() => pages.write(0, new Uint8Array(4), 1, 4)).toThrow(RangeError);
  });

  it('are used again for the same size, with the same views', () => {
    const ranges = new PageRanges();
    const first = ranges.take(2);
    ranges.give(first);
    expect(ranges.take(3)).not.toBe(first);
    expect(ranges.take(2)).toBe(first);
    expect(ranges.take(2)).not.toBe(first);
    expect(first.attach(fd, 0, false)).toBeUndefined();
    first.detach();
    first.pages[0]!.words[0] = 1; // writable again
  });

  it('stay readable when a mapping fails', () => {
    const range = new PageRange(1);
    range.pages[0]!.words[0] = 5;
    const failure = range.attach(-1, 0, true);
    expect(failure?.error).toMatchObject({ errno: 'EBADF', message: expect.stringContaining('mapping 1 pages') });
    expect(range.pages[0]!.words[0]).toBe(5);
  });

  it('give private memory that zero pages can be put over', () => {
    const { address, buffer } = allocatePages(4 * PAGE_SIZE);
    expect(address % PAGE_SIZE).toBe(0);
    const bytes = new Uint8Array(buffer).fill(9);
    putZeroPages(address + PAGE_SIZE, 2 * PAGE_SIZE);
    expect([bytes[0], bytes[PAGE_SIZE], bytes[3 * PAGE_SIZE - 1], bytes[3 * PAGE_SIZE]]).toEqual([9, 0, 0, 9]);
    expect(() => allocatePages(0)).toThrow(/EINVAL/);
    expect(() => allocatePages(2 ** 32)).toThrow(RangeError);
  });
});
