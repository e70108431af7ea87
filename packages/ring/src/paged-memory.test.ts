import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GrantError } from './errors.ts';
import { copyBytes, PagedMemory, type PageViews } from './paged-memory.ts';
import { type GrantAccess, PAGE_SIZE } from './platform.ts';
import { standardRuntime } from './runtime.ts';

const runtime = standardRuntime();

/** Pages that lie in their buffer in reverse order, so that nothing works by contiguity. */
function somePages(count: number): PageViews[] {
  const buffer = new SharedArrayBuffer(count * PAGE_SIZE);
  return Array.from({ length: count }, (_, index) => {
    const start = (count - 1 - index) * PAGE_SIZE;
    return {
      words: new Int32Array(buffer, start, PAGE_SIZE / 4),
      bytes: new Uint8Array(buffer, start, PAGE_SIZE),
    };
  });
}

class ReturnablePages extends PagedMemory {
  giveBack(): void {
    this.invalidate();
  }
}

const memory = (count: number, access?: GrantAccess) => new ReturnablePages(runtime, somePages(count), access);
const PAGES = 3;
const SIZE = PAGES * PAGE_SIZE;

// Ranges that like page borders and both ends.
const position = fc.oneof(
  fc.nat(SIZE),
  fc
    .tuple(fc.nat(PAGES), fc.integer({ min: -40, max: 40 }))
    .map(([page, near]) => Math.min(SIZE, Math.max(0, page * PAGE_SIZE + near))),
);
const range = fc.tuple(position, position).map(([a, b]) => ({ offset: Math.min(a, b), length: Math.abs(a - b) }));
const wordRange = range.map(({ offset, length }) => ({ offset: offset & ~3, count: length >>> 2 }));
const action = fc.oneof(
  fc.record({ kind: fc.constant('write' as const), at: range, seed: fc.nat(), from: fc.nat(50) }),
  fc.record({ kind: fc.constant('read' as const), at: range, from: fc.nat(50) }),
  fc.record({ kind: fc.constant('writeWords' as const), at: wordRange, seed: fc.nat() }),
  fc.record({ kind: fc.constant('readWords' as const), at: wordRange }),
  fc.record({ kind: fc.constant('store32' as const), at: fc.nat(SIZE / 4 - 1), value: fc.nat(0xffff_ffff) }),
  fc.record({ kind: fc.constant('load32' as const), at: fc.nat(SIZE / 4 - 1) }),
);

const noise = (length: number, seed: number) =>
  Uint8Array.from({ length }, (_, index) => Math.imul(index + seed, 0x9e3779b1) >>> 24);
const equal = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) === 0;

