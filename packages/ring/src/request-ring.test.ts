import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ProtocolError } from './errors.ts';
import { PagedMemory, type PageViews } from './paged-memory.ts';
import { PAGE_SIZE } from './platform.ts';
import {
  BackRing,
  FrontRing,
  REQ_EVENT,
  REQ_PROD,
  RING_HEADER_BYTES,
  RSP_EVENT,
  RSP_PROD,
  ringSize,
} from './request-ring.ts';
import { type Runtime, standardRuntime } from './runtime.ts';

const runtime = standardRuntime();

function somePages(count: number): PageViews[] {
  return Array.from({ length: count }, () => {
    const page = new ArrayBuffer(PAGE_SIZE);
    return { words: new Int32Array(page), bytes: new Uint8Array(page) };
  });
}

/** A ring of one page with both ends, and the page. */
function pair(slotBytes: number, index = 0) {
  const pages = new PagedMemory(runtime, somePages(1));
  const front = FrontRing.create(pages, slotBytes, index);
  return { pages, front, back: BackRing.attach(pages, slotBytes, index) };
}

/** Words of a request that tell its number, all of them different. */
function fill(slot: Int32Array, sequence: number): Int32Array {
  for (let word = 0; word < slot.length; word++) slot[word] = Math.imul(sequence + 1, 0x9e3779b1) + word;
  return slot;
}

describe('geometry', () => {
  it('pins the offsets of ring.h', () => {
    expect([REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT, RING_HEADER_BYTES]).toEqual([0, 4, 8, 12, 64]);
  });

  it.each([
    [1, 112, 32], // blkif
    [2, 112, 64],
    [4, 112, 128],
    [8, 112, 256],
    [16, 112, 512],
    [1, 64, 32], // pvcalls: 63 fit
    [1, 12, 256], // netif tx
    [1, 8, 256], // netif rx: 504 fit
    [1, 4032, 1],
    [1, 4036, 0],
    [0, 16, 0],
  ])('%i pages of %i-byte slots hold %i', (pages, slotBytes, slots) => {
    expect(ringSize(pages, slotBytes)).toBe(slots);
  });

  it('is the largest power of two that fits', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 64 }), fc.integer({ min: 1, max: 1008 }), (pages, words) => {
        const size = ringSize(pages, words * 4);
        expect(size & (size - 1)).toBe(0);
        expect(RING_HEADER_BYTES + size * words * 4).toBeLessThanOrEqual(pages * PAGE_SIZE);
        expect(RING_HEADER_BYTES + 2 * size * words * 4).toBeGreaterThan(pages * PAGE_SIZE);
      }),
    );
  });

  it.each([0, -4, 6, 1.5, Number.NaN])('refuses slots of %d bytes', (slotBytes) => {
    expect(() => BackRing.attach(new PagedMemory(runtime, somePages(1)), slotBytes)).toThrow(RangeError);
  });

  it('refuses pages that hold no slot', () => {
    expect(() => BackRing.attach(new PagedMemory(runtime, somePages(1)), 4036)).toThrow(RangeError);
  });

  it('initialises the header as SHARED_RING_INIT does, once, from the front', () => {
    const pages = new PagedMemory(runtime, somePages(1));
    pages.write(0, new Uint8Array(RING_HEADER_BYTES).fill(0xaa), 0, RING_HEADER_BYTES);
    BackRing.attach(pages, 112);
    expect(pages.load32(REQ_PROD)).toBe(0xaaaaaaaa);
    FrontRing.create(pages, 112);
    const header = new Int32Array(16);
    pages.readWords(0, header, 16);
    expect([...header]).toEqual([0, 1, 0, 1, ...new Array(12).fill(0)]);
  });
});

