/**
 * Serves one blkif ring from a block device: the data path of the backend. Data moves by grant copy, in one batch for
 * all requests at hand, between the frontend's pages and private buffers. Only where the platform can (loopback), reads
 * that need not wait go straight into the granted pages.
 *
 * What a frontend sends wrong gets the protocol's error response; a ring that can't be believed any more stops the queue.
 */
import {
  BackRing,
  type Domid,
  EventDamper,
  type EventPort,
  GrantCopyBatch,
  type GrantReference,
  grantStatusName,
  type MappedPages,
  type Platform,
  PollBeforeSleep,
} from '@pvkit/ring';
import type { BufferPool } from './buffer-pool.ts';
import { type BlockDevice, refusal } from './device.ts';
import { InPlaceReads } from './in-place-reads.ts';
import { PendingRequest } from './pending-request.ts';
import {
  BLKIF_MAX_SEGMENTS_PER_REQUEST,
  BLKIF_OP_DISCARD,
  BLKIF_OP_FLUSH_DISKCACHE,
  BLKIF_OP_INDIRECT,
  BLKIF_OP_READ,
  BLKIF_OP_WRITE,
  BLKIF_OP_WRITE_BARRIER,
  BLKIF_RESPONSE_WORDS,
  BLKIF_RSP_EOPNOTSUPP,
  BLKIF_RSP_ERROR,
  BLKIF_RSP_OKAY,
  BLKIF_SLOT_BYTES,
  BLKIF_SLOT_WORDS,
  BlkifResponse,
  type BlkifStatus,
  SECTOR_SIZE,
  SECTORS_PER_PAGE,
} from './protocol.ts';

/** Milliseconds that one queue may work before other devices of its thread get a turn. */
const TURN_MS = 2;

/** Plain counters, named as Linux's blkback names them in sysfs where it has them. */
export interface BackendCounters {
  rd_req: number;
  wr_req: number;
  f_req: number;
  rd_sect: number;
  wr_sect: number;
  /** Requests answered with an error. */
  errors: number;
  /** Events that found nothing to do. */
  spurious: number;
}

export interface BackendQueueOptions {
  readonly platform: Platform;
  readonly frontend: Domid;
  readonly device: BlockDevice;
  readonly buffers: BufferPool;
  readonly ring: MappedPages;
  /** Our own port, bound to the frontend's. */
  readonly port: EventPort;
  /** Index from which the ring goes on; 0 for a fresh one. */
  readonly index?: number;
  /** The ring can't be believed any more; the queue has stopped. Called at most once. */
  readonly failed: (reason: Error) => void;
  /** A request was refused or failed; for logs. */
  readonly refused: (reason: string) => void;
}

