import koffi from 'koffi';
import { describe, expect, it } from 'vitest';
import { allocatePages } from '../memory.ts';
import { putAddress } from './addresses.ts';

const words = new Uint32Array(4);
const at = (index: number) => BigInt(words[index]!) | (BigInt(words[index + 1]!) << 32n);

describe.runIf(process.platform === 'linux')('addresses of buffers', () => {
  it('are those that the native side sees, whatever the kind of buffer', () => {
    const pool = Buffer.from('a part of a pool');
    const small = new Uint8Array(16);
    const shared = new Uint8Array(new SharedArrayBuffer(64), 3);
    const large = new Uint8Array(3_000_001);
    for (let round = 0; round < 2; round++) {
      for (const array of [pool, small, shared, large, pool]) {
        const offset = array.length - 9;
        putAddress(words, 2, array, offset, 9);
        expect(at(2)).toBe(koffi.address(array) + BigInt(offset));
      }
    }
  });

  it('carry over every boundary between the two words', () => {
    // Address space alone: no page of it is touched.
    const length = 2 ** 32 - 4096;
    const { address, buffer } = allocatePages(length);
    const all = new Uint8Array(buffer);
    for (const offset of [0, 1, 0xf_ffff, 0x10_0000, 2 ** 31 - 2 ** 20, 2 ** 31, length - 1]) {
      putAddress(words, 0, all, offset, 1);
      expect(at(0)).toBe(BigInt(address) + BigInt(offset));
      putAddress(words, 0, all.subarray(offset), 0, 1);
      expect(at(0)).toBe(BigInt(address) + BigInt(offset));
    }
  });

  it('are refused outside the array, and once its buffer was transferred', () => {
    const array = new Uint8Array(100);
    putAddress(words, 0, array, 0, 100);
    expect(() => putAddress(words, 0, array, 1, 100)).toThrow(RangeError);
    expect(() => putAddress(words, 0, array, -1, 1)).toThrow(RangeError);
    expect(() => putAddress(words, 0, array, Number.NaN, 1)).toThrow(RangeError);
    structuredClone(array.buffer, { transfer: [array.buffer] });
    expect(() => putAddress(words, 0, array, 0, 1)).toThrow(RangeError);
  });
});