describe('hold-off', () => {
  // RING_PUSH_REQUESTS_AND_CHECK_NOTIFY: (new - event) < (new - old), unsigned.
  it.each([
    { old: 0, count: 1, event: 1, notify: true },
    { old: 0, count: 1, event: 2, notify: false },
    { old: 0, count: 3, event: 2, notify: true },
    { old: 0, count: 3, event: 4, notify: false },
    { old: 5, count: 1, event: 5, notify: false },
    { old: 5, count: 1, event: 6, notify: true },
    { old: 0xffffffff, count: 1, event: 0, notify: true },
    { old: 0xffffffff, count: 1, event: 1, notify: false },
    { old: 0xfffffffe, count: 4, event: 2, notify: true },
    { old: 0xfffffffe, count: 4, event: 0xfffffffe, notify: false },
  ])('from $old, $count more with the other at $event: $notify', ({ old, count, event, notify }) => {
    const { pages, front, back } = pair(112, old);
    pages.store32(REQ_EVENT, event);
    const slot = new Int32Array(28);
    for (let n = 0; n < count; n++) front.put(slot);
    expect(front.push()).toBe(notify);
    pages.store32(RSP_EVENT, event);
    for (let n = 0; n < count; n++) {
      back.take(slot);
      back.put(slot.subarray(0, 4));
    }
    expect(back.push()).toBe(notify);
  });

  it('publishes and notifies nothing when nothing was put', () => {
    const { front, back } = pair(112);
    expect([front.push(), back.push()]).toEqual([false, false]);
  });

  it('does not show the other side what was not pushed', () => {
    const { front, back } = pair(16);
    const slot = new Int32Array(4);
    front.put(fill(slot, 1));
    expect(back.take(slot)).toBe(false);
    expect(back.finalCheck()).toBe(false);
    expect(front.push()).toBe(true);
    expect(back.take(slot)).toBe(true);
    back.put(slot);
    expect(front.take(slot)).toBe(false);
    expect(front.finalCheck()).toBe(false);
    expect(back.push()).toBe(true);
    expect(front.finalCheck()).toBe(true);
  });
});

describe('a full ring', () => {
  it('takes no more requests, and no response without a request', () => {
    const { front, back } = pair(112, 0xfffffff0);
    const slot = new Int32Array(28);
    expect(() => back.put(slot)).toThrow(RangeError);
    for (let n = 0; n < 32; n++) front.put(slot);
    expect([front.free, front.inFlight]).toEqual([0, 32]);
    expect(() => front.put(slot)).toThrow(RangeError);
    front.push();
    expect(back.take(slot)).toBe(true);
    expect(back.inFlight).toBe(1);
    back.put(slot.subarray(0, 4));
    expect(() => back.put(slot)).toThrow(RangeError);
    back.push();
    expect(front.take(slot)).toBe(true);
    expect([front.free, front.inFlight]).toEqual([1, 31]);
  });

  it('refuses slots of the wrong length and loses nothing by it', () => {
    const { front, back } = pair(16);
    const slot = new Int32Array(4);
    expect(() => front.put(new Int32Array(3))).toThrow(RangeError);
    front.put(fill(slot, 7));
    front.push();
    expect(() => back.take(new Int32Array(3))).toThrow(RangeError);
    const taken = new Int32Array(4);
    expect(back.take(taken)).toBe(true);
    expect(taken).toEqual(slot);
    expect(() => back.put(new Int32Array(5))).toThrow(RangeError);
    back.put(slot);
    expect(back.push()).toBe(true);
  });

  it('leaves the rest of a slot as the frontend wrote it, and reads no more than is asked for', () => {
    const { pages, front, back } = pair(16);
    const slot = fill(new Int32Array(4), 3);
    front.put(slot);
    front.push();
    back.take(new Int32Array(4));
    back.put(Int32Array.of(-1));
    back.push();
    const now = new Int32Array(4);
    pages.readWords(RING_HEADER_BYTES, now, 4);
    expect([...now]).toEqual([-1, ...slot.subarray(1)]);
    const response = new Int32Array(2);
    expect(front.take(response)).toBe(true);
    expect([...response]).toEqual([-1, slot[1]]);
  });
});