export class BackendQueue {
  readonly counters: BackendCounters = {
    rd_req: 0,
    wr_req: 0,
    f_req: 0,
    rd_sect: 0,
    wr_sect: 0,
    errors: 0,
    spurious: 0,
  };
  readonly #options: BackendQueueOptions;
  readonly #ring: BackRing;
  readonly #slot = new Int32Array(BLKIF_SLOT_WORDS);
  readonly #response = new BlkifResponse();
  readonly #responseWords = new Int32Array(BLKIF_RESPONSE_WORDS);
  readonly #free: PendingRequest[] = [];
  /** Writes whose data is to be copied in, then submitted. */
  readonly #writes: PendingRequest[] = [];
  /** Reads whose data is to be copied out, then answered. */
  readonly #reads: PendingRequest[] = [];
  readonly #copies: GrantCopyBatch;
  readonly #inPlaceReads: InPlaceReads | undefined;
  readonly #poll: PollBeforeSleep;
  readonly #damper: EventDamper;
  #responses = 0;
  #scheduled = false;
  #flushing = false;
  #stopped = false;
  #drained: (() => void) | undefined;
  readonly #nextTurn = (): void => {
    this.#scheduled = false;
    this.#turn(false);
  };
  readonly #flush = (): void => {
    this.#flushing = false;
    if (!this.#stopped) this.#guard(() => this.#finish());
  };

  constructor(options: BackendQueueOptions) {
    this.#options = options;
    this.#damper = new EventDamper(options.platform.runtime);
    this.#poll = new PollBeforeSleep(options.platform, {
      ready: () => this.#hasRequests(),
      expecting: () => true,
      work: () => this.#turn(false),
      sleep: () => this.#sleep(),
    });
    this.#ring = BackRing.attach(options.ring, BLKIF_SLOT_BYTES, options.index ?? 0);
    this.#copies = new GrantCopyBatch(options.frontend, this.#ring.size * BLKIF_MAX_SEGMENTS_PER_REQUEST);
    this.#inPlaceReads = InPlaceReads.open(options.platform, options.frontend, options.device);
    options.platform.events.listen(options.port, () => this.#turn(true));
  }

  /** Requests taken and not answered. */
  get inFlight(): number {
    return this.#ring.inFlight;
  }

  /** Stops taking requests and waits for those that the device is working on; they are not answered. Idempotent. */
  async close(): Promise<void> {
    this.#stopped = true;
    this.#poll.stop();
    const unfinished = [
      ...(this.#inPlaceReads?.run.splice(0) ?? []),
      ...this.#writes.splice(0),
      ...this.#reads.splice(0),
    ];
    for (const pending of unfinished) this.#recycle(pending);
    if (this.#working === 0) return;
    await new Promise<void>((resolve) => {
      const previous = this.#drained;
      this.#drained = () => {
        previous?.();
        resolve();
      };
    });
  }

  /** Requests that the device has and has not completed. */
  #working = 0;

  // -- one turn ------------------------------------------------------------------------------------------------------

  #turn(event: boolean): void {
    if (this.#stopped) return;
    this.#guard(() => {
      const { runtime } = this.#options.platform;
      const end = runtime.now() + TURN_MS;
      let worked = false;
      do {
        // No more than a ring at a time, however fast the frontend refills it.
        for (let left = this.#ring.size; left > 0 && this.#take(); left--) worked = true;
        if (this.#inPlaceReads !== undefined) this.#readRun(this.#inPlaceReads);
        this.#submitWrites();
        this.#finish();
        if (runtime.now() >= end) return this.#schedule();
      } while (this.#ring.hasRequests());
      if (worked) {
        this.#damper.worked();
        this.#poll.idle();
      } else if (event) {
        this.#damper.empty(() => this.#sleep());
        this.counters.spurious = this.#damper.spurious;
      } else this.#sleep();
    });
  }

  /** Asks for an event, unless there is work after all. */
  #sleep(): void {
    if (this.#stopped) return;
    this.#guard(() => {
      if (this.#ring.finalCheck()) this.#schedule();
      else this.#options.platform.events.unmask(this.#options.port);
    });
  }

  #hasRequests(): boolean {
    let has = false;
    this.#guard(() => {
      has = this.#ring.hasRequests();
    });
    return has;
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#options.platform.runtime.nextTurn(this.#nextTurn);
  }

  /** Runs work on the ring; whatever it throws ends this queue and nothing else. */
  #guard(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#stopped = true;
      this.#poll.stop();
      this.#options.failed(error instanceof Error ? error : new Error(String(error)));
    }
  }

  /** Takes one request from the ring and starts it; false when there is none. */
  #take(): boolean {
    if (!this.#ring.take(this.#slot)) return false;
    const pending = this.#free.pop() ?? this.#newPending();
    const { request } = pending;
    request.decode(this.#slot);
    switch (request.operation) {
      case BLKIF_OP_READ:
        this.counters.rd_req++;
        if (this.#check(pending)) this.#read(pending);
        break;
      case BLKIF_OP_WRITE:
        this.counters.wr_req++;
        if (this.#check(pending)) this.#prepareWrite(pending);
        break;
      case BLKIF_OP_FLUSH_DISKCACHE:
        this.counters.f_req++;
        if (request.segmentCount !== 0) this.#refuse(pending, BLKIF_RSP_ERROR, 'a flush with segments');
        else this.#start(pending);
        break;
      case BLKIF_OP_WRITE_BARRIER:
      case BLKIF_OP_DISCARD:
      case BLKIF_OP_INDIRECT:
        this.#refuse(pending, BLKIF_RSP_EOPNOTSUPP, `operation ${request.operation}, which was not offered`);
        break;
      default:
        this.#refuse(pending, BLKIF_RSP_EOPNOTSUPP, `unknown operation ${request.operation}`);
    }
    return true;
  }

  #newPending(): PendingRequest {
    const pending = new PendingRequest();
    pending.done = () => this.#settled(pending, undefined);
    pending.failed = (error) => this.#settled(pending, error);
    return pending;
  }

  /** Checks segments and sectors; false when the request was refused. */
  #check(pending: PendingRequest): boolean {
    const { request } = pending;
    const count = request.segmentCount;
    if (count < 1 || count > BLKIF_MAX_SEGMENTS_PER_REQUEST)
      return this.#refuse(pending, BLKIF_RSP_ERROR, `${count} segments (1 to ${BLKIF_MAX_SEGMENTS_PER_REQUEST})`);
    let sectors = 0;
    for (let index = 0; index < count; index++) {
      const first = request.firstSectors[index]!;
      const last = request.lastSectors[index]!;
      if (first > last || last >= SECTORS_PER_PAGE)
        return this.#refuse(pending, BLKIF_RSP_ERROR, `segment of sectors ${first} to ${last} of its page`);
      sectors += last - first + 1;
    }
    pending.byteLength = sectors * SECTOR_SIZE;
    const { geometry } = this.#options.device;
    const reason = refusal(geometry, request.sector, pending.byteLength);
    if (reason !== undefined) return this.#refuse(pending, BLKIF_RSP_ERROR, reason);
    if (request.operation === BLKIF_OP_WRITE && geometry.readOnly)
      return this.#refuse(pending, BLKIF_RSP_ERROR, 'a write to a read-only device');
    return true;
  }

  #usePrivateBuffer(pending: PendingRequest): void {
    pending.buffer ??= this.#options.buffers.take();
    pending.vector.clear();
    pending.vector.add(pending.buffer, 0, pending.byteLength);
  }

  #read(pending: PendingRequest): void {
    const reads = this.#inPlaceReads;
    if (reads === undefined) {
      this.#readPrivately(pending);
      return;
    }
    if (!reads.continues(pending)) this.#readRun(reads);
    reads.add(pending);
  }

  #readPrivately(pending: PendingRequest): void {
    this.#usePrivateBuffer(pending);
    this.#start(pending);
  }

  /** Reads what has been gathered, and lets the frontend work on it while others are being read. */
  #readRun(reads: InPlaceReads): void {
    const done = reads.read();
    for (const pending of reads.run) {
      if (done) this.#complete(pending);
      else this.#readPrivately(pending);
    }
    reads.clear();
    this.#publish();
  }

  #prepareWrite(pending: PendingRequest): void {
    this.#usePrivateBuffer(pending);
    this.#addCopies(pending, false);
    this.#writes.push(pending);
  }

  /** Adds a request's data to the batch: from its private buffer to the frontend's pages, or from them. */
  #addCopies(pending: PendingRequest, toGrant: boolean): void {
    const { request, buffer } = pending;
    pending.firstCopy = this.#copies.count;
    let offset = 0;
    for (let index = 0; index < request.segmentCount; index++) {
      const start = request.firstSectors[index]! * SECTOR_SIZE;
      const length = (request.lastSectors[index]! + 1) * SECTOR_SIZE - start;
      const reference = request.references[index]! as GrantReference;
      if (toGrant) this.#copies.addToGrant(reference, start, buffer!, offset, length);
      else this.#copies.addFromGrant(reference, start, buffer!, offset, length);
      offset += length;
    }
  }

  #submitWrites(): void {
    if (this.#writes.length === 0) return;
    this.#options.platform.grants.copy(this.#copies);
    for (const pending of this.#writes) if (this.#copied(pending)) this.#start(pending);
    this.#writes.length = 0;
    this.#copies.clear();
  }

  /** Whether all copies of a request went well; answers it with an error if not. */
  #copied(pending: PendingRequest): boolean {
    const { request } = pending;
    for (let index = 0; index < request.segmentCount; index++) {
      const status = this.#copies.statuses[pending.firstCopy + index]!;
      if (status !== 0)
        return this.#refuse(
          pending,
          BLKIF_RSP_ERROR,
          `grant reference ${request.references[index]} can't be used: ${grantStatusName(status)}`,
        );
    }
    return true;
  }

  // -- the device's work ---------------------------------------------------------------------------------------------

  #start(pending: PendingRequest): void {
    let result: Promise<void> | undefined;
    try {
      result = this.#operate(pending);
    } catch (error) {
      this.#fail(pending, error);
      return;
    }
    if (result === undefined) {
      this.#succeeded(pending);
      return;
    }
    this.#working++;
    result.then(pending.done, pending.failed);
  }

  #operate({ request, vector }: PendingRequest): Promise<void> | undefined {
    const { device } = this.#options;
    if (request.operation === BLKIF_OP_READ) return device.readv(request.sector, vector);
    if (request.operation === BLKIF_OP_WRITE) return device.writev(request.sector, vector);
    return device.flush();
  }

  #succeeded(pending: PendingRequest): void {
    if (pending.request.operation === BLKIF_OP_READ) this.#reads.push(pending);
    else this.#complete(pending);
  }

  #settled(pending: PendingRequest, error: unknown): void {
    this.#working--;
    if (this.#stopped) {
      this.#recycle(pending);
      if (this.#working === 0) this.#drained?.();
      return;
    }
    this.#guard(() => {
      if (error === undefined) this.#succeeded(pending);
      else this.#fail(pending, error);
    });
    // Others may complete in the same turn: their data is copied and their responses are pushed together.
    if (this.#flushing) return;
    this.#flushing = true;
    this.#options.platform.runtime.nextTurn(this.#flush);
  }

  // -- answers -------------------------------------------------------------------------------------------------------

  /** Copies out the data of completed reads, and publishes all responses that are ready. */
  #finish(): void {
    if (this.#reads.length > 0) {
      for (const pending of this.#reads) this.#addCopies(pending, true);
      this.#options.platform.grants.copy(this.#copies);
      for (const pending of this.#reads) if (this.#copied(pending)) this.#complete(pending);
      this.#reads.length = 0;
      this.#copies.clear();
    }
    this.#publish();
  }

  #publish(): void {
    if (this.#responses === 0) return;
    this.#responses = 0;
    if (this.#ring.push()) this.#options.platform.events.notify(this.#options.port);
  }

  #complete(pending: PendingRequest): void {
    const { operation } = pending.request;
    if (operation === BLKIF_OP_READ) this.counters.rd_sect += pending.byteLength / SECTOR_SIZE;
    else if (operation === BLKIF_OP_WRITE) this.counters.wr_sect += pending.byteLength / SECTOR_SIZE;
    this.#respond(pending, BLKIF_RSP_OKAY);
  }

  #fail(pending: PendingRequest, error: unknown): void {
    this.#refuse(pending, BLKIF_RSP_ERROR, error instanceof Error ? error.message : String(error));
  }

  /** Answers with an error; returns false for the caller to pass on. */
  #refuse(pending: PendingRequest, status: BlkifStatus, reason: string): false {
    this.counters.errors++;
    this.#options.refused(reason);
    this.#respond(pending, status);
    return false;
  }

  #respond(pending: PendingRequest, status: BlkifStatus): void {
    const response = this.#response;
    response.idLow = pending.request.idLow;
    response.idHigh = pending.request.idHigh;
    response.operation = pending.request.operation;
    response.status = status;
    response.encode(this.#responseWords);
    this.#ring.put(this.#responseWords);
    this.#responses++;
    this.#recycle(pending);
  }

  #recycle(pending: PendingRequest): void {
    if (pending.buffer !== undefined) this.#options.buffers.give(pending.buffer);
    pending.buffer = undefined;
    pending.vector.clear();
    this.#free.push(pending);
  }
}
