/**
 * The xenstore wire format (`xen/include/public/io/xs_wire.h`): a 16-byte header of four little-endian words, then the
 * payload. Text on the wire is bytes; here it is held as strings of one character a byte ("latin-1"), so that nothing is
 * lost on the way through. Values stay `Uint8Array`.
 */

/** `enum xsd_sockmsg_type`. 20 was RESTRICT and is dead; 23 to 26 are newer than Xen 4.17. */
export const XsdSockmsgType = {
  XS_CONTROL: 0,
  XS_DIRECTORY: 1,
  XS_READ: 2,
  XS_GET_PERMS: 3,
  XS_WATCH: 4,
  XS_UNWATCH: 5,
  XS_TRANSACTION_START: 6,
  XS_TRANSACTION_END: 7,
  XS_INTRODUCE: 8,
  XS_RELEASE: 9,
  XS_GET_DOMAIN_PATH: 10,
  XS_WRITE: 11,
  XS_MKDIR: 12,
  XS_RM: 13,
  XS_SET_PERMS: 14,
  XS_WATCH_EVENT: 15,
  XS_ERROR: 16,
  XS_IS_DOMAIN_INTRODUCED: 17,
  XS_RESUME: 18,
  XS_SET_TARGET: 19,
  XS_RESET_WATCHES: 21,
  XS_DIRECTORY_PART: 22,
  XS_GET_FEATURE: 23,
  XS_SET_FEATURE: 24,
  XS_GET_QUOTA: 25,
  XS_SET_QUOTA: 26,
} as const;
export type XsdSockmsgTypeName = keyof typeof XsdSockmsgType;

const typeNames = new Map<number, XsdSockmsgTypeName>(
  (Object.keys(XsdSockmsgType) as XsdSockmsgTypeName[]).map((name) => [XsdSockmsgType[name], name]),
);

/** The operation's name without `XS_`, or its number when unknown. */
export const operationName = (type: number): string => typeNames.get(type)?.slice('XS_'.length) ?? `operation ${type}`;

/** `struct xsd_sockmsg`: type, req_id, tx_id, len. */
export const HEADER_SIZE = 16;
/** Largest payload in either direction. A connection that exceeds it is closed. */
export const XENSTORE_PAYLOAD_MAX = 4096;
/** Size of the whole of the largest message. */
export const MESSAGE_MAX = HEADER_SIZE + XENSTORE_PAYLOAD_MAX;

/** The errors that cross the wire, by name (`xsd_errors[]`). */
export const xsdErrors = [
  'EINVAL',
  'EACCES',
  'EEXIST',
  'EISDIR',
  'ENOENT',
  'ENOMEM',
  'ENOSPC',
  'EIO',
  'ENOTEMPTY',
  'ENOSYS',
  'EROFS',
  'EBUSY',
  'EAGAIN',
  'EISCONN',
  'E2BIG',
  'EPERM',
] as const;
export type XsdError = (typeof xsdErrors)[number];

const errorNames: ReadonlySet<string> = new Set(xsdErrors);
export const isXsdError = (name: string): name is XsdError => errorNames.has(name);

/** Reads a little-endian unsigned word. The caller has checked the range. */
export function readWord(bytes: Uint8Array, offset: number): number {
  return (
    ((bytes[offset] ?? 0) |
      ((bytes[offset + 1] ?? 0) << 8) |
      ((bytes[offset + 2] ?? 0) << 16) |
      ((bytes[offset + 3] ?? 0) << 24)) >>>
    0
  );
}

function writeWord(bytes: Uint8Array, offset: number, value: number): void {
  bytes[offset] = value;
  bytes[offset + 1] = value >>> 8;
  bytes[offset + 2] = value >>> 16;
  bytes[offset + 3] = value >>> 24;
}

const latin1Characters: readonly string[] = Array.from({ length: 256 }, (_, byte) => String.fromCharCode(byte));

