/** Where the store's socket is. */
import { existsSync, mkdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DEFAULT_SOCKET_PATH } from '@pvkit/xenstore/unix';

/** Directory of a user's own sockets and demo images; made when missing, closed to others. */
export function runtimeDirectory(): string {
  const base = process.env.XDG_RUNTIME_DIR;
  const path =
    base === undefined || base === '' ? join(tmpdir(), `pvkit-${process.getuid?.() ?? 0}`) : join(base, 'pvkit');
  mkdirSync(path, { recursive: true, mode: 0o700 });
  return path;
}

/** Where a loopback host of this user listens. */
export const loopbackSocket = (): string => join(runtimeDirectory(), 'xenstored.socket');

/** The socket that a client command means: the one given, `XENSTORED_PATH`, this machine's daemon, a loopback host's. */
export function clientSocket(given: string | undefined): string {
  if (given !== undefined) return given;
  const { XENSTORED_PATH } = process.env;
  if (XENSTORED_PATH !== undefined && XENSTORED_PATH !== '') return XENSTORED_PATH;
  return existsSync(DEFAULT_SOCKET_PATH) ? DEFAULT_SOCKET_PATH : loopbackSocket();
}
