import { readFileSync } from 'node:fs';
import { ErrnoError } from '@pvkit/ring';
import { describe, expect, it } from 'vitest';
import { errnoName, errnoOf, wrapErrno } from './errno.ts';

const thrown = (action: () => unknown): unknown => {
  try {
    action();
  } catch (error) {
    return error;
  }
  return undefined;
};

describe('errno names', () => {
  // Numbers of include/uapi/asm-generic/errno.h.
  it.runIf(process.platform === 'linux')('are those of Linux', () => {
    const numbers = [1, 2, 3, 4, 5, 11, 12, 13, 14, 17, 19, 22, 27, 28, 38, 95, 107];
    expect(numbers.map(errnoName)).toEqual(
      'EPERM ENOENT ESRCH EINTR EIO EAGAIN ENOMEM EACCES EFAULT EEXIST ENODEV EINVAL EFBIG ENOSPC ENOSYS EOPNOTSUPP ENOTCONN'.split(
        ' ',
      ),
    );
  });

  it('show the number of one without a name', () => {
    expect(errnoName(4095)).toBe('errno 4095');
  });

  it("come out of Node's errors, and only out of those", () => {
    const missing = thrown(() => readFileSync('/no/such/file'));
    expect(errnoOf(missing)).toBe('ENOENT');
    const wrapped = wrapErrno(missing, 'reading a file', { domid: 3 }, 'it is not there');
    expect(wrapped).toBeInstanceOf(ErrnoError);
    expect(wrapped).toMatchObject({
      errno: 'ENOENT',
      message: 'domain 3: reading a file: ENOENT (it is not there)',
    });
    const argument = thrown(() => Buffer.alloc(-1));
    expect(errnoOf(argument)).toBeUndefined();
    expect(wrapErrno(argument, 'x')).toBe(argument);
    expect(errnoOf('text')).toBeUndefined();
  });
});
