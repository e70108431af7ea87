/**
 * xenstore over a domain's shared page: `struct xenstore_domain_interface` (`xs_wire.h`, `docs/misc/xenstore-ring.txt`),
 * two 1024-byte rings with free-running 32-bit indices. Each end keeps private copies of the indices that it owns and
 * checks those of the other; data is copied out once. The event channel is signalled whenever an index moved.
 */
import {
  type EventChannels,
  type EventPort,
  type MessageTransport,
  ProtocolError,
  type Runtime,
  type SharedPages,
  type TransportHandlers,
} from '@pvkit/ring';

export const XENSTORE_RING_SIZE = 1024;

/** Byte offsets in the page. */
export const XenstoreDomainInterface = {
  req: 0,
  rsp: 1024,
  req_cons: 2048,
  req_prod: 2052,
  rsp_cons: 2056,
  rsp_prod: 2060,
  server_features: 2064,
  connection: 2068,
  error: 2072,
} as const;

/** Bits of `server_features`; the third is newer than Xen 4.17 (`docs/misc/xenstore-ring.txt`). */
export const XENSTORE_SERVER_FEATURE_RECONNECTION = 1;
export const XENSTORE_SERVER_FEATURE_ERROR = 2;
export const XENSTORE_SERVER_FEATURE_WATCHDEPTH = 4;

/** Values of `connection`. */
export const XENSTORE_CONNECTED = 0;
export const XENSTORE_RECONNECT = 1;

/** Values of `error`. */
export const XENSTORE_ERROR_NONE = 0;
export const XENSTORE_ERROR_COMM = 1;
export const XENSTORE_ERROR_RINGIDX = 2;
export const XENSTORE_ERROR_PROTO = 3;
export type XenstoreRingError =
  | typeof XENSTORE_ERROR_NONE
  | typeof XENSTORE_ERROR_COMM
  | typeof XENSTORE_ERROR_RINGIDX
  | typeof XENSTORE_ERROR_PROTO;

/** Which end of the page this is: the domain produces requests, the server responses. */
export type RingRole = 'domain' | 'server';

export interface RingTransportOptions {
  readonly role: RingRole;
  /** The shared page. */
  readonly pages: SharedPages;
  readonly events: EventChannels;
  /** Bound to the other end's port. Closed by `close()`. */
  readonly port: EventPort;
  readonly runtime: Runtime;
  /** Called once when the transport is closed and no longer touches the page: gives it back. */
  readonly release?: () => void;
}

/** Ringfuls handled before other work gets its turn. */
const ROUNDS_PER_TURN = 8;

export class RingTransport implements MessageTransport {
  readonly #role: RingRole;
  readonly #pages: SharedPages;
  readonly #events: EventChannels;
  readonly #port: EventPort;
  readonly #runtime: Runtime;
  readonly #release: (() => void) | undefined;
  // Where we read and write, and the indices of each direction.
  readonly #input: RingOffsets;
  readonly #output: RingOffsets;
  /** Our own indices; the page's copies are written and never read back. */
  #consumed: number;
  #produced: number;
  readonly #scratch = new Uint8Array(XENSTORE_RING_SIZE);
  /** Bytes waiting for room in the ring: `#pending` from `#pendingStart` to `#pendingEnd`. */
  #pending = new Uint8Array(2 * XENSTORE_RING_SIZE);
  #pendingStart = 0;
  #pendingEnd = 0;
  #handlers: TransportHandlers | undefined;
  #paused = false;
  #closed = false;
  #running = false;
  /** Bytes had to wait: `drained` is owed. */
  #backlogged = false;

