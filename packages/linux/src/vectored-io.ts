/**
 * Positional vectored file reads and writes, in place: `preadv2` and `pwritev2` on lists of buffer parts that are kept
 * between calls. Node's own `readv` cannot refuse to wait and makes a view for every part.
 */
import { ErrnoError } from '@pvkit/ring';
import { putAddress } from './sys/addresses.ts';
import { addressOf, lastErrno, libc, RWF_NOWAIT } from './sys/libc.ts';

/** Parts of one call (`IOV_MAX`, `linux/uio.h`). */
export const IOV_MAX = 1024;
/** `struct iovec`: address and length, 64 bits each. */
const IOVEC_WORDS = 4;
const IOVEC_SIZE = 16;

/** A list of parts of buffers, to be read into or written from in order; cleared and filled again for each call. */
export class IovecTable {
  readonly capacity: number;
  readonly #words: Uint32Array;
  readonly #tableAddress: number;
  /** Keeps the buffers alive while the table points to them. */
  readonly #arrays: Uint8Array[] = [];
  #first = 0;
  #end = 0;
  #byteLength = 0;

  /** @param capacity number of parts, 1 to {@link IOV_MAX} */
  constructor(capacity: number) {
    if (!(Number.isInteger(capacity) && capacity >= 1 && capacity <= IOV_MAX))
      throw new RangeError(`an I/O vector of ${capacity} parts (1 to ${IOV_MAX})`);
    this.capacity = capacity;
    this.#words = new Uint32Array(capacity * IOVEC_WORDS);
    this.#tableAddress = addressOf(this.#words.buffer);
  }

  /** Parts that are left. */
  get count(): number {
    return this.#end - this.#first;
  }

  /** Bytes that are left. */
  get byteLength(): number {
    return this.#byteLength;
  }

  /** Address of the first part's `struct iovec`. */
  get address(): number {
    return this.#tableAddress + this.#first * IOVEC_SIZE;
  }

  clear(): void {
    this.#first = 0;
    this.#end = 0;
    this.#byteLength = 0;
  }

  /**
   * Adds `length` bytes of `array` from `offset`. The buffer must not be transferred before the call is made.
   * @throws RangeError outside the array, for 2^32 bytes or more, or when the vector is full.
   */
  add(array: Uint8Array, offset: number, length: number): void {
    if (this.#end >= this.capacity) throw new RangeError(`the I/O vector is full (${this.capacity} parts)`);
    if (!(length < 2 ** 32)) throw new RangeError(`${length} bytes in one part`);
    const word = this.#end * IOVEC_WORDS;
    putAddress(this.#words, word, array, offset, length);
    this.#words[word + 2] = length;
    this.#arrays[this.#end] = array;
    this.#end++;
    this.#byteLength += length;
  }

  /** Drops the first `bytes`, which a call has dealt with. @throws RangeError beyond what is left. */
  skip(bytes: number): void {
    if (!(bytes >= 0 && bytes <= this.#byteLength))
      throw new RangeError(`skipping ${bytes} of ${this.#byteLength} bytes`);
    this.#byteLength -= bytes;
    while (this.#first < this.#end) {
      const word = this.#first * IOVEC_WORDS;
      const length = this.#words[word + 2]!;
      if (bytes < length) {
        const low = this.#words[word]! + bytes;
        this.#words[word] = low;
        if (low >= 2 ** 32) this.#words[word + 1]!++;
        this.#words[word + 2] = length - bytes;
        return;
      }
      bytes -= length;
      this.#first++;
    }
  }
}

/**
 * Reads at `position` what can be had without waiting for a device.
 * @returns the bytes read, fewer than asked before the first that is not cached, 0 at the end of the file;
 * `would-block` when the first is not cached; `unsupported` when this file system cannot tell (tmpfs, ramfs).
 * @throws ErrnoError for any other failure; RangeError unless `position` is an integer from 0 to 2^53 - 1.
 */
export function readNoWait(fd: number, vector: IovecTable, position: number): number | 'would-block' | 'unsupported' {
  checkPosition(position);
  const bytes = libc().preadv2(fd, vector.address, vector.count, position, RWF_NOWAIT);
  if (bytes >= 0) return bytes;
  const errno = lastErrno();
  switch (errno) {
    case 'EAGAIN':
    case 'EINTR':
      return 'would-block';
    case 'EOPNOTSUPP':
      return 'unsupported';
    default:
      throw new ErrnoError(errno, `reading ${vector.byteLength} bytes at ${position}`);
  }
}

/**
 * Reads at `position`, waiting where it must.
 * @returns the bytes read, fewer than asked at the end of the file.
 * @throws ErrnoError; RangeError unless `position` is an integer from 0 to 2^53 - 1.
 */
export function readVector(fd: number, vector: IovecTable, position: number): number {
  checkPosition(position);
  for (;;) {
    const bytes = libc().preadv2(fd, vector.address, vector.count, position, 0);
    if (bytes >= 0) return bytes;
    const errno = lastErrno();
    if (errno !== 'EINTR') throw new ErrnoError(errno, `reading ${vector.byteLength} bytes at ${position}`);
  }
}

/**
 * Writes at `position`, waiting where it must.
 * @returns the bytes written, which may be fewer than asked.
 * @throws ErrnoError; RangeError unless `position` is an integer from 0 to 2^53 - 1.
 */
export function writeVector(fd: number, vector: IovecTable, position: number): number {
  checkPosition(position);
  for (;;) {
    const bytes = libc().pwritev2(fd, vector.address, vector.count, position, 0);
    if (bytes >= 0) return bytes;
    const errno = lastErrno();
    if (errno !== 'EINTR') throw new ErrnoError(errno, `writing ${vector.byteLength} bytes at ${position}`);
  }
}

/** To the kernel, position -1 means the file's own and moves it. */
function checkPosition(position: number): void {
  if (!(Number.isSafeInteger(position) && position >= 0)) throw new RangeError(`${position} is not a file position`);
}
