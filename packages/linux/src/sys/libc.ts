/**
 * The few C library calls that Node lacks, by koffi. They are looked up in this process at the first use, so that
 * importing the package needs neither Linux nor Xen.
 *
 * Arguments that point to memory are addresses as numbers: user addresses are below 2^47, and a number costs neither an
 * allocation nor a look-up a call. Whoever passes one keeps the buffer behind it alive.
 */
import { ErrnoError, type ErrorContext } from '@pvkit/ring';
import koffi from 'koffi';
import { errnoName } from './errno.ts';

/** The calls. Each returns what its manual page says, -1 on failure; {@link lastErrno} then tells why. */
export interface Libc {
  readonly ioctl: (fd: number, request: number, argument: number) => number;
  readonly read: (fd: number, buffer: number, length: number) => number;
  readonly write: (fd: number, buffer: number, length: number) => number;
  readonly preadv2: (fd: number, iovec: number, count: number, offset: number, flags: number) => number;
  readonly pwritev2: (fd: number, iovec: number, count: number, offset: number, flags: number) => number;
  /** Returns `MAP_FAILED` as a bigint, for it is above 2^53. */
  readonly mmap: (
    address: number,
    length: number,
    protection: number,
    flags: number,
    fd: number,
    offset: number,
  ) => number | bigint;
}

export const PROT_READ = 1;
export const PROT_WRITE = 2;
export const MAP_SHARED = 0x01;
export const MAP_PRIVATE = 0x02;
export const MAP_FIXED = 0x10;
export const MAP_ANONYMOUS = 0x20;
export const MAP_NORESERVE = 0x4000;
export const MAP_FIXED_NOREPLACE = 0x10_0000;
/** `preadv2` flag: fail with `EAGAIN` instead of waiting for the device. */
export const RWF_NOWAIT = 0x8;

let loaded: Libc | undefined;

/** The C library. @throws ErrnoError `ENOSYS` on a machine that is not Linux. */
export function libc(): Libc {
  loaded ??= load();
  return loaded;
}

function load(): Libc {
  if (process.platform !== 'linux')
    throw new ErrnoError('ENOSYS', `native calls on ${process.platform}`, {}, 'Linux only');
  const self = koffi.load(null);
  const file = ['int', 'uintptr_t', 'size_t'];
  const vector = ['int', 'uintptr_t', 'int', 'int64_t', 'int'];
  return {
    ioctl: self.func('ioctl', 'int', ['int', 'ulong', 'uintptr_t']),
    read: self.func('read', 'int64_t', file),
    write: self.func('write', 'int64_t', file),
    preadv2: self.func('preadv2', 'int64_t', vector),
    pwritev2: self.func('pwritev2', 'int64_t', vector),
    mmap: self.func('mmap', 'uintptr_t', ['uintptr_t', 'size_t', 'int', 'int', 'int', 'int64_t']),
  };
}

/** Name of the errno that the last call of this thread left. */
export const lastErrno = (): string => errnoName(koffi.errno());

/** The last call's failure as an error. */
export function lastError(action: string, context?: ErrorContext, hint?: string): ErrnoError {
  return new ErrnoError(lastErrno(), action, context, hint);
}

/** Address of a buffer's first byte. It stays the same for as long as the buffer lives and is not transferred. */
export function addressOf(buffer: ArrayBufferLike): number {
  // A view, because koffi takes no bare SharedArrayBuffer.
  return Number(koffi.address(new Uint8Array(buffer)));
}

/** The longest buffer that {@link viewOf} makes: koffi ends the process for one that the engine refuses. */
export const MAX_VIEW = 2 ** 32 - 4096;

/**
 * The memory at `address` as a buffer of at most {@link MAX_VIEW} bytes. It must stay mapped for as long as any view of
 * the buffer may be touched.
 */
export const viewOf = (address: number, byteLength: number): ArrayBuffer => koffi.view(address, byteLength);
