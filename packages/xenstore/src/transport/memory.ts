/**
 * Two ends of a connection within one process. Bytes are copied when sent and delivered in a later turn, in order, as a
 * socket would.
 */
import type { MessageTransport, Runtime, TransportHandlers } from '@pvkit/ring';

/** A pair of connected transports: what one end sends, the other receives. */
export function memoryTransportPair(runtime: Runtime): [MessageTransport, MessageTransport] {
  const a = new MemoryTransport(runtime);
  const b = new MemoryTransport(runtime);
  a.connect(b);
  b.connect(a);
  return [a, b];
}

class MemoryTransport implements MessageTransport {
  readonly #runtime: Runtime;
  #peer: MemoryTransport | undefined;
  #handlers: TransportHandlers | undefined;
  #queue: Uint8Array[] = [];
  #queuedBytes = 0;
  #paused = false;
  #scheduled = false;
  #closed = false;
  /** The other end closed after sending what is queued. */
  #ended = false;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  connect(peer: MemoryTransport): void {
    this.#peer = peer;
  }

  get bufferedBytes(): number {
    return this.#peer?.pendingBytes ?? 0;
  }

  /** Bytes sent to this end and not yet delivered. */
  get pendingBytes(): number {
    return this.#queuedBytes;
  }

  send(message: Uint8Array): void {
    if (!this.#closed) this.#peer?.enqueue(message);
  }

  start(handlers: TransportHandlers): void {
    this.#handlers = handlers;
    this.#schedule();
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    this.#schedule();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#queue = [];
    this.#queuedBytes = 0;
    this.#peer?.end();
  }

  enqueue(message: Uint8Array): void {
    if (this.#closed) return;
    this.#queue.push(Uint8Array.from(message));
    this.#queuedBytes += message.length;
    this.#schedule();
  }

  end(): void {
    this.#ended = true;
    this.#schedule();
  }

  drained(): void {
    if (!this.#closed) this.#handlers?.drained?.();
  }

  #schedule(): void {
    if (this.#scheduled || this.#closed || this.#paused || this.#handlers === undefined) return;
    if (this.#queue.length === 0 && !this.#ended) return;
    this.#scheduled = true;
    this.#runtime.nextTurn(() => this.#deliver());
  }

  #deliver(): void {
    this.#scheduled = false;
    const before = this.#queuedBytes;
    // Only what was there at the beginning: an exchange that answers itself would otherwise hold the turn.
    for (let left = this.#queue.length; left > 0 && !this.#paused && !this.#closed; left--) {
      const chunk = this.#queue.shift();
      if (chunk === undefined) break;
      this.#queuedBytes -= chunk.length;
      this.#handlers?.data(chunk);
    }
    if (this.#closed) return;
    if (this.#queuedBytes === 0) {
      if (before > 0) this.#peer?.drained();
      if (this.#ended && !this.#paused) {
        this.#closed = true;
        this.#handlers?.closed();
        return;
      }
    }
    this.#schedule();
  }
}
