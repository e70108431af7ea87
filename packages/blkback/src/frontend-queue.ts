/**
 * Sends block requests through one blkif ring: the data path of the frontend. Data passes through pages that are granted
 * once, for the life of the connection (zeroed first, and used for nothing else: XSA-403), so a request costs no grant
 * operation. Free of `node:` modules.
 */
import {
  type Domid,
  ErrnoError,
  type ErrorContext,
  EventDamper,
  type EventPort,
  FrontRing,
  type GrantedPages,
  type GrantReference,
  PAGE_SIZE,
  type Platform,
  PollBeforeSleep,
  ProtocolError,
} from '@pvkit/ring';
import type { IoVector } from './device.ts';
import {
  BLKIF_MAX_SEGMENTS_PER_REQUEST,
  BLKIF_OP_FLUSH_DISKCACHE,
  BLKIF_OP_READ,
  BLKIF_OP_WRITE,
  BLKIF_RESPONSE_WORDS,
  BLKIF_RSP_EOPNOTSUPP,
  BLKIF_RSP_OKAY,
  BLKIF_SLOT_BYTES,
  BLKIF_SLOT_WORDS,
  BlkifRequest,
  BlkifResponse,
  SECTOR_SIZE,
} from './protocol.ts';

/** A request of so many bytes is published at once. */
const PUBLISH_BYTES = 16 * 1024;
const MAX_REQUEST_BYTES = BLKIF_MAX_SEGMENTS_PER_REQUEST * PAGE_SIZE;

export interface FrontendQueueOptions {
  readonly platform: Platform;
  readonly backend: Domid;
  readonly context: ErrorContext;
  /** The backend broke the protocol; the queue has failed everything and stopped. Called at most once. */
  readonly failed: (reason: Error) => void;
}

type Operation = typeof BLKIF_OP_READ | typeof BLKIF_OP_WRITE | typeof BLKIF_OP_FLUSH_DISKCACHE;

/** A position in an I/O vector. */
interface Cursor {
  range: number;
  rangeOffset: number;
}

/** One call of the device interface: as many ring requests as its bytes need. The cursor is that of `submitted`. */
interface Call extends Cursor {
  readonly operation: Operation;
  readonly sector: number;
  readonly vector: IoVector | undefined;
  /** The pages that its one buffer consists of, when the backend can use them directly. */
  readonly shared: GrantedPages | undefined;
  readonly byteLength: number;
  /** Bytes handed to the ring so far. */
  submitted: number;
  /** Requests on the ring. */
  inFlight: number;
  error: Error | undefined;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/** What a ring request carries, and from where in its call's vector; `id` is its index. */
interface Slot extends Cursor {
  call: Call | undefined;
  byteLength: number;
}

export class FrontendQueue {
  readonly port: EventPort;
  readonly #options: FrontendQueueOptions;
  readonly #ringPages: GrantedPages;
  readonly #dataPages: GrantedPages;
  readonly #ring: FrontRing;
  readonly #poll: PollBeforeSleep;
  readonly #damper: EventDamper;
  readonly #slots: Slot[] = [];
  readonly #free: number[] = [];
  /** Calls not wholly on the ring yet; `#head` is the first of them. */
  #waiting: Call[] = [];
  #head = 0;
  /** Buffers of {@link unsafeAllocateBuffer}. */
  readonly #shared = new Map<Uint8Array, GrantedPages>();
  readonly #request = new BlkifRequest();
  readonly #response = new BlkifResponse();
  readonly #requestWords = new Int32Array(BLKIF_SLOT_WORDS);
  readonly #responseWords = new Int32Array(BLKIF_RESPONSE_WORDS);
  #pushScheduled = false;
  #closed: Error | undefined;
  readonly #push = (): void => {
    this.#pushScheduled = false;
    if (this.#closed !== undefined) return;
    // Guarded, for the platform may have been closed since: in a microtask nobody would catch that.
    this.#guard(() => {
      if (this.#ring.push()) this.#options.platform.events.notify(this.port);
    });
  };