  /** Attaches to the page as it is: indices need not start at zero. */
  constructor(options: RingTransportOptions) {
    this.#role = options.role;
    this.#pages = options.pages;
    this.#events = options.events;
    this.#port = options.port;
    this.#runtime = options.runtime;
    this.#release = options.release;
    const server = options.role === 'server';
    this.#input = server ? requests : responses;
    this.#output = server ? responses : requests;
    this.#consumed = this.#pages.load32(this.#input.consumer);
    this.#produced = this.#pages.load32(this.#output.producer);
    if (!server) return;
    this.#pages.store32(XenstoreDomainInterface.server_features, XENSTORE_SERVER_FEATURE_ERROR);
    this.#pages.store32(XenstoreDomainInterface.error, XENSTORE_ERROR_NONE);
    // Somebody else may have marked the page as waiting for a server (dom0less guests).
    if (this.#pages.load32(XenstoreDomainInterface.connection) === XENSTORE_RECONNECT)
      this.#pages.store32(XenstoreDomainInterface.connection, XENSTORE_CONNECTED);
  }

  get bufferedBytes(): number {
    return this.#pendingEnd - this.#pendingStart;
  }

  start(handlers: TransportHandlers): void {
    if (this.#closed) return;
    this.#handlers = handlers;
    this.#events.listen(this.#port, () => this.#onEvent());
    this.#events.notify(this.#port);
    this.#runtime.nextTurn(() => this.#run());
  }

  send(message: Uint8Array): void {
    if (this.#closed) return;
    // With bytes waiting, or within a handler, the event loop's round takes these along.
    const now = this.bufferedBytes === 0 && !this.#running;
    this.#append(message);
    if (now && this.#produce()) this.#events.notify(this.#port);
    if (this.bufferedBytes > 0) this.#backlogged = true;
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#runtime.nextTurn(() => this.#run());
  }

  /** For the server: says in the page why it stops (`error`), before `close()`. */
  setError(error: XenstoreRingError): void {
    if (this.#closed || this.#role !== 'server') return;
    this.#pages.store32(XenstoreDomainInterface.error, error);
    this.#events.notify(this.#port);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#pendingStart = this.#pendingEnd = 0;
    this.#events.close(this.#port);
    this.#release?.();
  }

  #onEvent(): void {
    this.#run();
    if (!this.#closed) this.#events.unmask(this.#port);
  }

  /** Moves bytes both ways until nothing moves, or the turn has been long enough. */
  #run(): void {
    if (this.#running) return;
    this.#running = true;
    let moved = true;
    try {
      for (let round = 0; moved && round < ROUNDS_PER_TURN && !this.#closed; round++) {
        moved = this.#consume();
        if (!this.#closed && this.#produce()) moved = true;
        if (moved && !this.#closed) this.#events.notify(this.#port);
        if (this.bufferedBytes === 0 && this.#backlogged && !this.#closed) {
          this.#backlogged = false;
          this.#handlers?.drained?.();
          moved ||= this.bufferedBytes > 0;
        }
      }
    } finally {
      this.#running = false;
    }
    if (moved && !this.#closed) this.#runtime.nextTurn(() => this.#run());
  }

  /** Takes what the other side produced; false when there was nothing. */
  #consume(): boolean {
    if (this.#paused || this.#handlers === undefined) return false;
    const { data, producer, consumer } = this.#input;
    const count = this.#distance(this.#pages.load32(producer), this.#consumed, 'producer');
    if (count === undefined || count === 0) return false;
    const at = this.#consumed % XENSTORE_RING_SIZE;
    const first = Math.min(count, XENSTORE_RING_SIZE - at);
    this.#pages.read(data + at, this.#scratch, 0, first);
    if (count > first) this.#pages.read(data, this.#scratch, first, count - first);
    this.#consumed = (this.#consumed + count) >>> 0;
    this.#pages.store32(consumer, this.#consumed);
    this.#handlers.data(this.#scratch.subarray(0, count));
    return true;
  }

  /** Puts waiting bytes into the ring; false when none fitted. */
  #produce(): boolean {
    if (this.bufferedBytes === 0) return false;
    const { data, producer, consumer } = this.#output;
    const used = this.#distance(this.#produced, this.#pages.load32(consumer), 'consumer');
    if (used === undefined) return false;
    const count = Math.min(this.bufferedBytes, XENSTORE_RING_SIZE - used);
    if (count === 0) return false;
    const at = this.#produced % XENSTORE_RING_SIZE;
    const first = Math.min(count, XENSTORE_RING_SIZE - at);
    this.#pages.write(data + at, this.#pending, this.#pendingStart, first);
    if (count > first) this.#pages.write(data, this.#pending, this.#pendingStart + first, count - first);
    this.#pendingStart += count;
    this.#produced = (this.#produced + count) >>> 0;
    this.#pages.store32(producer, this.#produced);
    if (this.bufferedBytes === 0) this.#pendingStart = this.#pendingEnd = 0;
    return true;
  }

  /** `producer - consumer`, at most a ringful; otherwise the ring can't be believed and is given up. */
  #distance(producer: number, consumer: number, moved: 'producer' | 'consumer'): number | undefined {
    const distance = (producer - consumer) >>> 0;
    if (distance <= XENSTORE_RING_SIZE) return distance;
    const handlers = this.#handlers;
    this.setError(XENSTORE_ERROR_RINGIDX);
    this.close();
    handlers?.closed(
      new ProtocolError(`xenstore ring: ${moved} index out of range (producer ${producer}, consumer ${consumer})`),
    );
    return undefined;
  }

  #append(message: Uint8Array): void {
    const needed = this.bufferedBytes + message.length;
    if (this.#pendingEnd + message.length > this.#pending.length) {
      const target = needed > this.#pending.length ? new Uint8Array(2 * needed) : this.#pending;
      const waiting = this.#pending.subarray(this.#pendingStart, this.#pendingEnd);
      if (target === this.#pending) target.copyWithin(0, this.#pendingStart, this.#pendingEnd);
      else target.set(waiting);
      this.#pending = target;
      this.#pendingEnd = waiting.length;
      this.#pendingStart = 0;
    }
    this.#pending.set(message, this.#pendingEnd);
    this.#pendingEnd += message.length;
  }
}

interface RingOffsets {
  readonly data: number;
  readonly consumer: number;
  readonly producer: number;
}

const requests: RingOffsets = {
  data: XenstoreDomainInterface.req,
  consumer: XenstoreDomainInterface.req_cons,
  producer: XenstoreDomainInterface.req_prod,
};
const responses: RingOffsets = {
  data: XenstoreDomainInterface.rsp,
  consumer: XenstoreDomainInterface.rsp_cons,
  producer: XenstoreDomainInterface.rsp_prod,
};
