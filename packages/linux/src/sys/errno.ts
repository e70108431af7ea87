/** Names of errno values, and errors made of them. */
import { constants } from 'node:os';
import { ErrnoError, type ErrorContext } from '@pvkit/ring';

/** Second names of a value that the table below leaves out, so that each value reads as Linux's manual pages name it. */
const ALIASES = new Set(['EWOULDBLOCK', 'ENOTSUP']);

const names = new Map<number, string>();
for (const [name, value] of Object.entries(constants.errno)) if (!ALIASES.has(name)) names.set(value, name);

/** Name of an errno value of this machine; one without a name reads as `errno <value>`. */
export const errnoName = (value: number): string => names.get(value) ?? `errno ${value}`;

/** The errno name in an error that Node threw, or undefined when it is some other error. */
export function errnoOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('errno' in error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/** Turns an error of Node's `fs` into one of the family; leaves others as they are. */
export function wrapErrno(error: unknown, action: string, context?: ErrorContext, hint?: string): unknown {
  const errno = errnoOf(error);
  return errno === undefined ? error : new ErrnoError(errno, action, context, hint);
}
