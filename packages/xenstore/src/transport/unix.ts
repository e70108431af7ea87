/**
 * xenstore over a unix socket, as the tools of dom0 speak it. Node can't ask who is at the other end (`SO_PEERCRED`), so
 * whoever may open the socket is domain 0: the socket file has mode 0600.
 */
import { chmodSync, lstatSync, rmSync, statSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { isMainThread } from 'node:worker_threads';
import { ConfigurationError, ErrnoError, type MessageTransport, type TransportHandlers } from '@pvkit/ring';

/** Where Debian's tools look for the daemon unless `XENSTORED_PATH` says otherwise. */
export const DEFAULT_SOCKET_PATH = '/run/xenstored/socket';

/**
 * Connects to a xenstored's socket.
 * @throws ErrnoError whose message says what to do: `ENOENT`, `ECONNREFUSED`, `EACCES`, …
 */
export function connectUnix(path: string = DEFAULT_SOCKET_PATH): Promise<MessageTransport> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path });
    const failed = (error: Error) => reject(socketError(error, 'connect to xenstored', path));
    socket.once('error', failed);
    socket.once('connect', () => {
      socket.off('error', failed);
      resolve(new SocketTransport(socket));
    });
  });
}

export interface UnixListener extends AsyncDisposable {
  readonly path: string;
  /** Stops listening and removes the socket file; connections go on. Idempotent. */
  close(): Promise<void>;
}

/**
 * Listens on a socket file of mode 0600. A file left behind by a daemon that is gone is replaced.
 * @throws ConfigurationError when the path is in use, is no socket, or can't be created.
 */
export async function listenUnix(
  path: string,
  onConnection: (transport: MessageTransport) => void,
): Promise<UnixListener> {
  await removeStaleSocket(path);
  const server = createServer({ pauseOnConnect: true }, (socket) => onConnection(new SocketTransport(socket)));
  await listen(server, path);
  let closing: Promise<void> | undefined;
  const close = () => {
    // Node removes the socket file itself. Waiting for 'close' would wait for the connections.
    closing ??= Promise.resolve(void server.close());
    return closing;
  };
  return { path, close, [Symbol.asyncDispose]: close };
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error) => reject(configurationError(error, path)));
    const listening = () => {
      chmodSync(path, 0o600);
      resolve();
    };
    if (!isMainThread) {
      // A worker may not set the mask; chmod follows at once.
      server.listen({ path }, listening);
      return;
    }
    // The file is born with the mode that the mask leaves, so there is no moment in which others could connect.
    const mask = process.umask(0o177);
    try {
      server.listen({ path }, listening);
    } finally {
      process.umask(mask);
    }
  });
}

/** `sizeof(sun_path)` less the NUL (unix(7)). */
const SOCKET_PATH_MAX = 107;

async function removeStaleSocket(path: string): Promise<void> {
  if (Buffer.byteLength(path) > SOCKET_PATH_MAX)
    throw new ConfigurationError(`cannot listen on ${path}: a socket's path has at most ${SOCKET_PATH_MAX} bytes`);
  // Asked first, because binding a socket reports a missing directory as a missing permission.
  if (!statSync(dirname(path), { throwIfNoEntry: false })?.isDirectory())
    throw new ConfigurationError(`cannot listen on ${path}: there is no directory ${dirname(path)}`);
  const file = lstatSync(path, { throwIfNoEntry: false });
  if (file === undefined) return;
  if (!file.isSocket()) throw new ConfigurationError(`${path} exists and is not a socket`);
  if (await somebodyListens(path)) throw new ConfigurationError(`${path} is in use: another xenstored listens there`);
  rmSync(path, { force: true });
}

function somebodyListens(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const probe = connect({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', (error) => {
      const code = errnoOf(error);
      if (code === 'ECONNREFUSED' || code === 'ENOENT') resolve(false);
      else reject(configurationError(error, path));
    });
  });
}

const errnoOf = (error: Error): string => ('code' in error && typeof error.code === 'string' ? error.code : 'EIO');

function configurationError(error: Error, path: string): ConfigurationError {
  const code = errnoOf(error);
  switch (code) {
    case 'EADDRINUSE':
      return new ConfigurationError(`${path} is in use: another xenstored listens there`);
    case 'EACCES':
    case 'EPERM':
      return new ConfigurationError(`cannot listen on ${path}: no permission to create it in ${dirname(path)}`);
    default:
      return new ConfigurationError(`cannot listen on ${path}: ${code}`);
  }
}

function socketError(error: Error, action: string, path: string): ErrnoError {
  const code = errnoOf(error);
  const hints: Readonly<Record<string, string>> = {
    ENOENT: 'there is no such socket: is xenstored running?',
    ECONNREFUSED: 'nobody listens there: is xenstored running?',
    EACCES: 'no permission: xenstored serves its own user only',
  };
  return new ErrnoError(code, `${action} at ${path}`, {}, hints[code]);
}

const FLUSH_AT = 64 * 1024;

/** Gathers what is sent within one turn into one write. */
class SocketTransport implements MessageTransport {
  readonly #socket: Socket;
  #handlers: TransportHandlers | undefined;
  #out = Buffer.allocUnsafeSlow(FLUSH_AT);
  #outLength = 0;
  #flushScheduled = false;
  #closed = false;
  readonly #flush = () => {
    this.#flushScheduled = false;
    this.#write();
  };
  readonly #written = () => {
    if (!this.#closed && this.bufferedBytes === 0) this.#handlers?.drained?.();
  };

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.pause();
    // An error before start() must not become an uncaught one.
    socket.on('error', (error) => this.#ended(new ErrnoError(errnoOf(error), 'xenstore connection')));
    socket.on('close', () => this.#ended());
    socket.on('data', (chunk) => this.#handlers?.data(chunk));
    socket.pause();
  }

  get bufferedBytes(): number {
    return this.#outLength + this.#socket.writableLength;
  }

  send(message: Uint8Array): void {
    if (this.#closed) return;
    if (this.#outLength + message.length > this.#out.length) this.#write();
    if (message.length > this.#out.length) {
      this.#socket.write(Uint8Array.from(message), this.#written);
      return;
    }
    this.#out.set(message, this.#outLength);
    this.#outLength += message.length;
    if (this.#flushScheduled) return;
    this.#flushScheduled = true;
    queueMicrotask(this.#flush);
  }

  start(handlers: TransportHandlers): void {
    this.#handlers = handlers;
    if (this.#closed) queueMicrotask(() => handlers.closed());
    else this.#socket.resume();
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    if (!this.#closed) this.#socket.resume();
  }

  close(): void {
    if (this.#closed) return;
    // Replies of this turn still go out, as far as the kernel takes them.
    this.#write();
    this.#closed = true;
    this.#socket.destroy();
  }

  #write(): void {
    if (this.#outLength === 0 || this.#closed) return;
    const bytes = this.#out.subarray(0, this.#outLength);
    this.#outLength = 0;
    this.#socket.write(bytes, this.#written);
    // A write that the kernel took at once no longer needs its buffer; another one keeps it.
    if (this.#socket.writableLength > 0) this.#out = Buffer.allocUnsafeSlow(FLUSH_AT);
  }

  #ended(reason?: Error): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#socket.destroy();
    this.#handlers?.closed(reason);
  }
}
