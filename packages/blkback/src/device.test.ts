import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { checkRequest, IoVector, refusal } from './device.ts';

const geometry = { sectors: 1000, sectorSize: 512, physicalSectorSize: 4096, readOnly: false, flushable: true };

describe('an I/O vector', () => {
  it('merges ranges that continue one another in the same buffer only', () => {
    const [a, b] = [new Uint8Array(100), new Uint8Array(100)];
    const vector = new IoVector();
    vector.add(a, 0, 10);
    vector.add(a, 10, 5);
    vector.add(a, 20, 5);
    vector.add(b, 25, 5);
    vector.add(b, 0, 0);
    vector.add(b, 30, 70);
    expect(vector.count).toBe(3);
    expect(vector.byteLength).toBe(95);
    expect(vector.offsets.slice(0, 3)).toEqual([0, 20, 25]);
    expect(vector.lengths.slice(0, 3)).toEqual([15, 5, 75]);
  });

  it('keeps no buffer alive once cleared, and is as new', () => {
    const vector = IoVector.of(new Uint8Array(8), new Uint8Array(9));
    expect([vector.count, vector.byteLength]).toEqual([2, 17]);
    vector.clear();
    expect([vector.count, vector.byteLength, vector.buffers.length]).toEqual([0, 0, 0]);
    const buffer = new Uint8Array(4);
    vector.add(buffer, 1, 3);
    expect([vector.count, vector.byteLength, vector.offsets[0], vector.lengths[0]]).toEqual([1, 3, 1, 3]);
  });

  it.each([
    [-1, 1],
    [0, -1],
    [0, 9],
    [8, 1],
    [Number.NaN, 1],
    [0, Number.NaN],
  ])('refuses the range %d, %d of 8 bytes', (offset, length) => {
    const vector = new IoVector();
    expect(() => vector.add(new Uint8Array(8), offset, length)).toThrow(RangeError);
    expect([vector.count, vector.byteLength]).toEqual([0, 0]);
  });
});

describe('a request to a device', () => {
  it('is served exactly when it is whole sectors inside', () => {
    const sector = fc.oneof(fc.integer({ min: -10, max: 1010 }), fc.constantFrom(0.5, 2 ** 53, 2 ** 63, Number.NaN));
    fc.assert(
      fc.property(sector, fc.integer({ min: -1, max: 1100 * 512 }), fc.boolean(), (at, bytes, whole) => {
        const byteLength = whole ? Math.floor(bytes / 512) * 512 : bytes;
        const count = byteLength / 512;
        const fits = Number.isInteger(at) && Number.isInteger(count) && count > 0 && at >= 0 && at + count <= 1000;
        expect(refusal(geometry, at, byteLength) === undefined).toBe(fits);
      }),
    );
  });

  it('is aligned to the logical sector size', () => {
    const large = { ...geometry, sectorSize: 4096 };
    expect(refusal(large, 8, 4096)).toBeUndefined();
    expect(refusal(large, 8, 512)).toContain('whole 4096-byte sectors');
    expect(refusal(large, 4, 4096)).toContain('whole 4096-byte sectors');
    expect(() => checkRequest(large, 4, 4096)).toThrow('whole 4096-byte sectors');
  });
});
