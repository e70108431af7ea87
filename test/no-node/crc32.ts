/** CRC-32 as zlib computes it, in nothing but the language. */
const table = new Uint32Array(256);
for (let byte = 0; byte < 256; byte++) {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb8_8320 : value >>> 1;
  table[byte] = value;
}

/** Goes on from `before`, the CRC-32 of what came earlier. */
export function crc32(bytes: Uint8Array, length: number, before: number): number {
  let value = ~before;
  for (let index = 0; index < length; index++) value = table[(value ^ bytes[index]!) & 0xff]! ^ (value >>> 8);
  return ~value >>> 0;
}
