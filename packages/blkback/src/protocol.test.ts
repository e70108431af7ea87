import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  BLKIF_MAX_SEGMENTS_PER_REQUEST,
  BLKIF_RESPONSE_WORDS,
  BLKIF_SLOT_BYTES,
  BLKIF_SLOT_WORDS,
  BlkifRequest,
  BlkifResponse,
} from './protocol.ts';

/** A slot's words, through bytes written at the offsets of the public header's structures. */
function slotOf(write: (view: DataView) => void, fill = 0): Int32Array {
  const bytes = new Uint8Array(BLKIF_SLOT_BYTES).fill(fill);
  write(new DataView(bytes.buffer));
  return new Int32Array(bytes.buffer);
}

const bytesOf = (words: Int32Array): DataView => new DataView(words.buffer, words.byteOffset, words.byteLength);

describe('blkif_request_t of 64-bit guests', () => {
  it('is read at the offsets of the header', () => {
    const slot = slotOf((view) => {
      view.setUint8(0, 1);
      view.setUint8(1, 2);
      view.setUint16(2, 0xca01, true);
      view.setUint32(4, 0xffff_ffff, true); // padding
      view.setBigUint64(8, 0x8877_6655_4433_2211n, true);
      view.setBigUint64(16, 0x0001_0002_0304_0506n, true);
      view.setUint32(24, 0x8000_0007, true);
      view.setUint8(28, 3);
      view.setUint8(29, 6);
      view.setUint16(30, 0xffff, true); // padding
      view.setUint32(32, 9, true);
      view.setUint8(36, 0);
      view.setUint8(37, 7);
    });
    const request = new BlkifRequest();
    request.decode(slot);
    expect(request).toMatchObject({ operation: 1, segmentCount: 2, handle: 0xca01, sector: 0x0001_0002_0304_0506 });
    expect([request.idLow >>> 0, request.idHigh >>> 0]).toEqual([0x4433_2211, 0x8877_6655]);
    expect([...request.references.subarray(0, 2)]).toEqual([0x8000_0007, 9]);
    expect([...request.firstSectors.subarray(0, 2)]).toEqual([3, 0]);
    expect([...request.lastSectors.subarray(0, 2)]).toEqual([6, 7]);
  });

  it('has its eleventh segment at byte 104 and ends at 112', () => {
    expect([BLKIF_MAX_SEGMENTS_PER_REQUEST, BLKIF_SLOT_BYTES, BLKIF_SLOT_WORDS]).toEqual([11, 112, 28]);
    const slot = slotOf((view) => {
      view.setUint8(1, 11);
      view.setUint32(104, 77, true);
      view.setUint8(108, 1);
      view.setUint8(109, 2);
    });
    const request = new BlkifRequest();
    request.decode(slot);
    expect([request.references[10], request.firstSectors[10], request.lastSectors[10]]).toEqual([77, 1, 2]);
  });

  it('tells a segment count that is too large, without reading beyond the slot', () => {
    const request = new BlkifRequest();
    request.decode(slotOf((view) => view.setUint8(1, 255), 0xff));
    expect(request.segmentCount).toBe(255);
    expect(request.references.length).toBe(11);
  });

  it('keeps sectors beyond 2^53 beyond every device', () => {
    const request = new BlkifRequest();
    for (const sector of [2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]) {
      request.decode(slotOf((view) => view.setBigUint64(16, sector, true)));
      expect(request.sector).toBeGreaterThanOrEqual(2 ** 53);
    }
  });

  it('is written at the offsets of the header, nothing of the previous request left', () => {
    const request = new BlkifRequest();
    Object.assign(request, {
      operation: 0,
      segmentCount: 1,
      handle: 0x1234,
      idLow: 5,
      idHigh: -1,
      sector: 2 ** 40 + 3,
    });
    request.references[0] = 0xffff_fff0;
    request.firstSectors[0] = 2;
    request.lastSectors[0] = 7;
    request.references[1] = 99;
    const slot = new Int32Array(BLKIF_SLOT_WORDS).fill(-1);
    request.encode(slot);
    const view = bytesOf(slot);
    expect([view.getUint8(0), view.getUint8(1), view.getUint16(2, true)]).toEqual([0, 1, 0x1234]);
    expect(view.getUint32(4, true)).toBe(0);
    expect(view.getBigUint64(8, true)).toBe(0xffff_ffff_0000_0005n);
    expect(view.getBigUint64(16, true)).toBe(2n ** 40n + 3n);
    expect([view.getUint32(24, true), view.getUint8(28), view.getUint8(29)]).toEqual([0xffff_fff0, 2, 7]);
    expect(view.getUint16(30, true)).toBe(0);
    for (let offset = 32; offset < BLKIF_SLOT_BYTES; offset++) expect(view.getUint8(offset)).toBe(0);
  });

  it('comes back as it went', () => {
    const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
    const segment = fc.record({ gref: u32, first: fc.nat(255), last: fc.nat(255) });
    const fields = fc.record({
      operation: fc.nat(255),
      handle: fc.nat(0xffff),
      idLow: fc.integer(),
      idHigh: fc.integer(),
      sector: fc.maxSafeNat(),
      segments: fc.array(segment, { maxLength: 11 }),
    });
    fc.assert(
      fc.property(fields, ({ segments, ...head }) => {
        const sent = Object.assign(new BlkifRequest(), head, { segmentCount: segments.length });
        segments.forEach(({ gref, first, last }, index) => {
          sent.references[index] = gref;
          sent.firstSectors[index] = first;
          sent.lastSectors[index] = last;
        });
        const slot = new Int32Array(BLKIF_SLOT_WORDS);
        sent.encode(slot);
        const got = new BlkifRequest();
        got.decode(slot);
        expect(got).toEqual(sent);
      }),
    );
  });
});

describe('blkif_response_t', () => {
  it('is read at the offsets of the header, its status signed', () => {
    const response = new BlkifResponse();
    response.decode(
      slotOf((view) => {
        view.setBigUint64(0, 0x0102_0304_0506_0708n, true);
        view.setUint8(8, 3);
        view.setInt16(10, -2, true);
      }, 0xff),
    );
    expect(response).toEqual({ idLow: 0x0506_0708, idHigh: 0x0102_0304, operation: 3, status: -2 });
  });

  it('is written whole, padding included, so that nothing old leaks', () => {
    const response = Object.assign(new BlkifResponse(), { idLow: -2, idHigh: 7, operation: 1, status: -1 });
    const words = new Int32Array(BLKIF_RESPONSE_WORDS).fill(-1);
    response.encode(words);
    const view = bytesOf(words);
    expect(view.byteLength).toBe(16);
    expect(view.getBigUint64(0, true)).toBe(0x0000_0007_ffff_fffen);
    expect([view.getUint8(8), view.getUint8(9), view.getInt16(10, true)]).toEqual([1, 0, -1]);
    expect(view.getUint32(12, true)).toBe(0);
  });

  it('comes back as it went', () => {
    const fields = fc.record({
      idLow: fc.integer(),
      idHigh: fc.integer(),
      operation: fc.nat(255),
      status: fc.integer({ min: -0x8000, max: 0x7fff }),
    });
    fc.assert(
      fc.property(fields, (sent) => {
        const words = new Int32Array(BLKIF_RESPONSE_WORDS);
        Object.assign(new BlkifResponse(), sent).encode(words);
        const got = new BlkifResponse();
        got.decode(words);
        expect(got).toEqual(sent);
      }),
    );
  });
});
