import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PagedMemory, type PageViews } from './paged-memory.ts';
import { PAGE_SIZE } from './platform.ts';
import { BackRing, FrontRing } from './request-ring.ts';
import { type Runtime, standardRuntime } from './runtime.ts';

const runtime = standardRuntime();

function somePages(count: number): PageViews[] {
  return Array.from({ length: count }, () => {
    const page = new ArrayBuffer(PAGE_SIZE);
    return { words: new Int32Array(page), bytes: new Uint8Array(page) };
  });
}

/** Words of a request that tell its number, all of them different. */
function fill(slot: Int32Array, sequence: number): Int32Array {
  for (let word = 0; word < slot.length; word++) slot[word] = Math.imul(sequence + 1, 0x9e3779b1) + word;
  return slot;
}

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