describe('a hostile other side', () => {
  it('cannot change a request after it was taken', () => {
    const { pages, front, back } = pair(112);
    const slot = fill(new Int32Array(28), 1);
    front.put(slot);
    front.push();
    const taken = new Int32Array(28);
    back.take(taken);
    pages.writeWords(RING_HEADER_BYTES, new Int32Array(28).fill(-1), 28);
    expect(taken).toEqual(slot);
  });

  it.each([33, 1000, 0x80000000, 0xffffffff])('moves req_prod %i on: refused', (step) => {
    for (const index of [0, 0xfffffff0]) {
      const { pages, back } = pair(112, index);
      pages.store32(REQ_PROD, index + step);
      expect(() => back.take(new Int32Array(28))).toThrow(ProtocolError);
      expect(() => back.finalCheck()).toThrow(ProtocolError);
    }
  });

  it('may fill the ring exactly', () => {
    const { pages, back } = pair(112, 0xfffffff0);
    pages.store32(REQ_PROD, 0xfffffff0 + 32);
    const slot = new Int32Array(28);
    for (let n = 0; n < 32; n++) expect(back.take(slot)).toBe(true);
    expect(back.take(slot)).toBe(false);
  });

  it('moves req_prod back over requests that were taken: refused', () => {
    const { pages, front, back } = pair(112, 0xffffffff);
    const slot = new Int32Array(28);
    for (let n = 0; n < 3; n++) front.put(slot);
    front.push();
    for (let n = 0; n < 3; n++) back.take(slot);
    pages.store32(REQ_PROD, 1);
    expect(() => back.take(slot)).toThrow(ProtocolError);
    pages.store32(REQ_PROD, 0xffffffff);
    expect(() => back.finalCheck()).toThrow(ProtocolError);
  });

  it('has no room for new requests until old ones were answered', () => {
    const { pages, front, back } = pair(112);
    const slot = new Int32Array(28);
    for (let n = 0; n < 32; n++) front.put(slot);
    front.push();
    for (let n = 0; n < 32; n++) back.take(slot);
    pages.store32(REQ_PROD, 33);
    expect(() => back.take(slot)).toThrow(ProtocolError);
    back.put(slot.subarray(0, 4));
    expect(back.take(slot)).toBe(true);
  });

  it.each([1, 4, 0x80000000, 0xffffffff])('answers %i requests of none: refused', (step) => {
    for (const index of [0, 0xfffffffe]) {
      const { pages, front } = pair(112, index);
      front.put(new Int32Array(28)); // put, but not pushed: the backend cannot have seen it
      pages.store32(RSP_PROD, index + step);
      expect(() => front.take(new Int32Array(28))).toThrow(ProtocolError);
      expect(() => front.finalCheck()).toThrow(ProtocolError);
    }
  });

  it('takes a response back: refused', () => {
    const { pages, front } = pair(112);
    for (let n = 0; n < 4; n++) front.put(new Int32Array(28));
    front.push();
    pages.store32(RSP_PROD, 2);
    expect(front.take(new Int32Array(4))).toBe(true);
    expect(front.take(new Int32Array(4))).toBe(true);
    pages.store32(RSP_PROD, 1);
    expect(() => front.take(new Int32Array(4))).toThrow(ProtocolError);
  });

  it('cannot make an end believe its own index', () => {
    const { pages, front, back } = pair(112);
    const slot = new Int32Array(28);
    front.put(slot);
    front.push();
    pages.store32(REQ_PROD, 20);
    front.put(slot);
    front.push();
    expect(pages.load32(REQ_PROD)).toBe(2);
    back.take(slot);
    back.put(slot.subarray(0, 4));
    pages.store32(RSP_PROD, 9);
    back.push();
    expect(pages.load32(RSP_PROD)).toBe(1);
  });
});

const OPERATIONS = [
  'front.put',
  'front.push',
  'front.take',
  'front.finalCheck',
  'back.take',
  'back.put',
  'back.push',
  'back.finalCheck',
] as const;
type Operation = (typeof OPERATIONS)[number];

function check(condition: boolean, claim: string): void {
  if (!condition) throw new Error(claim);
}

const same = (a: Int32Array, b: Int32Array) => a.every((word, index) => word === b[index]);

/**
 * Both ends of a ring as two programs that stop looking once `finalCheck` says that they may, until they are notified.
 * Between any two accesses to an index by one, the other may run whole operations ({@link gaps}).
 */
class Exchange {
  readonly front: FrontRing;
  readonly back: BackRing;
  readonly gaps: Operation[] = [];
  readonly asleep = { front: false, back: false };
  sent = 0;
  taken = 0;
  answered = 0;
  completed = 0;
  /** As far as a push that has begun, and one that has ended, made them known. */
  readonly requests = { begun: 0, pushed: 0 };
  readonly responses = { begun: 0, pushed: 0 };
  readonly #slot: Int32Array;
  #nested = false;

