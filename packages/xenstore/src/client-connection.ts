/** The client's end of a connection: requests and their replies, and which event is for which watch. */
import { type ErrorContext, type MessageTransport, ProtocolError, type Runtime } from '@pvkit/ring';
import { XenstoreError } from './errors.ts';
import type { Requester } from './node-operations.ts';
import { isWatchPath } from './path.ts';
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

interface PendingRequest {
  readonly type: number;
  readonly path: string | undefined;
  resolve(payload: Uint8Array): void;
  reject(error: Error): void;
}

export interface Watcher {
  deliver(path: string): void;
  /** No more events will come; without an error the client itself was closed. */
  end(error: XenstoreError | undefined): void;
}

/** Path and token of a watch must come back in one event. */
const TOKEN_MAX = 512;

export class ClientConnection implements Requester {
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
