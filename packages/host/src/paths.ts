/** Where the store's socket is. */
import { existsSync, lstatSync, mkdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ConfigurationError, type MessageTransport } from '@pvkit/ring';
import { connectUnix, DEFAULT_SOCKET_PATH } from '@pvkit/xenstore/unix';

/** Directory of a user's own sockets and demo images; made when missing, closed to others. */
export function runtimeDirectory(): string {
  const base = process.env.XDG_RUNTIME_DIR;
  const path =
    base === undefined || base === '' ? join(tmpdir(), `pvkit-${process.getuid?.() ?? 0}`) : join(base, 'pvkit');
  mkdirSync(path, { recursive: true, mode: 0o700 });
  // In a directory that all may write, somebody else may have been there first.
  const found = lstatSync(path);
  const own = process.getuid === undefined || found.uid === process.getuid();
  if (!found.isDirectory() || !own || (found.mode & 0o022) !== 0)
    throw new ConfigurationError(`${path} is not a directory that only this user can write; remove it`);
  return path;
}

/** Where a loopback host of this user listens. */
export const loopbackSocket = (): string => join(runtimeDirectory(), 'xenstored.socket');

/** The transport that a client command means: the socket given, `XENSTORED_PATH`, this machine's store, a loopback host's. */
export async function connectStore(given: string | undefined): Promise<MessageTransport> {
  const { XENSTORED_PATH } = process.env;
  if (given !== undefined) return connectUnix(given);
  if (XENSTORED_PATH !== undefined && XENSTORED_PATH !== '') return connectUnix(XENSTORED_PATH);
  if (existsSync(DEFAULT_SOCKET_PATH)) return connectUnix(DEFAULT_SOCKET_PATH);
  // A domain without a xenstored of its own, a driver domain for example, has the kernel's device.
  if (existsSync('/dev/xen/xenbus')) return (await import('@pvkit/linux')).openXenbusTransport();
  return connectUnix(loopbackSocket());
}
