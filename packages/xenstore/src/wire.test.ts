import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  HEADER_SIZE,
  MESSAGE_MAX,
  operationName,
  PacketParser,
  PacketWriter,
  payloadStrings,
  readLatin1,
  XENSTORE_PAYLOAD_MAX,
  XsdSockmsgType,
  xsdErrors,
} from './wire.ts';

interface Message {
  readonly type: number;
  readonly reqId: number;
  readonly txId: number;
  readonly payload: string;
}

const word = fc.nat(0xffff_ffff);
const payload = fc
  .uint8Array({ maxLength: 300 })
  .map((bytes) => readLatin1(bytes, 0, bytes.length))
  .chain((text) => fc.constantFrom(text, text.repeat(13)));
const message: fc.Arbitrary<Message> = fc.record({ type: word, reqId: word, txId: word, payload });

function encode(messages: readonly Message[]): Uint8Array {
  const writer = new PacketWriter(16);
  for (const { type, reqId, txId, payload } of messages) {
    writer.begin(type, reqId, txId);
    writer.text(payload);
    writer.end();
  }
  return writer.bytes.slice();
}

function readAll(parser: PacketParser, into: Message[]): string {
  for (;;) {
    const result = parser.next();
    if (result !== 'packet') return result;
    const { type, reqId, txId, bytes, start, end } = parser.packet;
    into.push({ type, reqId, txId, payload: readLatin1(bytes, start, end) });
  }
}

/** Cuts `bytes` at the positions that `cuts` gives, each in a buffer that is destroyed after its use. */
function feed(parser: PacketParser, bytes: Uint8Array, cuts: readonly number[], into: Message[]): string {
  const positions = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].sort((a, b) => a - b);
  let result = 'incomplete';
  let from = 0;
  for (const to of [...positions, bytes.length]) {
    const chunk = bytes.slice(from, to);
    from = to;
    parser.push(chunk);
    result = readAll(parser, into);
    chunk.fill(0xee);
  }
  return result;
}

describe('constants of xs_wire.h', () => {
  it('has the numbers of enum xsd_sockmsg_type', () => {
    expect(XsdSockmsgType.XS_WATCH_EVENT).toBe(15);
    expect(XsdSockmsgType.XS_ERROR).toBe(16);
    expect(XsdSockmsgType.XS_SET_TARGET).toBe(19);
    expect(XsdSockmsgType.XS_RESET_WATCHES).toBe(21);
    expect(XsdSockmsgType.XS_DIRECTORY_PART).toBe(22);
    expect(XsdSockmsgType.XS_SET_QUOTA).toBe(26);
    expect(new Set(Object.values(XsdSockmsgType)).size).toBe(Object.keys(XsdSockmsgType).length);
    expect(Object.values(XsdSockmsgType)).not.toContain(20);
    expect(operationName(22)).toBe('DIRECTORY_PART');
    expect(operationName(20)).toBe('operation 20');
  });

  it('has the limits, and the errors in their order', () => {
    expect([HEADER_SIZE, XENSTORE_PAYLOAD_MAX, MESSAGE_MAX]).toEqual([16, 4096, 4112]);
    expect(xsdErrors.slice(0, 5)).toEqual(['EINVAL', 'EACCES', 'EEXIST', 'EISDIR', 'ENOENT']);
    expect(xsdErrors.at(-1)).toBe('EPERM');
  });
});

describe('PacketWriter', () => {
  it('lays out type, req_id, tx_id and len as little-endian words', () => {
    const writer = new PacketWriter();
    writer.begin(XsdSockmsgType.XS_READ, 0x01020304, 0xfffefdfc);
    writer.string('/a');
    expect(writer.end()).toBe(3);
    expect([...writer.bytes]).toEqual([2, 0, 0, 0, 4, 3, 2, 1, 0xfc, 0xfd, 0xfe, 0xff, 3, 0, 0, 0, 0x2f, 0x61, 0]);
  });

  it('takes back the last message only', () => {
    const writer = new PacketWriter();
    writer.begin(1, 1, 0);
    writer.end();
    writer.begin(2, 2, 0);
    writer.data(new Uint8Array(5000));
    expect(writer.end()).toBe(5000);
    writer.drop();
    expect(writer.length).toBe(HEADER_SIZE);
    expect(writer.bytes[0]).toBe(1);
  });
});

describe('PacketParser', () => {
  it('gives back what was written, however the stream is cut', () => {
    fc.assert(
      fc.property(
        fc.array(message, { maxLength: 12 }),
        fc.array(fc.nat(20_000), { maxLength: 12 }),
        (messages, cuts) => {
          const received: Message[] = [];
          expect(feed(new PacketParser(), encode(messages), cuts, received)).toBe('incomplete');
          expect(received).toEqual(messages);
        },
      ),
    );
  });

  it('can stop anywhere and go on with a copy of the rest', () => {
    fc.assert(
      fc.property(
        fc.array(message, { minLength: 1, maxLength: 12 }),
        fc.nat(12),
        fc.nat(2000),
        (messages, stop, cut) => {
          const bytes = encode(messages);
          const first = bytes.slice(0, cut % (bytes.length + 1));
          const parser = new PacketParser();
          const received: Message[] = [];
          parser.push(first);
          for (let i = 0; i < stop && parser.next() === 'packet'; i++) {
            const { type, reqId, txId, bytes, start, end } = parser.packet;
            received.push({ type, reqId, txId, payload: readLatin1(bytes, start, end) });
          }
          parser.retain();
          first.fill(0xee);
          parser.push(bytes.slice(first.length));
          readAll(parser, received);
          expect(received).toEqual(messages);
        },
      ),
    );
  });

  it('refuses a payload above the limit as soon as its header is there', () => {
    for (const cuts of [[], [3], [16], [1, 15]]) {
      const header = encode([{ type: 2, reqId: 1, txId: 0, payload: '' }]);
      header[12] = 1;
      header[13] = 0x10;
      expect(feed(new PacketParser(), header, cuts, [])).toBe('too-long');
    }
    const largest = encode([{ type: 2, reqId: 1, txId: 0, payload: 'x'.repeat(XENSTORE_PAYLOAD_MAX) }]);
    const received: Message[] = [];
    expect(feed(new PacketParser(), largest, [100, 4000], received)).toBe('incomplete');
    expect(received).toHaveLength(1);
  });

  it('survives any bytes', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 100 })), (chunks) => {
        const parser = new PacketParser();
        for (const chunk of chunks) {
          parser.push(chunk);
          if (readAll(parser, []) === 'too-long') parser.reset();
        }
      }),
    );
  });
});

describe('payloadStrings', () => {
  it('takes terminated strings and ignores what follows the last NUL', () => {
    const parser = new PacketParser();
    const strings = (text: string) => {
      parser.push(encode([{ type: 1, reqId: 1, txId: 0, payload: text }]));
      expect(parser.next()).toBe('packet');
      return payloadStrings(parser.packet);
    };
    expect(strings('')).toEqual([]);
    expect(strings('a')).toEqual([]);
    expect(strings('a\0')).toEqual(['a']);
    expect(strings('\0\0')).toEqual(['', '']);
    expect(strings('a\0b\0rest')).toEqual(['a', 'b']);
  });
});
