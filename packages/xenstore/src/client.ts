/**
 * A pipelined xenstore client over any {@link MessageTransport}: requests go out at once and replies are matched by
 * `req_id`, in whatever order they come.
 */
import { type ErrorContext, type MessageTransport, ProtocolError, type Runtime } from '@pvkit/ring';
import { XenstoreError } from './errors.ts';
import { NodeOperations, type Requester } from './node-operations.ts';
import { isWatchPath } from './path.ts';
import { XenstoreWatch } from './watch.ts';
import {
  copyBytes,
  isXsdError,
  operationName,
  type Packet,
  PacketParser,
  PacketWriter,
  payloadStrings,
  readLatin1,
  XENSTORE_PAYLOAD_MAX,
  XsdSockmsgType,
} from './wire.ts';

export interface WatchOptions {
  /** Printable ASCII that events carry; made up when absent. One (path, token) pair can be watched once. */
  readonly token?: string;
  /** Levels below the path to see; all when absent. Needs a server newer than Xen 4.17. */
  readonly depth?: number;
}

export interface TransactionOptions {
  /** Times to try before `EAGAIN` is given up on; default 32. */
  readonly attempts?: number;
}

/** A watch that calls back. */
export interface WatchHandle extends AsyncDisposable {
  readonly path: string;
  /** Removes the watch; no call follows. Idempotent; never fails. */
  close(): Promise<void>;
}

/** The operations within one transaction; unusable after its end. */
export type XenstoreTransaction = NodeOperations;

interface PendingRequest {
  readonly type: number;
  readonly path: string | undefined;
  resolve(payload: Uint8Array): void;
  reject(error: Error): void;
}

interface Watcher {
  deliver(path: string): void;
  /** No more events will come; without an error the client itself was closed. */
  end(error: XenstoreError | undefined): void;
}

const TRANSACTION_ATTEMPTS = 32;
/** Milliseconds that the pause between two attempts grows to. */
const TRANSACTION_PAUSE_MAX = 64;
/** WATCH and UNWATCH need their path and token to come back in one event. */
const TOKEN_MAX = 512;

export class XenstoreClient extends NodeOperations implements AsyncDisposable {
  readonly #connection: ClientConnection;

  /** Takes the transport over and starts it. `context` is added to errors. */
  constructor(transport: MessageTransport, runtime: Runtime, context: ErrorContext = {}) {
    const connection = new ClientConnection(transport, runtime, context);
    super(connection, 0);
    this.#connection = connection;
  }

  get isClosed(): boolean {
    return this.#connection.isClosed;
  }

  /** Resolves when the connection has ended, with the reason unless `close()` ended it. */
  get closed(): Promise<XenstoreError | undefined> {
    return this.#connection.closed;
  }

