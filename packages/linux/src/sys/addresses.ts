/**
 * Addresses of ordinary buffers, for tables of pointers that system calls take. Looking an address up costs a native
 * call, so each buffer's is kept: a buffer's memory never moves.
 */
import { addressOf } from './libc.ts';

// An address is kept as two small integers, `high * 2^20 + low`: adding an offset and splitting the sum into two 32-bit
// words then needs no floating point, which is slow under emulation.
const LOW_BITS = 20;
const LOW_MASK = (1 << LOW_BITS) - 1;
/** Offsets below this are added in integers. */
const MAX_FAST_OFFSET = 0x7fff_ffff - LOW_MASK;

interface Base {
  readonly high: number;
  readonly low: number;
  readonly address: number;
}

const bases = new WeakMap<ArrayBufferLike, Base>();
// Buffers mostly come several times in a row.
let lastBuffer: ArrayBufferLike | undefined;
let lastBase: Base = { high: 0, low: 0, address: 0 };

/**
 * Writes the address of byte `offset` of `array` as two 32-bit words, low first, at `index` of `words`.
 * @throws RangeError when `length` bytes from there are not inside `array` (it may have been detached since a check).
 */
export function putAddress(words: Uint32Array, index: number, array: Uint8Array, offset: number, length: number): void {
  if (!(offset >= 0 && length >= 0 && offset + length <= array.byteLength))
    throw new RangeError(`${length} bytes at ${offset} are outside a ${array.byteLength}-byte buffer`);
  const base = baseOf(array.buffer);
  const distance = array.byteOffset + offset;
  if (distance <= MAX_FAST_OFFSET) {
    const sum = base.low + distance;
    const high = base.high + (sum >>> LOW_BITS);
    words[index] = (high << LOW_BITS) | (sum & LOW_MASK);
    words[index + 1] = high >>> (32 - LOW_BITS);
  } else {
    const address = base.address + distance;
    words[index] = address;
    words[index + 1] = Math.floor(address / 2 ** 32);
  }
}

function baseOf(buffer: ArrayBufferLike): Base {
  if (lastBuffer === buffer) return lastBase;
  let base = bases.get(buffer);
  if (base === undefined) {
    const address = addressOf(buffer);
    base = { address, high: Math.floor(address / 2 ** LOW_BITS), low: address & LOW_MASK };
    bases.set(buffer, base);
  }
  lastBuffer = buffer;
  lastBase = base;
  return base;
}
