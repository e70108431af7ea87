import { GrantError } from './errors.ts';
import { type GrantAccess, PAGE_SIZE, type SharedPages } from './platform.ts';
import type { Runtime } from './runtime.ts';

const PAGE_SHIFT = 12;
const WORDS_PER_PAGE = PAGE_SIZE / 4;

/** Two views over one page: its 1,024 words and its 4,096 bytes. */
export interface PageViews {
  readonly words: Int32Array;
  readonly bytes: Uint8Array;
}

/**
 * {@link SharedPages} over ordinary views, one pair a page, so that the pages need not be contiguous. The words are in
 * the engine's byte order, which every architecture that Xen and a JavaScript engine share has little-endian.
 */
export class PagedMemory implements SharedPages {
  readonly pageCount: number;
  readonly access: GrantAccess;
  readonly #runtime: Runtime;
  #pages: readonly PageViews[];
  #byteLength: number;

  constructor(runtime: Runtime, pages: readonly PageViews[], access: GrantAccess = 'read-write') {
    this.#runtime = runtime;
    this.#pages = pages;
    this.pageCount = pages.length;
    this.#byteLength = pages.length * PAGE_SIZE;
    this.access = access;
  }

  /** Drops the views: every later use throws. */
  protected invalidate(): void {
    this.#pages = [];
    this.#byteLength = -1; // so that not even an empty range is inside
  }

  load32(offset: number): number {
    this.#check(offset, 4, 3);
    return this.#runtime.load(this.#page(offset).words, (offset >>> 2) & (WORDS_PER_PAGE - 1)) >>> 0;
  }

  store32(offset: number, value: number): void {
    this.#check(offset, 4, 3);
    this.#checkWritable();
    this.#runtime.store(this.#page(offset).words, (offset >>> 2) & (WORDS_PER_PAGE - 1), value | 0);
  }

  readWords(offset: number, target: Int32Array, count: number): void {
    this.#check(offset, count * 4, 3);
    if (count > target.length) throw new RangeError(`${count} words do not fit in ${target.length}`);
    let done = 0;
    while (done < count) {
      const words = this.#page(offset).words;
      const start = (offset >>> 2) & (WORDS_PER_PAGE - 1);
      const end = Math.min(WORDS_PER_PAGE, start + count - done);
      for (let index = start; index < end; index++) target[done++] = words[index]!;
      offset += (end - start) * 4;
    }
  }

  writeWords(offset: number, source: Int32Array, count: number): void {
    this.#check(offset, count * 4, 3);
    this.#checkWritable();
    if (count > source.length) throw new RangeError(`${count} words are not in ${source.length}`);
    let done = 0;
    while (done < count) {
      const words = this.#page(offset).words;
      const start = (offset >>> 2) & (WORDS_PER_PAGE - 1);
      const end = Math.min(WORDS_PER_PAGE, start + count - done);
      for (let index = start; index < end; index++) words[index] = source[done++]!;
      offset += (end - start) * 4;
    }
  }

  read(offset: number, target: Uint8Array, targetOffset: number, length: number): void {
    this.#check(offset, length, 0);
    checkRange(targetOffset, length, target.byteLength);
    while (length > 0) {
      const start = offset & (PAGE_SIZE - 1);
      const size = Math.min(length, PAGE_SIZE - start);
      copyBytes(this.#page(offset).bytes, start, target, targetOffset, size);
      offset += size;
      targetOffset += size;
      length -= size;
    }
  }

  write(offset: number, source: Uint8Array, sourceOffset: number, length: number): void {
    this.#check(offset, length, 0);
    this.#checkWritable();
    checkRange(sourceOffset, length, source.byteLength);
    while (length > 0) {
      const start = offset & (PAGE_SIZE - 1);
      const size = Math.min(length, PAGE_SIZE - start);
      copyBytes(source, sourceOffset, this.#page(offset).bytes, start, size);
      offset += size;
      sourceOffset += size;
      length -= size;
    }
  }

  #page(offset: number): PageViews {
    return this.#pages[offset >>> PAGE_SHIFT]!;
  }

  // Written as !(a && b) so that NaN fails.
  #check(offset: number, length: number, alignment: number): void {
    if (!(offset >= 0 && length >= 0 && offset + length <= this.#byteLength) || (offset & alignment) !== 0) {
      if (this.#byteLength < 0) throw new GrantError('GNTST_bad_handle', 'use of pages that were given back');
      throw new RangeError(`${length} bytes at ${offset} are not inside ${this.#byteLength} bytes of shared pages`);
    }
  }

  #checkWritable(): void {
    if (this.access === 'read-only') throw new GrantError('GNTST_permission_denied', 'write to a read-only page');
  }
}

function checkRange(offset: number, length: number, byteLength: number): void {
  if (!(offset >= 0 && offset + length <= byteLength))
    throw new RangeError(`${length} bytes at ${offset} are outside a ${byteLength}-byte buffer`);
}

/** Copies within ranges that the caller has checked; makes no view for a whole source or for a few bytes. */
export function copyBytes(source: Uint8Array, from: number, target: Uint8Array, to: number, length: number): void {
  if (length === source.byteLength) target.set(source, to);
  else if (length <= 32) for (let index = 0; index < length; index++) target[to + index] = source[from + index]!;
  else target.set(source.subarray(from, from + length), to);
}
