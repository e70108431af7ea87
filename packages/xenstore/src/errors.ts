import { ErrnoError, type ErrorContext } from '@pvkit/ring';

/**
 * A xenstore operation that failed. `errno` is what the server said (`ENOENT`, `EACCES`, `EAGAIN`, `ENOSPC`, …), or
 * `ENOTCONN` for a request on a closed client, `ECONNRESET` for one that was under way when the connection was lost.
 */
export class XenstoreError extends ErrnoError {
  /** Name of the operation, for example `READ`. */
  readonly operation: string;
  /** The path it was about, where it has one. */
  readonly path: string | undefined;

  constructor(errno: string, operation: string, path?: string, context: ErrorContext = {}, hint?: string) {
    super(errno, path === undefined ? `xenstore ${operation}` : `xenstore ${operation} ${path}`, context, hint);
    this.operation = operation;
    this.path = path;
  }
}
