/** For tests: a page and event channels in this process, with both ends in view. */
import { type EventChannels, type EventPort, eventPort, PAGE_SIZE, type Runtime, type SharedPages } from '@pvkit/ring';

export class FakePages implements SharedPages {
  readonly pageCount = 1;
  readonly bytes = new Uint8Array(PAGE_SIZE);
  readonly #words = new Int32Array(this.bytes.buffer);

  load32(offset: number): number {
    return Atomics.load(this.#words, this.#index(offset)) >>> 0;
  }

  store32(offset: number, value: number): void {
    Atomics.store(this.#words, this.#index(offset), value | 0);
  }

  readWords(offset: number, target: Int32Array, count: number): void {
    for (let i = 0; i < count; i++) target[i] = this.load32(offset + 4 * i);
  }

  writeWords(offset: number, source: Int32Array, count: number): void {
    for (let i = 0; i < count; i++) this.store32(offset + 4 * i, source[i] ?? 0);
  }

  read(offset: number, target: Uint8Array, targetOffset: number, length: number): void {
    this.#check(offset, length);
    target.set(this.bytes.subarray(offset, offset + length), targetOffset);
  }

  write(offset: number, source: Uint8Array, sourceOffset: number, length: number): void {
    this.#check(offset, length);
    this.bytes.set(source.subarray(sourceOffset, sourceOffset + length), offset);
  }

  #index(offset: number): number {
    this.#check(offset, 4);
    if (offset % 4 !== 0) throw new RangeError(`word at ${offset}`);
    return offset / 4;
  }

  #check(offset: number, length: number): void {
    if (!(offset >= 0 && length >= 0 && offset + length <= PAGE_SIZE))
      throw new RangeError(`${length} bytes at ${offset}`);
  }
}

interface Port {
  handler: (() => void) | undefined;
  pending: boolean;
  masked: boolean;
  closed: boolean;
}

/** Ports 1 and 2, bound to each other. */
export class FakeEventChannels implements EventChannels {
  readonly ends: readonly [EventPort, EventPort] = [eventPort(1), eventPort(2)];
  readonly #ports = new Map<EventPort, Port>(
    this.ends.map((port) => [port, { handler: undefined, pending: false, masked: false, closed: false }]),
  );
  readonly #runtime: Runtime;
  /** Notifications sent from each end. */
  readonly notified = new Map<EventPort, number>();

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  allocateUnbound(): EventPort {
    return this.ends[0];
  }

  bindInterdomain(): EventPort {
    return this.ends[1];
  }

  listen(port: EventPort, handler: () => void): void {
    this.#port(port).handler = handler;
    this.#deliver(this.#port(port));
  }

  unmask(port: EventPort): void {
    this.#port(port).masked = false;
    this.#deliver(this.#port(port));
  }

  notify(port: EventPort): void {
    if (this.#port(port).closed) throw new Error('notified through a closed port');
    this.notified.set(port, (this.notified.get(port) ?? 0) + 1);
    const other = this.#port(port === this.ends[0] ? this.ends[1] : this.ends[0]);
    other.pending = true;
    this.#deliver(other);
  }

  close(port: EventPort): void {
    this.#port(port).closed = true;
  }

  isClosed(port: EventPort): boolean {
    return this.#port(port).closed;
  }

  #port(port: EventPort): Port {
    const found = this.#ports.get(port);
    if (found === undefined) throw new RangeError(`no port ${port}`);
    return found;
  }

  #deliver(port: Port): void {
    if (!port.pending || port.masked || port.closed || port.handler === undefined) return;
    port.pending = false;
    port.masked = true;
    this.#runtime.nextTurn(() => {
      if (!port.closed) port.handler?.();
    });
  }
}
