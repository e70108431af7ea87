/**
 * A pipelined xenstore client over any {@link MessageTransport}: requests go out at once and replies are matched by
 * `req_id`, in whatever order they come.
 */
import { type ErrorContext, type MessageTransport, ProtocolError, type Runtime } from '@pvkit/ring';
import { ClientConnection } from './client-connection.ts';
import { XenstoreError } from './errors.ts';
import { NodeOperations } from './node-operations.ts';
import { XenstoreWatch } from './watch.ts';
import { readLatin1, XsdSockmsgType } from './wire.ts';

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

const TRANSACTION_ATTEMPTS = 32;
/** Milliseconds that the pause between two attempts grows to. */
const TRANSACTION_PAUSE_MAX = 64;
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
    const text = stringOf(await this.#connection.send(XsdSockmsgType.XS_TRANSACTION_START, ['']));
    const id = Number(text);
    // 0 would mean "outside transactions".
    if (!/^\d+$/.test(text) || id < 1 || id > 0xffff_ffff)
      throw new ProtocolError(`xenstore gave a transaction the id '${text}'`, this.#connection.context);
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

/** A reply's string without its NUL. */
const stringOf = (bytes: Uint8Array): string => readLatin1(bytes, 0, bytes.length).replace(/\0$/, '');
