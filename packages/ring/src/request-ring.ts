/**
 * Request/response rings (`xen/include/public/io/ring.h`): one array of slots that requests fill and responses reuse.
 *
 *     bytes 0-3 req_prod   4-7 req_event   8-11 rsp_prod   12-15 rsp_event   16-63 unused   64… slots
 *
 * The indices are free-running unsigned 32-bit numbers. Both ends keep private copies of their own and never read them
 * back; slots are copied whole, once, before anyone looks at them (XSA-155).
 */
import { ProtocolError } from './errors.ts';
import { PAGE_SIZE, type SharedPages } from './platform.ts';

export const REQ_PROD = 0;
export const REQ_EVENT = 4;
export const RSP_PROD = 8;
export const RSP_EVENT = 12;
/** Offset of the first slot: the size of the header. */
export const RING_HEADER_BYTES = 64;

/** Slots of a ring: as many as fit, rounded down to a power of two (`__RING_SIZE`). */
export function ringSize(pageCount: number, slotBytes: number): number {
  const fit = Math.floor((pageCount * PAGE_SIZE - RING_HEADER_BYTES) / slotBytes);
  return fit < 1 ? 0 : 2 ** Math.floor(Math.log2(fit));
}

/** What both ends have: the pages, the geometry, the slots. */
abstract class Ring {
  readonly size: number;
  readonly slotBytes: number;
  protected readonly pages: SharedPages;
  protected readonly mask: number;

  constructor(pages: SharedPages, slotBytes: number) {
    if (!Number.isInteger(slotBytes) || slotBytes <= 0 || slotBytes % 4 !== 0)
      throw new RangeError(`ring slots must be a positive multiple of 4 bytes, not ${slotBytes}`);
    this.size = ringSize(pages.pageCount, slotBytes);
    if (this.size === 0) throw new RangeError(`${pages.pageCount} pages hold no slot of ${slotBytes} bytes`);
    this.pages = pages;
    this.slotBytes = slotBytes;
    this.mask = this.size - 1;
  }

  protected readSlot(index: number, target: Int32Array, words: number): void {
    this.pages.readWords(RING_HEADER_BYTES + (index & this.mask) * this.slotBytes, target, words);
  }

  protected writeSlot(index: number, source: Int32Array, words: number): void {
    if (words > this.slotBytes >>> 2) throw new RangeError(`${words} words do not fit in a slot`);
    this.pages.writeWords(RING_HEADER_BYTES + (index & this.mask) * this.slotBytes, source, words);
  }
}

/** Distance from `from` to `to` on the 32-bit circle. */
const distance = (to: number, from: number): number => (to - from) >>> 0;

/** Whether the other side, sleeping until index `event`, has to be woken for the move from `old` to `now`. */
const mustNotify = (now: number, event: number, old: number): boolean => distance(now, event) < distance(now, old);

/** The frontend's end: produces requests, consumes responses. */
export class FrontRing extends Ring {
  #reqProd: number;
  /** `reqProd` as the other side sees it. */
  #pushed: number;
  #rspCons: number;
  #rspProd: number;

  private constructor(pages: SharedPages, slotBytes: number, index: number) {
    super(pages, slotBytes);
    this.#reqProd = this.#pushed = this.#rspCons = this.#rspProd = index;
  }

  /** Initialises fresh pages (`SHARED_RING_INIT`); only the frontend may. `index` other than 0 is for tests of the wrap. */
  static create(pages: SharedPages, slotBytes: number, index = 0): FrontRing {
    const ring = new FrontRing(pages, slotBytes, index >>> 0);
    for (let offset = 0; offset < RING_HEADER_BYTES; offset += 4) pages.store32(offset, 0);
    pages.store32(REQ_PROD, index);
    pages.store32(RSP_PROD, index);
    pages.store32(REQ_EVENT, index + 1);
    pages.store32(RSP_EVENT, index + 1);
    return ring;
  }