/** Bytes `start` to `end` as a string of one character a byte. */
export function readLatin1(bytes: Uint8Array, start: number, end: number): string {
  // Appending is faster than String.fromCharCode.apply up to a few hundred characters, which is what paths have.
  let text = '';
  for (let i = start; i < end; i++) text += latin1Characters[bytes[i] ?? 0];
  return text;
}

/** A message as received. One object is reused for all: use it before asking for the next. */
export interface Packet {
  type: number;
  /** Request identifier, echoed in the reply. */
  reqId: number;
  /** Transaction id, 0 for none. */
  txId: number;
  /** Holds the payload from `start` to `end`. */
  bytes: Uint8Array;
  start: number;
  end: number;
}

/** Index of the first NUL of the payload at or after `from`, or -1. */
export function findNul(packet: Packet, from: number): number {
  const { bytes, end } = packet;
  for (let i = from; i < end; i++) if (bytes[i] === 0) return i;
  return -1;
}

/** The payload's NUL-terminated strings, at most `limit`; bytes after the last NUL are ignored. */
export function payloadStrings(packet: Packet, limit = Number.POSITIVE_INFINITY): string[] {
  const strings: string[] = [];
  for (let from = packet.start; strings.length < limit; ) {
    const nul = findNul(packet, from);
    if (nul < 0) break;
    strings.push(readLatin1(packet.bytes, from, nul));
    from = nul + 1;
  }
  return strings;
}

/** A private copy of bytes `start` to `end`. */
export function copyBytes(bytes: Uint8Array, start: number, end: number): Uint8Array {
  const copy = new Uint8Array(end - start);
  if (end - start < 64) for (let i = start; i < end; i++) copy[i - start] = bytes[i] ?? 0;
  else copy.set(bytes.subarray(start, end));
  return copy;
}

export type ParseResult = 'packet' | 'incomplete' | 'too-long';

/**
 * Cuts a byte stream into messages. `push` a chunk, then call `next` until it says `incomplete`; a payload that lies
 * within a chunk is not copied. To stop in between, call `retain` before the chunk goes away.
 */
export class PacketParser {
  readonly packet: Packet = { type: 0, reqId: 0, txId: 0, bytes: new Uint8Array(0), start: 0, end: 0 };
  #chunk: Uint8Array = new Uint8Array(0);
  #offset = 0;
  /** The beginning of a message that came in parts. */
  readonly #partial = new Uint8Array(MESSAGE_MAX);
  #partialLength = 0;

  /** Adds a chunk after what is left of the one before. */
  push(chunk: Uint8Array): void {
    if (this.#offset < this.#chunk.length) {
      const rest = this.#chunk.subarray(this.#offset);
      const joined = new Uint8Array(rest.length + chunk.length);
      joined.set(rest);
      joined.set(chunk, rest.length);
      this.#chunk = joined;
    } else this.#chunk = chunk;
    this.#offset = 0;
  }