  constructor(pageCount: number, slotBytes: number, index: number) {
    const pages = somePages(pageCount);
    this.#slot = new Int32Array(slotBytes / 4);
    this.front = FrontRing.create(new PagedMemory(this.#interrupted('back'), pages), slotBytes, index);
    this.back = BackRing.attach(new PagedMemory(this.#interrupted('front'), pages), slotBytes, index);
  }

  run(operation: Operation): void {
    const side = operation.startsWith('front') ? 'front' : 'back';
    const looks = operation.endsWith('take') || operation.endsWith('finalCheck');
    if (!looks || !this.asleep[side]) this.#carryOut(operation);
    if (this.#nested) return;
    // Whoever sleeps knows all that was pushed: else its wake-up was lost.
    check(!this.asleep.back || this.taken === this.requests.pushed, 'the backend sleeps on a request');
    check(!this.asleep.front || this.completed === this.responses.pushed, 'the frontend sleeps on a response');
  }

  #carryOut(operation: Operation): void {
    switch (operation) {
      case 'front.put':
        if (this.front.free > 0) this.front.put(fill(this.#slot, this.sent++));
        check(this.front.inFlight === this.sent - this.completed, 'front.inFlight');
        break;
      case 'front.push':
        this.requests.begun = this.sent;
        if (this.front.push()) this.asleep.back = false;
        this.requests.pushed = this.requests.begun;
        break;
      case 'back.take': {
        const known = this.requests.pushed;
        const slot = this.#slot.slice();
        if (this.back.take(slot)) {
          check(this.taken < this.requests.begun, 'a request that was not pushed');
          check(same(slot, fill(this.#slot, this.taken++)), 'a wrong request');
        } else check(this.taken >= known, 'a request was pushed and is not there');
        break;
      }
      case 'back.put':
        if (this.back.inFlight > 0) this.back.put(fill(this.#slot, ~this.answered++).subarray(0, 4));
        check(this.back.inFlight === this.taken - this.answered, 'back.inFlight');
        break;
      case 'back.push':
        this.responses.begun = this.answered;
        if (this.back.push()) this.asleep.front = false;
        this.responses.pushed = this.responses.begun;
        break;
      case 'front.take': {
        const known = this.responses.pushed;
        const response = new Int32Array(4);
        if (this.front.take(response)) {
          check(this.completed < this.responses.begun, 'a response that was not pushed');
          check(same(response, fill(this.#slot, ~this.completed++)), 'a wrong response');
        } else check(this.completed >= known, 'a response was pushed and is not there');
        break;
      }
      case 'front.finalCheck':
        this.asleep.front = !this.front.finalCheck();
        break;
      case 'back.finalCheck':
        this.asleep.back = !this.back.finalCheck();
        break;
    }
  }

  /** Ends what is under way, each end looking at the ring only while it is awake. */
  drain(): void {
    this.gaps.length = 0;
    this.run('front.push');
    while (!this.asleep.back && this.taken < this.sent) this.run('back.take');
    while (this.answered < this.taken) this.run('back.put');
    this.run('back.push');
    while (!this.asleep.front && this.completed < this.answered) this.run('front.take');
  }

  /** A runtime that lets `other` run before every access to an index. */
  #interrupted(other: 'front' | 'back'): Runtime {
    const interrupt = () => {
      if (this.#nested) return;
      const operation = this.gaps.shift();
      if (operation === undefined || !operation.startsWith(other)) return;
      this.#nested = true;
      this.run(operation);
      this.#nested = false;
    };
    return {
      ...runtime,
      load: (words, index) => {
        interrupt();
        return runtime.load(words, index);
      },
      store: (words, index, value) => {
        interrupt();
        runtime.store(words, index, value);
      },
    };
  }
}

describe('both ends together', () => {
  const geometry = fc.constantFrom(
    [1, 16],
    [1, 112],
    [1, 1000],
    [1, 2016],
    [1, 4032],
    [2, 112], // slots across the page border from here on
    [3, 1000],
    [4, 60],
  );
  const index = fc.oneof(fc.constantFrom(0, 0xfffffff0, 0xfffffffe, 0xffffffff, 0x7ffffffe), fc.nat(0xffffffff));
  const steps = fc.array(
    fc.record({
      operation: fc.constantFrom(...OPERATIONS),
      gaps: fc.array(fc.constantFrom(...OPERATIONS), { maxLength: 3 }),
    }),
    { minLength: 50, maxLength: 400 },
  );

  it('lose, repeat and reorder nothing, and no wake-up, however they run', () => {
    fc.assert(
      fc.property(geometry, index, steps, ([pageCount, slotBytes], start, plan) => {
        const exchange = new Exchange(pageCount!, slotBytes!, start);
        for (const { operation, gaps } of plan) {
          exchange.gaps.splice(0, exchange.gaps.length, ...gaps);
          exchange.run(operation);
        }
        exchange.drain();
        expect([exchange.taken, exchange.answered, exchange.completed]).toEqual(new Array(3).fill(exchange.sent));
      }),
      { numRuns: 300 },
    );
  });

  it('keep going far beyond 2^32', () => {
    const exchange = new Exchange(2, 112, 0xffff_ff00);
    for (let round = 0; round < 1000; round++) {
      for (let n = 0; n <= round % 70; n++) exchange.run('front.put');
      exchange.drain();
      exchange.run('front.finalCheck');
      exchange.run('back.finalCheck');
    }
    expect(exchange.sent).toBeGreaterThan(30_000);
    expect(exchange.completed).toBe(exchange.sent);
  });
});