  /**
   * Registers a watch; its first event comes at once.
   * @throws XenstoreError `EEXIST` for a (path, token) watched already, `ENOSPC` when the quota is used up
   */
  async watch(path: string, options: WatchOptions = {}): Promise<XenstoreWatch> {
    const token = options.token ?? this.#connection.newToken();
    const watch = new XenstoreWatch(path, token, () => this.#connection.unwatch(path, token));
    await this.#connection.watch(path, token, options.depth, watch);
    return watch;
  }

  /**
   * Registers a watch that calls `look` with a path to look at: once at first, then whenever something may have changed.
   * What `look` throws is observed (`xenstore.watch-callback-failed`).
   */
  async watchCallback(path: string, look: (path: string) => void, options: WatchOptions = {}): Promise<WatchHandle> {
    const connection = this.#connection;
    const token = options.token ?? connection.newToken();
    let open = true;
    await connection.watch(path, token, options.depth, {
      deliver: (eventPath) => {
        if (open) connection.guard('xenstore.watch-callback-failed', path, () => look(eventPath));
      },
      end: () => {
        open = false;
      },
    });
    let closing: Promise<void> | undefined;
    const close = () => {
      closing ??= open ? connection.unwatch(path, token) : Promise.resolve();
      open = false;
      return closing;
    };
    return { path, close, [Symbol.asyncDispose]: close };
  }

  /**
   * Runs `body` in a transaction and commits it. When another client changed what the transaction read, `body` runs
   * again after a pause with jitter, so it must have no other effects. When `body` throws, the transaction is aborted.
   * @throws XenstoreError `EAGAIN` when every attempt met a conflict
   */
  async transaction<T>(body: (tx: XenstoreTransaction) => Promise<T>, options: TransactionOptions = {}): Promise<T> {
    const attempts = options.attempts ?? TRANSACTION_ATTEMPTS;
    for (let attempt = 1; ; attempt++) {
      const outcome = await this.#attempt(body);
      if (outcome.committed) return outcome.result;
      if (attempt >= attempts)
        throw new XenstoreError(
          'EAGAIN',
          'TRANSACTION_END',
          undefined,
          this.#connection.context,
          `${attempt} attempts`,
        );
      await this.#pause(Math.random() * Math.min(2 ** attempt, TRANSACTION_PAUSE_MAX));
    }
  }

  /** A domain's base path. */
  async getDomainPath(domid: number): Promise<string> {
    return stringOf(await this.#connection.send(XsdSockmsgType.XS_GET_DOMAIN_PATH, [String(domid)]));
  }

  async isDomainIntroduced(domid: number): Promise<boolean> {
    return stringOf(await this.#connection.send(XsdSockmsgType.XS_IS_DOMAIN_INTRODUCED, [String(domid)])) === 'T';
  }

  /** Tells the server of a new domain: frame number of its xenstore page, and its event channel port. Privileged. */
  async introduce(domid: number, gfn: number, port: number): Promise<void> {
    await this.#connection.send(XsdSockmsgType.XS_INTRODUCE, [String(domid), String(gfn), String(port)]);
  }

  /** Ends the server's connection to a domain and removes what the domain owned. Privileged. */
  async release(domid: number): Promise<void> {
    await this.#connection.send(XsdSockmsgType.XS_RELEASE, [String(domid)]);
  }

  /** Lets `@releaseDomain` fire again when a resumed domain shuts down. Privileged. */
  async resume(domid: number): Promise<void> {
    await this.#connection.send(XsdSockmsgType.XS_RESUME, [String(domid)]);
  }

  /** Gives `domid` all that `target` may do. Privileged. */
  async setTarget(domid: number, target: number): Promise<void> {
    await this.#connection.send(XsdSockmsgType.XS_SET_TARGET, [String(domid), String(target)]);
  }

  /** Drops all watches and transactions of this connection; open watches of this client get no more events. */
  async resetWatches(): Promise<void> {
    await this.#connection.send(XsdSockmsgType.XS_RESET_WATCHES, ['']);
  }

  /** Runs a control command of the server and returns what it prints. Privileged. */
  async control(command: string, ...parameters: string[]): Promise<string> {
    return stringOf(await this.#connection.send(XsdSockmsgType.XS_CONTROL, [command, ...parameters]));
  }

  /** Ends the connection; what is outstanding fails, open watches end. Idempotent. */
  close(): Promise<void> {
    this.#connection.close();
    return Promise.resolve();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #attempt<T>(
    body: (tx: XenstoreTransaction) => Promise<T>,
  ): Promise<{ committed: true; result: T } | { committed: false }> {
    const id = Number(stringOf(await this.#connection.send(XsdSockmsgType.XS_TRANSACTION_START, [''])));
    let result: T;
    try {
      result = await body(new NodeOperations(this.#connection, id));
    } catch (error) {
      await this.#connection.request(XsdSockmsgType.XS_TRANSACTION_END, id, undefined, ['F']).catch(() => undefined);
      throw error;
    }
    try {
      await this.#connection.request(XsdSockmsgType.XS_TRANSACTION_END, id, undefined, ['T']);
      return { committed: true, result };
    } catch (error) {
      if (error instanceof XenstoreError && error.errno === 'EAGAIN') return { committed: false };
      throw error;
    }
  }

  #pause(milliseconds: number): Promise<void> {
    return new Promise((resolve) => void this.#connection.runtime.timer(milliseconds, resolve));
  }
}

/** Requests and replies, and the table of watches. */
class ClientConnection implements Requester {
  readonly runtime: Runtime;
  readonly context: ErrorContext;
  readonly closed: Promise<XenstoreError | undefined>;
  readonly #transport: MessageTransport;
  readonly #parser = new PacketParser();
  readonly #writer = new PacketWriter();
  readonly #pending = new Map<number, PendingRequest>();
  readonly #watchers = new Map<string, Watcher>();
  #nextRequest = 1;
  #nextToken = 1;
  #closed = false;
  #resolveClosed: (reason: XenstoreError | undefined) => void = () => undefined;

  constructor(transport: MessageTransport, runtime: Runtime, context: ErrorContext) {
    this.#transport = transport;
    this.runtime = runtime;
    this.context = context;
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    transport.start({
      data: (chunk) => this.#receive(chunk),
      closed: (reason) => this.#end(new XenstoreError('ECONNRESET', 'connection', undefined, context, reason?.message)),
    });
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  newToken(): string {
    return `t${this.#nextToken++}`;
  }

  request(type: number, txId: number, path: string | undefined, text: readonly string[], data?: Uint8Array) {
    return new Promise<Uint8Array>((resolve, reject) => {
      if (this.#closed) {
        reject(this.#error('ENOTCONN', type, path));
        return;
      }
      const reqId = this.#unusedRequestId();
      const writer = this.#writer;
      writer.clear();
      writer.begin(type, reqId, txId);
      for (const string of text) writer.string(string);
      if (data !== undefined) writer.data(data);
      if (writer.end() > XENSTORE_PAYLOAD_MAX) {
        reject(this.#error('E2BIG', type, path));
        return;
      }
      this.#pending.set(reqId, { type, path, resolve, reject });
      this.#transport.send(writer.bytes);
    });
  }

  /** A request outside transactions whose strings are not paths. */
  send(type: number, text: readonly string[]): Promise<Uint8Array> {
    for (const string of text) if (!isWireText(string)) return Promise.reject(this.#error('EINVAL', type, undefined));
    return this.request(type, 0, undefined, text);
  }

  async watch(path: string, token: string, depth: number | undefined, watcher: Watcher): Promise<void> {
    const type = XsdSockmsgType.XS_WATCH;
    if (!isWatchPath(path) || !/^[ -~]*$/.test(token) || token.length > TOKEN_MAX)
      throw this.#error('EINVAL', type, path);
    const key = watchKey(path, token);
    if (this.#watchers.has(key)) throw this.#error('EEXIST', type, path);
    // Before the reply: events may come with it.
    this.#watchers.set(key, watcher);
    try {
      await this.request(type, 0, path, depth === undefined ? [path, token] : [path, token, String(depth)]);
    } catch (error) {
      this.#watchers.delete(key);
      throw error;
    }
  }

  /** Never fails: a watch that the server no longer has, or a lost connection, is as good. */
  async unwatch(path: string, token: string): Promise<void> {
    const key = watchKey(path, token);
    await this.request(XsdSockmsgType.XS_UNWATCH, 0, path, [path, token]).catch(() => undefined);
    this.#watchers.delete(key);
  }

  guard(event: string, path: string, action: () => void): void {
    try {
      action();
    } catch (error) {
      this.runtime.observe?.(event, { ...this.context, path, error });
    }
  }

  close(): void {
    this.#end(undefined);
  }

  #unusedRequestId(): number {
    while (this.#pending.has(this.#nextRequest)) this.#nextRequest = (this.#nextRequest + 1) >>> 0;
    const id = this.#nextRequest;
    this.#nextRequest = (this.#nextRequest + 1) >>> 0;
    return id;
  }

  #receive(chunk: Uint8Array): void {
    this.#parser.push(chunk);
    while (!this.#closed) {
      switch (this.#parser.next()) {
        case 'packet':
          this.#handle(this.#parser.packet);
          break;
        case 'incomplete':
          return;
        case 'too-long':
          this.#end(
            new XenstoreError(
              'EIO',
              'connection',
              undefined,
              this.context,
              'the server sent a payload above the limit',
            ),
          );
          return;
      }
    }
  }

  #handle(packet: Packet): void {
    if (packet.type === XsdSockmsgType.XS_WATCH_EVENT) {
      this.#handleEvent(packet);
      return;
    }
    const request = this.#pending.get(packet.reqId);
    if (request === undefined) {
      this.runtime.observe?.('xenstore.unexpected-reply', { ...this.context, type: packet.type, reqId: packet.reqId });
      return;
    }
    this.#pending.delete(packet.reqId);
    if (packet.type === request.type) request.resolve(copyBytes(packet.bytes, packet.start, packet.end));
    else if (packet.type === XsdSockmsgType.XS_ERROR) {
      const errno = payloadStrings(packet, 1)[0] ?? readLatin1(packet.bytes, packet.start, packet.end);
      request.reject(this.#error(isXsdError(errno) ? errno : 'EIO', request.type, request.path));
    } else
      request.reject(
        new ProtocolError(
          `xenstore ${operationName(request.type)} was answered by ${operationName(packet.type)}`,
          this.context,
        ),
      );
  }

  #handleEvent(packet: Packet): void {
    const [path, token] = payloadStrings(packet, 2);
    if (path === undefined || token === undefined) return;
    // The event does not say which watch it is for: all with its token on the path or above it look again.
    for (let above = path; above !== ''; ) {
      this.#watchers.get(watchKey(above, token))?.deliver(path);
      if (above === '/') return;
      const slash = above.lastIndexOf('/');
      above = slash > 0 ? above.slice(0, slash) : slash === 0 ? '/' : '';
    }
  }

  #end(reason: XenstoreError | undefined): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#transport.close();
    for (const request of this.#pending.values())
      request.reject(this.#error('ECONNRESET', request.type, request.path, reason?.message));
    this.#pending.clear();
    const watchers = [...this.#watchers.values()];
    this.#watchers.clear();
    for (const watcher of watchers) watcher.end(reason);
    this.#resolveClosed(reason);
  }

  #error(errno: string, type: number, path: string | undefined, hint?: string): XenstoreError {
    return new XenstoreError(errno, operationName(type), path, this.context, hint);
  }
}

const watchKey = (path: string, token: string): string => `${path}\0${token}`;

/** Can `text` be sent as one NUL-terminated string, a byte a character? RESET_WATCHES and the like send an empty one. */
function isWireText(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === 0 || code > 0xff) return false;
  }
  return true;
}

/** A reply's string without its NUL. */
const stringOf = (bytes: Uint8Array): string => readLatin1(bytes, 0, bytes.length).replace(/\0$/, '');
