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
import { standardRuntime } from './runtime.ts';

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
