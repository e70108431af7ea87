/**
 * Address ranges that foreign pages come and go in. A view of memory cannot be taken back from JavaScript, and a touch
 * of one whose pages are gone would kill the process. So a range and its views are made once, hold anonymous zero pages
 * whenever nothing is mapped, and are used again for the next mapping of the same size.
 */
import { PAGE_SIZE, type PageViews } from '@pvkit/ring';
import {
  lastError,
  libc,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_FIXED_NOREPLACE,
  MAP_NORESERVE,
  MAP_PRIVATE,
  MAP_SHARED,
  MAX_VIEW,
  PROT_READ,
  PROT_WRITE,
  viewOf,
} from './sys/libc.ts';

const ZERO_PAGES = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

/**
 * Page-aligned private memory of zeros that stays mapped for the life of the process.
 * @throws ErrnoError `ENOMEM`; RangeError beyond 2^32 - 4096 bytes.
 */
export function allocatePages(byteLength: number): { readonly address: number; readonly buffer: ArrayBuffer } {
  if (!(byteLength <= MAX_VIEW)) throw new RangeError(`a buffer of ${byteLength} bytes (at most ${MAX_VIEW})`);
  const address = libc().mmap(0, byteLength, PROT_READ | PROT_WRITE, ZERO_PAGES, -1, 0);
  if (typeof address !== 'number') throw lastError(`allocating ${byteLength} bytes`);
  return { address, buffer: viewOf(address, byteLength) };
}

/** Puts zero pages over whatever is at a range of this process. */
export function putZeroPages(address: number, byteLength: number): void {
  const result = libc().mmap(address, byteLength, PROT_READ | PROT_WRITE, ZERO_PAGES | MAP_FIXED, -1, 0);
  if (result !== address) throw lastError(`taking back ${byteLength} bytes of address space`);
}

/** A range of whole pages, and views of each. */
export class PageRange {
  readonly pageCount: number;
  readonly pages: readonly PageViews[];
  readonly #address: number;
  readonly #byteLength: number;

  constructor(pageCount: number) {
    this.pageCount = pageCount;
    this.#byteLength = pageCount * PAGE_SIZE;
    const { address, buffer } = allocatePages(this.#byteLength);
    this.#address = address;
    this.pages = Array.from({ length: pageCount }, (_, page) => ({
      words: new Int32Array(buffer, page * PAGE_SIZE, PAGE_SIZE / 4),
      bytes: new Uint8Array(buffer, page * PAGE_SIZE, PAGE_SIZE),
    }));
  }

  /**
   * Maps the file's bytes from `offset` in place of the zero pages.
   * @returns the error that prevented it, and whether the range may be used again.
   */
  attach(fd: number, offset: number, writable: boolean): AttachFailure | undefined {
    const protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    const result = libc().mmap(this.#address, this.#byteLength, protection, MAP_SHARED | MAP_FIXED, fd, offset);
    if (result === this.#address) return undefined;
    const error = lastError(`mapping ${this.pageCount} pages`);
    // The kernel took the zero pages away before the driver refused. Another thread may have used the hole since.
    const refill = libc().mmap(
      this.#address,
      this.#byteLength,
      PROT_READ | PROT_WRITE,
      ZERO_PAGES | MAP_FIXED_NOREPLACE,
      -1,
      0,
    );
    return { error, reusable: refill === this.#address };
  }

  /** Puts zero pages in place of what is mapped. */
  detach(): void {
    putZeroPages(this.#address, this.#byteLength);
  }
}

export interface AttachFailure {
  readonly error: Error & { readonly errno: string };
  readonly reusable: boolean;
}

/** The ranges of a platform, by size. */
export class PageRanges {
  readonly #free = new Map<number, PageRange[]>();

  /** A range of zero pages. */
  take(pageCount: number): PageRange {
    return this.#free.get(pageCount)?.pop() ?? new PageRange(pageCount);
  }

  /** Takes back a range that holds zero pages and that no {@link PagedMemory} refers to any more. */
  give(range: PageRange): void {
    const free = this.#free.get(range.pageCount);
    if (free === undefined) this.#free.set(range.pageCount, [range]);
    else free.push(range);
  }
}