describe('PagedMemory', () => {
  it('is one run of bytes and little-endian words', () => {
    fc.assert(
      fc.property(fc.array(action, { maxLength: 30 }), (plan) => {
        const pages = memory(PAGES);
        const model = new Uint8Array(SIZE);
        const view = new DataView(model.buffer);
        for (const step of plan) {
          switch (step.kind) {
            case 'write': {
              const { offset, length } = step.at;
              const source = noise(length + step.from + 5, step.seed);
              pages.write(offset, source, step.from, length);
              model.set(source.subarray(step.from, step.from + length), offset);
              break;
            }
            case 'read': {
              const { offset, length } = step.at;
              const target = noise(length + step.from + 5, 1);
              const expected = target.slice();
              expected.set(model.subarray(offset, offset + length), step.from);
              pages.read(offset, target, step.from, length);
              expect(equal(target, expected)).toBe(true);
              break;
            }
            case 'writeWords': {
              const { offset, count } = step.at;
              const words = Int32Array.from({ length: count + 1 }, (_, index) =>
                Math.imul(index + step.seed, 0x9e3779b1),
              );
              pages.writeWords(offset, words, count);
              for (let index = 0; index < count; index++) view.setInt32(offset + index * 4, words[index]!, true);
              break;
            }
            case 'readWords': {
              const { offset, count } = step.at;
              const words = new Int32Array(count + 1).fill(-7);
              pages.readWords(offset, words, count);
              const wrong = words.findIndex(
                (word, index) => word !== (index === count ? -7 : view.getInt32(offset + index * 4, true)),
              );
              expect(wrong).toBe(-1);
              break;
            }
            case 'store32':
              pages.store32(step.at * 4, step.value);
              view.setUint32(step.at * 4, step.value, true);
              break;
            case 'load32':
              expect(pages.load32(step.at * 4)).toBe(view.getUint32(step.at * 4, true));
              break;
          }
        }
        const all = new Uint8Array(SIZE);
        pages.read(0, all, 0, SIZE);
        expect(equal(all, model)).toBe(true);
      }),
    );
  });

  it('loads and stores all 32 bits unsigned', () => {
    const pages = memory(1);
    for (const value of [0, 1, 0x7fffffff, 0x80000000, 0xffffffff]) {
      pages.store32(PAGE_SIZE - 4, value);
      expect(pages.load32(PAGE_SIZE - 4)).toBe(value);
    }
    pages.store32(0, 0x1_0000_0002); // an index that went round
    expect(pages.load32(0)).toBe(2);
  });

  const bytes = new Uint8Array(16);
  const words = new Int32Array(4);

  it.each<[string, (pages: PagedMemory) => void]>([
    ['a load behind the end', (pages) => pages.load32(PAGE_SIZE)],
    ['a load across the end', (pages) => pages.load32(PAGE_SIZE - 3)],
    ['an unaligned load', (pages) => pages.load32(2)],
    ['a negative load', (pages) => pages.load32(-4)],
    ['a load at NaN', (pages) => pages.load32(Number.NaN)],
    ['a load at 2^32', (pages) => pages.load32(2 ** 32)],
    ['a store behind the end', (pages) => pages.store32(PAGE_SIZE, 0)],
    ['an unaligned store', (pages) => pages.store32(1, 0)],
    ['a read across the end', (pages) => pages.read(PAGE_SIZE - 8, bytes, 0, 9)],
    ['a negative read', (pages) => pages.read(-1, bytes, 0, 1)],
    ['a read of negative length', (pages) => pages.read(8, bytes, 0, -1)],
    ['a read of NaN bytes', (pages) => pages.read(0, bytes, 0, Number.NaN)],
    ['a read behind its target', (pages) => pages.read(0, bytes, 9, 8)],
    ['a read before its target', (pages) => pages.read(0, bytes, -1, 8)],
    ['a write across the end', (pages) => pages.write(PAGE_SIZE - 8, bytes, 0, 9)],
    ['a write at NaN', (pages) => pages.write(Number.NaN, bytes, 0, 1)],
    ['a write behind its source', (pages) => pages.write(0, bytes, 9, 8)],
    ['a write from NaN', (pages) => pages.write(0, bytes, Number.NaN, 8)],
    ['words across the end', (pages) => pages.readWords(PAGE_SIZE - 8, words, 3)],
    ['unaligned words', (pages) => pages.readWords(2, words, 1)],
    ['NaN words', (pages) => pages.readWords(0, words, Number.NaN)],
    ['a negative number of words', (pages) => pages.writeWords(8, words, -1)],
    ['more words than the target holds', (pages) => pages.readWords(0, words, 5)],
    ['more words than the source has', (pages) => pages.writeWords(0, words, 5)],
  ])('refuses %s and does nothing', (_, act) => {
    const pages = memory(1);
    expect(() => act(pages)).toThrow(RangeError);
    const all = new Uint8Array(PAGE_SIZE);
    pages.read(0, all, 0, PAGE_SIZE);
    expect(equal(all, new Uint8Array(PAGE_SIZE))).toBe(true);
  });

  it('lets empty ranges be anywhere inside', () => {
    const pages = memory(1);
    pages.read(PAGE_SIZE, bytes, 16, 0);
    pages.write(0, bytes, 0, 0);
    expect(() => pages.read(PAGE_SIZE + 1, bytes, 0, 0)).toThrow(RangeError);
  });

  const writes: [string, (pages: PagedMemory) => void][] = [
    ['store32', (pages) => pages.store32(0, 1)],
    ['write', (pages) => pages.write(0, bytes, 0, 4)],
    ['writeWords', (pages) => pages.writeWords(0, words, 1)],
  ];
  const reads: [string, (pages: PagedMemory) => void][] = [
    ['load32', (pages) => pages.load32(0)],
    ['read', (pages) => pages.read(0, bytes, 0, 4)],
    ['readWords', (pages) => pages.readWords(0, words, 1)],
  ];

  it.each(writes)('refuses %s to pages that were mapped read-only', (_, write) => {
    const pages = memory(1, 'read-only');
    expect(() => write(pages)).toThrow(
      expect.objectContaining({ code: 'ERR_PV_GRANT', status: 'GNTST_permission_denied' }),
    );
    for (const [, read] of reads) read(pages);
  });

  it.each([...reads, ...writes, ['an empty read', (pages: PagedMemory) => pages.read(0, bytes, 0, 0)] as const])(
    'refuses %s once the pages were given back',
    (_, use) => {
      const pages = memory(1);
      pages.giveBack();
      expect(() => use(pages)).toThrow(GrantError);
      expect(pages.pageCount).toBe(1);
    },
  );
});

describe('copyBytes', () => {
  it('copies any part of one array to any place of another', () => {
    fc.assert(
      fc.property(fc.nat(100), fc.nat(100), fc.nat(100), fc.nat(10), (from, length, to, rest) => {
        const source = noise(from + length + rest, 3);
        const target = noise(to + length + rest, 9);
        const expected = target.slice();
        for (let index = 0; index < length; index++) expected[to + index] = source[from + index]!;
        copyBytes(source, from, target, to, length);
        expect(equal(target, expected)).toBe(true);
      }),
    );
  });
});