  /** Requests that still fit. */
  get free(): number {
    return this.size - distance(this.#reqProd, this.#rspCons);
  }

  /** Requests put and not answered yet. */
  get inFlight(): number {
    return distance(this.#reqProd, this.#rspCons);
  }

  /** Writes a request of `slotBytes / 4` words; not seen by the backend until {@link push}. */
  put(request: Int32Array): void {
    if (this.free === 0) throw new RangeError(`ring is full (${this.size} requests)`);
    this.writeSlot(this.#reqProd, request, this.slotBytes >>> 2);
    this.#reqProd = (this.#reqProd + 1) >>> 0;
  }

  /** Publishes what was put; true when the backend has to be notified (`RING_PUSH_REQUESTS_AND_CHECK_NOTIFY`). */
  push(): boolean {
    const old = this.#pushed;
    if (old === this.#reqProd) return false;
    this.pages.store32(REQ_PROD, this.#reqProd);
    this.#pushed = this.#reqProd;
    return mustNotify(this.#reqProd, this.pages.load32(REQ_EVENT), old);
  }

  /**
   * Copies the next response into `response`, as many words of its slot as that holds.
   * @returns false when there is none.
   * @throws ProtocolError when the backend claims more responses than there are requests.
   */
  take(response: Int32Array): boolean {
    if (this.#rspCons === this.#rspProd && !this.#refresh()) return false;
    this.readSlot(this.#rspCons, response, Math.min(response.length, this.slotBytes >>> 2));
    this.#rspCons = (this.#rspCons + 1) >>> 0;
    return true;
  }

  /** Whether there is a response to take; asks for no event. @throws ProtocolError as {@link take}. */
  hasResponses(): boolean {
    return this.#rspCons !== this.#rspProd || this.#refresh();
  }

  /** Asks to be notified of the next response; true when one came meanwhile (`RING_FINAL_CHECK_FOR_RESPONSES`). */
  finalCheck(): boolean {
    if (this.#rspCons !== this.#rspProd || this.#refresh()) return true;
    this.pages.store32(RSP_EVENT, this.#rspCons + 1);
    return this.#refresh();
  }

  #refresh(): boolean {
    const produced = this.pages.load32(RSP_PROD);
    if (distance(produced, this.#rspCons) > distance(this.#pushed, this.#rspCons))
      throw new ProtocolError(
        `backend set rsp_prod to ${produced}, but only ${distance(this.#pushed, this.#rspCons)} requests follow ${this.#rspCons}`,
      );
    this.#rspProd = produced;
    return produced !== this.#rspCons;
  }
}

/** The backend's end: consumes requests, produces responses. */
export class BackRing extends Ring {
  #reqCons: number;
  #reqProd: number;
  #rspProd: number;
  #pushed: number;

  private constructor(pages: SharedPages, slotBytes: number, index: number) {
    super(pages, slotBytes);
    this.#reqCons = this.#reqProd = this.#rspProd = this.#pushed = index;
  }

  /** Takes part in a ring that the frontend initialised (`BACK_RING_ATTACH`); writes nothing to its header. */
  static attach(pages: SharedPages, slotBytes: number, index = 0): BackRing {
    return new BackRing(pages, slotBytes, index >>> 0);
  }

  /** Requests taken and not answered yet. */
  get inFlight(): number {
    return distance(this.#reqCons, this.#rspProd);
  }

  /**
   * Copies the next request into `request`, of `slotBytes / 4` words or more.
   * @returns false when there is none.
   * @throws ProtocolError when the frontend has moved `req_prod` beyond the ring (`RING_REQUEST_PROD_OVERFLOW`).
   */
  take(request: Int32Array): boolean {
    if (this.#reqCons === this.#reqProd && !this.#refresh()) return false;
    this.readSlot(this.#reqCons, request, this.slotBytes >>> 2);
    this.#reqCons = (this.#reqCons + 1) >>> 0;
    return true;
  }

  /**
   * Writes a response, the words of its structure with their padding (XSA-216); the rest of the slot stays as the
   * frontend itself wrote it.
   */
  put(response: Int32Array): void {
    if (this.inFlight === 0) throw new RangeError('a response without a request');
    this.writeSlot(this.#rspProd, response, response.length);
    this.#rspProd = (this.#rspProd + 1) >>> 0;
  }

  /** Publishes what was put; true when the frontend has to be notified (`RING_PUSH_RESPONSES_AND_CHECK_NOTIFY`). */
  push(): boolean {
    const old = this.#pushed;
    if (old === this.#rspProd) return false;
    this.pages.store32(RSP_PROD, this.#rspProd);
    this.#pushed = this.#rspProd;
    return mustNotify(this.#rspProd, this.pages.load32(RSP_EVENT), old);
  }

  /** Whether there is a request to take; asks for no event. @throws ProtocolError as {@link take}. */
  hasRequests(): boolean {
    return this.#reqCons !== this.#reqProd || this.#refresh();
  }

  /** Asks to be notified of the next request; true when one came meanwhile (`RING_FINAL_CHECK_FOR_REQUESTS`). */
  finalCheck(): boolean {
    if (this.#reqCons !== this.#reqProd || this.#refresh()) return true;
    this.pages.store32(REQ_EVENT, this.#reqCons + 1);
    return this.#refresh();
  }

  #refresh(): boolean {
    const produced = this.pages.load32(REQ_PROD);
    const ahead = distance(produced, this.#rspProd);
    // A req_prod that went back would otherwise look like four billion requests.
    if (ahead > this.size || ahead < this.inFlight)
      throw new ProtocolError(
        `frontend set req_prod to ${produced}; a ring of ${this.size} allows ${this.#reqCons} to ${(this.#rspProd + this.size) >>> 0}`,
      );
    this.#reqProd = produced;
    return produced !== this.#reqCons;
  }
}