  /** `packet`: {@link packet} holds the next message. `too-long`: the stream can't be believed any more. */
  next(): ParseResult {
    if (this.#partialLength > 0) return this.#nextOfPartial();
    const available = this.#chunk.length - this.#offset;
    if (available < HEADER_SIZE) return this.#keepPartial(available);
    const length = readWord(this.#chunk, this.#offset + 12);
    if (length > XENSTORE_PAYLOAD_MAX) return 'too-long';
    if (available < HEADER_SIZE + length) return this.#keepPartial(available);
    this.#fill(this.#chunk, this.#offset, length);
    this.#offset += HEADER_SIZE + length;
    return 'packet';
  }

  /** Takes a copy of what has not been parsed, so that the chunk may be reused. */
  retain(): void {
    this.#chunk = copyBytes(this.#chunk, this.#offset, this.#chunk.length);
    this.#offset = 0;
  }

  /** Forgets everything: the stream begins anew on a message boundary. */
  reset(): void {
    this.#chunk = new Uint8Array(0);
    this.#offset = 0;
    this.#partialLength = 0;
  }

  #nextOfPartial(): ParseResult {
    if (!this.#completePartial(HEADER_SIZE)) return 'incomplete';
    const length = readWord(this.#partial, 12);
    if (length > XENSTORE_PAYLOAD_MAX) return 'too-long';
    if (!this.#completePartial(HEADER_SIZE + length)) return 'incomplete';
    this.#partialLength = 0;
    this.#fill(this.#partial, 0, length);
    return 'packet';
  }

  #keepPartial(available: number): ParseResult {
    this.#completePartial(available);
    return 'incomplete';
  }

  /** Moves bytes of the chunk to the partial message until that has `length`; false when the chunk ends before. */
  #completePartial(length: number): boolean {
    const take = Math.min(length - this.#partialLength, this.#chunk.length - this.#offset);
    if (take > 0) {
      this.#partial.set(this.#chunk.subarray(this.#offset, this.#offset + take), this.#partialLength);
      this.#partialLength += take;
      this.#offset += take;
    }
    return this.#partialLength >= length;
  }

  #fill(bytes: Uint8Array, offset: number, length: number): void {
    const { packet } = this;
    packet.type = readWord(bytes, offset);
    packet.reqId = readWord(bytes, offset + 4);
    packet.txId = readWord(bytes, offset + 8);
    packet.bytes = bytes;
    packet.start = offset + HEADER_SIZE;
    packet.end = packet.start + length;
  }
}

/**
 * A growing buffer of whole messages, reused. `begin`, then the parts of the payload, then `end`. A payload above the
 * limit is not refused here: look at what `end` returns and `drop`.
 */
export class PacketWriter {
  #bytes: Uint8Array;
  #length = 0;
  /** Where the message being written begins. */
  #begin = 0;

  constructor(capacity = 2 * MESSAGE_MAX) {
    this.#bytes = new Uint8Array(capacity);
  }

  get length(): number {
    return this.#length;
  }

  /** What has been written. Valid until the next write. */
  get bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }

  clear(): void {
    // A burst must not keep its memory for ever.
    if (this.#bytes.length > 1 << 20) this.#bytes = new Uint8Array(2 * MESSAGE_MAX);
    this.#length = 0;
  }

  begin(type: number, reqId: number, txId: number): void {
    this.#reserve(HEADER_SIZE);
    this.#begin = this.#length;
    writeWord(this.#bytes, this.#length, type);
    writeWord(this.#bytes, this.#length + 4, reqId);
    writeWord(this.#bytes, this.#length + 8, txId);
    this.#length += HEADER_SIZE;
  }

  /** Ends the message and returns the length of its payload. */
  end(): number {
    const length = this.#length - this.#begin - HEADER_SIZE;
    writeWord(this.#bytes, this.#begin + 12, length);
    return length;
  }

  /** Takes the message begun last away again. */
  drop(): void {
    this.#length = this.#begin;
  }

  /** Appends the characters of `text`, a byte each, without a NUL. */
  text(text: string): void {
    this.#reserve(text.length);
    const bytes = this.#bytes;
    let at = this.#length;
    for (let i = 0; i < text.length; i++) bytes[at++] = text.charCodeAt(i);
    this.#length = at;
  }

  /** Appends the characters of `text`, a byte each, and a NUL. */
  string(text: string): void {
    this.text(text);
    this.#reserve(1);
    this.#bytes[this.#length++] = 0;
  }

  data(source: Uint8Array): void {
    const count = source.length;
    this.#reserve(count);
    if (count < 64) for (let i = 0; i < count; i++) this.#bytes[this.#length + i] = source[i] ?? 0;
    else this.#bytes.set(source, this.#length);
    this.#length += count;
  }

  #reserve(count: number): void {
    if (this.#length + count <= this.#bytes.length) return;
    const grown = new Uint8Array(Math.max(2 * this.#bytes.length, this.#length + count));
    grown.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = grown;
  }
}
