/** For tests: a block frontend made of raw parts, which sends what it is told to, right or wrong. */
import { type Domid, type EventPort, FrontRing, type GrantedPages, type Platform } from '@pvkit/ring';
import { BLKIF_SLOT_BYTES, BLKIF_SLOT_WORDS, BlkifRequest, BlkifResponse } from '../protocol.ts';

export interface RawSegment {
  readonly reference: number;
  readonly first: number;
  readonly last: number;
}

export interface RawRequest {
  readonly operation: number;
  /** 64 bits. */
  readonly id: bigint;
  readonly sector?: bigint;
  readonly segments?: readonly RawSegment[];
  /** Where the slot is to say another count than there are segments. */
  readonly segmentCount?: number;
}

export interface RawResponse {
  readonly id: bigint;
  readonly operation: number;
  readonly status: number;
}

export class RawFrontend {
  readonly platform: Platform;
  readonly ringPages: GrantedPages;
  readonly ring: FrontRing;
  readonly port: EventPort;
  readonly responses: RawResponse[] = [];
  /** Leaves responses where they are: the test looks at the ring itself. */
  deaf = false;
  readonly #backend: Domid;
  readonly #held: GrantedPages[];
  readonly #words = new Int32Array(BLKIF_SLOT_WORDS);
  #waiting: (() => void)[] = [];

  constructor(platform: Platform, backend: Domid, index = 0) {
    this.platform = platform;
    this.#backend = backend;
    this.ringPages = platform.grants.share(backend, 1, 'read-write');
    this.#held = [this.ringPages];
    this.ring = FrontRing.create(this.ringPages, BLKIF_SLOT_BYTES, index);
    this.port = platform.events.allocateUnbound(backend);
    platform.events.listen(this.port, () => this.#onEvent());
  }

  /** Pages for data, granted to the backend. */
  share(pageCount: number, access: 'read-write' | 'read-only' = 'read-write'): GrantedPages {
    const pages = this.platform.grants.share(this.#backend, pageCount, access);
    this.#held.push(pages);
    return pages;
  }

  /** Puts a request on the ring, not published yet. */
  put(request: RawRequest): void {
    this.ring.put(encode(request, this.#words));
  }

  /** Publishes what was put, and always notifies. */
  push(): void {
    this.ring.push();
    this.platform.events.notify(this.port);
  }

  send(...requests: RawRequest[]): void {
    for (const request of requests) this.put(request);
    this.push();
  }

  /** Resolves with the next `count` responses, in the order in which they came. */
  async receive(count: number): Promise<RawResponse[]> {
    while (this.responses.length < count)
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
      });
    return this.responses.splice(0, count);
  }

  /** Sends one request and waits for its response. */
  async call(request: RawRequest): Promise<RawResponse> {
    this.send(request);
    return (await this.receive(1))[0]!;
  }

  close(): void {
    this.platform.events.close(this.port);
    for (const pages of this.#held) pages.endAccess();
  }

  #onEvent(): void {
    if (this.deaf) {
      this.platform.events.unmask(this.port);
      return;
    }
    do while (this.ring.take(this.#words)) this.responses.push(decode(this.#words));
    while (this.ring.finalCheck());
    for (const wake of this.#waiting.splice(0)) wake();
    this.platform.events.unmask(this.port);
  }
}

function encode({ operation, id, sector = 0n, segments = [], segmentCount }: RawRequest, words: Int32Array) {
  const request = new BlkifRequest();
  Object.assign(request, { operation, idLow: low(id), idHigh: high(id), segmentCount: segments.length });
  segments.forEach(({ reference, first, last }, index) => {
    request.references[index] = reference;
    request.firstSectors[index] = first;
    request.lastSectors[index] = last;
  });
  request.encode(words);
  words[0] = (words[0]! & ~0xff00) | (((segmentCount ?? segments.length) & 0xff) << 8);
  words[4] = low(sector);
  words[5] = high(sector);
  return words;
}

function decode(words: Int32Array): RawResponse {
  const response = new BlkifResponse();
  response.decode(words);
  const id = (BigInt(response.idHigh >>> 0) << 32n) | BigInt(response.idLow >>> 0);
  return { id, operation: response.operation, status: response.status };
}

const low = (value: bigint) => Number(BigInt.asIntN(32, value));
const high = (value: bigint) => Number(BigInt.asIntN(32, value >> 32n));