  constructor(options: FrontendQueueOptions) {
    this.#options = options;
    const { platform, backend } = options;
    this.#ringPages = platform.grants.share(backend, 1, 'read-write');
    try {
      this.#ring = FrontRing.create(this.#ringPages, BLKIF_SLOT_BYTES);
      this.#dataPages = platform.grants.share(backend, this.#ring.size * BLKIF_MAX_SEGMENTS_PER_REQUEST, 'read-write');
    } catch (error) {
      this.#ringPages.endAccess();
      throw error;
    }
    for (let id = 0; id < this.#ring.size; id++) {
      this.#slots.push({ call: undefined, byteLength: 0, range: 0, rangeOffset: 0 });
      this.#free.push(this.#ring.size - 1 - id);
    }
    try {
      this.port = platform.events.allocateUnbound(backend);
    } catch (error) {
      this.#dataPages.endAccess();
      this.#ringPages.endAccess();
      throw error;
    }
    this.#damper = new EventDamper(platform.runtime);
    this.#poll = new PollBeforeSleep(platform, {
      ready: () => this.#hasResponses(),
      expecting: () => this.#ring.inFlight > 0,
      work: () => this.#turn(false),
      sleep: () => this.#sleep(),
    });
    platform.events.listen(this.port, () => this.#turn(true));
  }

  /** `ring-ref` of this queue. */
  get ringReference(): GrantReference {
    return this.#ringPages.references[0]!;
  }

  /**
   * A buffer that the backend can use directly, so that transfers of it as a vector's only one cost no copy. Unsafe: the
   * backend may change its content at any moment, and it must not be touched after {@link close}. Undefined where the
   * platform has no such memory.
   */
  unsafeAllocateBuffer(byteLength: number): Uint8Array | undefined {
    if (this.#closed !== undefined) throw this.#closed;
    const { platform, backend } = this.#options;
    const pages = platform.grants.share(backend, Math.ceil(byteLength / PAGE_SIZE), 'read-write');
    const bytes = pages.unsafeBytes?.()?.subarray(0, byteLength);
    if (bytes === undefined) pages.endAccess();
    else this.#shared.set(bytes, pages);
    return bytes;
  }

  read(sector: number, vector: IoVector): Promise<void> {
    return this.#enqueue(BLKIF_OP_READ, sector, vector);
  }

  write(sector: number, vector: IoVector): Promise<void> {
    return this.#enqueue(BLKIF_OP_WRITE, sector, vector);
  }

  flush(): Promise<void> {
    return this.#enqueue(BLKIF_OP_FLUSH_DISKCACHE, 0, undefined);
  }

  /** Fails what is under way with `reason` and gives back port and pages. Idempotent. */
  close(reason: Error): void {
    if (this.#closed !== undefined) return;
    this.#closed = reason;
    this.#poll.stop();
    this.#options.platform.events.close(this.port);
    this.#ringPages.endAccess();
    this.#dataPages.endAccess();
    for (const pages of this.#shared.values()) pages.endAccess();
    this.#shared.clear();
    const calls = new Set(this.#waiting.slice(this.#head));
    for (const slot of this.#slots) if (slot.call !== undefined) calls.add(slot.call);
    this.#waiting = [];
    this.#head = 0;
    for (const call of calls) call.reject(reason);
  }

  #enqueue(operation: Operation, sector: number, vector: IoVector | undefined): Promise<void> {
    if (this.#closed !== undefined) return Promise.reject(this.#closed);
    return new Promise((resolve, reject) => {
      this.#waiting.push({
        operation,
        sector,
        vector,
        shared: this.#sharedPagesOf(vector),
        byteLength: vector?.byteLength ?? 0,
        submitted: 0,
        range: 0,
        rangeOffset: 0,
        inFlight: 0,
        error: undefined,
        resolve,
        reject,
      });
      this.#submit();
    });
  }

  /** The pages of a vector's one buffer, if they are shared and segments, which are of whole sectors, can describe it. */
  #sharedPagesOf(vector: IoVector | undefined): GrantedPages | undefined {
    if (vector?.count !== 1 || vector.offsets[0]! % SECTOR_SIZE !== 0) return undefined;
    return this.#shared.get(vector.buffers[0]!);
  }

  /** Moves what fits from the waiting calls to the ring. A call that has failed goes no further. */
  #submit(): void {
    while (this.#head < this.#waiting.length) {
      const call = this.#waiting[this.#head]!;
      if (call.error === undefined) {
        if (this.#free.length === 0) return;
        this.#put(call);
        if (call.submitted < call.byteLength) continue;
      }
      this.#head++;
      if (this.#head === this.#waiting.length || this.#head >= 1024) {
        this.#waiting.splice(0, this.#head);
        this.#head = 0;
      }
    }
  }

  #put(call: Call): void {
    const id = this.#free.pop()!;
    const slot = this.#slots[id]!;
    // Bytes from the start of the first page: only a shared buffer's transfer may begin within one.
    const position = call.shared === undefined ? 0 : call.vector!.offsets[0]! + call.submitted;
    const start = position % PAGE_SIZE;
    // Whole pages unless it is the last: what is cut elsewhere might be cut within a logical sector.
    const length = Math.min(MAX_REQUEST_BYTES - (start > 0 ? PAGE_SIZE : 0), call.byteLength - call.submitted);
    slot.call = call;
    slot.byteLength = length;
    slot.range = call.range;
    slot.rangeOffset = call.rangeOffset;
    if (call.operation !== BLKIF_OP_FLUSH_DISKCACHE && call.shared === undefined) {
      if (call.operation === BLKIF_OP_WRITE) this.#transfer(call.vector!, call, id, true);
      else skip(call.vector!, call, length);
    }

    const request = this.#request;
    request.operation = call.operation;
    request.idLow = id;
    request.idHigh = 0;
    request.sector = call.sector + call.submitted / SECTOR_SIZE;
    request.segmentCount = Math.ceil((start + length) / PAGE_SIZE);
    const { references } = call.shared ?? this.#dataPages;
    const firstPage = call.shared === undefined ? id * BLKIF_MAX_SEGMENTS_PER_REQUEST : (position - start) / PAGE_SIZE;
    for (let index = 0; index < request.segmentCount; index++) {
      const end = Math.min(PAGE_SIZE, start + length - index * PAGE_SIZE);
      request.references[index] = references[firstPage + index]!;
      request.firstSectors[index] = index === 0 ? start / SECTOR_SIZE : 0;
      request.lastSectors[index] = end / SECTOR_SIZE - 1;
    }
    request.encode(this.#requestWords);
    this.#ring.put(this.#requestWords);
    call.submitted += length;
    call.inFlight++;
    if (length >= PUBLISH_BYTES) {
      this.#push(); // the backend can work while the next one is made
      return;
    }
    if (this.#pushScheduled) return;
    // Published once for all calls of this moment.
    this.#pushScheduled = true;
    void Promise.resolve().then(this.#push);
  }

  /** Copies a request's bytes between its pages and `vector`, moving `cursor` past them. */
  #transfer(vector: IoVector, cursor: Cursor, id: number, write: boolean): void {
    let page = id * MAX_REQUEST_BYTES;
    let left = this.#slots[id]!.byteLength;
    while (left > 0) {
      const buffer = vector.buffers[cursor.range]!;
      const offset = vector.offsets[cursor.range]! + cursor.rangeOffset;
      const size = Math.min(left, vector.lengths[cursor.range]! - cursor.rangeOffset);
      if (write) this.#dataPages.write(page, buffer, offset, size);
      else this.#dataPages.read(page, buffer, offset, size);
      page += size;
      left -= size;
      advance(vector, cursor, size);
    }
  }

  #turn(event: boolean): void {
    if (this.#closed !== undefined) return;
    this.#guard(() => {
      let worked = false;
      while (this.#ring.take(this.#responseWords)) {
        this.#complete();
        worked = true;
      }
      this.#submit();
      if (worked || !event) {
        this.#damper.worked();
        this.#poll.idle();
      } else this.#damper.empty(() => this.#sleep());
    });
  }

  /** Asks for an event, unless there is work after all. */
  #sleep(): void {
    if (this.#closed !== undefined) return;
    this.#guard(() => {
      if (this.#ring.finalCheck()) this.#turn(false);
      else this.#options.platform.events.unmask(this.port);
    });
  }

  #hasResponses(): boolean {
    let has = false;
    this.#guard(() => {
      has = this.#ring.hasResponses();
    });
    return has;
  }

  /** Runs work on the ring; a backend that breaks the protocol, or a platform that is gone, ends this queue. */
  #guard(work: () => void): void {
    try {
      work();
    } catch (error) {
      const reason = error instanceof Error ? error : new Error(String(error));
      this.close(reason);
      this.#options.failed(reason);
    }
  }

  #complete(): void {
    const response = this.#response;
    response.decode(this.#responseWords);
    const slot = response.idHigh === 0 ? this.#slots[response.idLow] : undefined;
    const call = slot?.call;
    if (slot === undefined || call === undefined || response.operation !== call.operation)
      throw new ProtocolError(
        `backend answered id ${response.idHigh}:${response.idLow}, operation ${response.operation}, which is not on the ring`,
        this.#options.context,
      );
    if (response.status !== BLKIF_RSP_OKAY) call.error ??= this.#errorOf(call, response.status);
    else if (call.operation === BLKIF_OP_READ && call.shared === undefined)
      this.#transfer(call.vector!, slot, response.idLow, false);
    slot.call = undefined;
    this.#free.push(response.idLow);
    call.inFlight--;
    if (call.inFlight > 0) return;
    if (call.error !== undefined) call.reject(call.error);
    else if (call.submitted === call.byteLength) call.resolve();
  }

  #errorOf(call: Call, status: number): Error {
    const name = status === BLKIF_RSP_EOPNOTSUPP ? 'EOPNOTSUPP' : 'EIO';
    const what = call.operation === BLKIF_OP_READ ? 'read' : call.operation === BLKIF_OP_WRITE ? 'write' : 'flush';
    return new ErrnoError(name, `${what} of ${call.byteLength} bytes at sector ${call.sector}`, this.#options.context);
  }
}

/** Moves a cursor by `size` bytes, which stay within its range. */
function advance(vector: IoVector, cursor: Cursor, size: number): void {
  cursor.rangeOffset += size;
  if (cursor.rangeOffset < vector.lengths[cursor.range]!) return;
  cursor.range++;
  cursor.rangeOffset = 0;
}

function skip(vector: IoVector, cursor: Cursor, length: number): void {
  while (length > 0) {
    const size = Math.min(length, vector.lengths[cursor.range]! - cursor.rangeOffset);
    advance(vector, cursor, size);
    length -= size;
  }
}
