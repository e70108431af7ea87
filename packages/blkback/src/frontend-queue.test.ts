import { BackRing, ErrnoError, type EventPort, type MappedPages, ProtocolError } from '@pvkit/ring';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { IoVector } from './device.ts';
import { FrontendQueue } from './frontend-queue.ts';
import { BLKIF_RESPONSE_WORDS, BLKIF_SLOT_BYTES, BLKIF_SLOT_WORDS, BlkifRequest, BlkifResponse } from './protocol.ts';
import { MemoryDevice, patternBytes, vectorOf } from './testing/memory-device.ts';
import { QueuePair, turns, until } from './testing/queue-pair.ts';

const SECTORS = 4096;

let pair: QueuePair;
let queue: FrontendQueue;
let failures: Error[];

beforeEach(() => {
  pair = new QueuePair();
  failures = [];
  queue = new FrontendQueue({
    platform: pair.frontend,
    backend: pair.backend.identity.domid,
    context: { domid: 1, device: 'device/vbd/51712' },
    failed: (reason) => failures.push(reason),
  });
});
afterEach(async () => {
  await pair.stop();
  queue.close(new Error('the end of the test'));
  expect(pair.backend.usage()).toEqual({ grantedPages: 0, quarantinedPages: 0, mappedPages: 0, eventPorts: 0 });
  expect(pair.frontend.usage()).toEqual({ grantedPages: 0, quarantinedPages: 0, mappedPages: 0, eventPorts: 0 });
  await pair.close();
});

describe('with a backend queue', () => {
  let device: MemoryDevice;
  beforeEach(() => {
    device = new MemoryDevice(patternBytes(SECTORS * 512));
    pair.serve(device, queue.ringReference, queue.port);
  });

  it('splits large vectors, and puts the parts together whatever their order', async () => {
    device.holding = true;
    const bytes = new Uint8Array(1000 * 512);
    const read = queue.read(77, vectorOf(bytes, 1, 45_056, 4095, 100_001));
    const parts = Math.ceil(bytes.byteLength / 45_056);
    await device.untilHeld(parts);
    for (const index of [3, 0, 11, 5, 7, 1, 10, 2, 4, 6, 8, 9]) device.held[index]!.complete();
    await read;
    expect(Buffer.compare(bytes, device.bytes.subarray(77 * 512, 1077 * 512))).toBe(0);
  });

  it('queues what does not fit on the ring, in order, and carries all of it out', async () => {
    device.holding = true;
    const data = Array.from({ length: 100 }, (_, index) => patternBytes(512, index));
    const writes = data.map((bytes, index) => queue.write(index, IoVector.of(bytes)));
    let done = 0;
    while (done < data.length) {
      await device.untilHeld(1);
      expect(device.held.length).toBeLessThanOrEqual(32);
      for (const held of device.held.splice(0).reverse()) {
        held.complete();
        done++;
      }
    }
    await Promise.all(writes);
    expect(Buffer.compare(device.bytes.subarray(0, 100 * 512), Buffer.concat(data))).toBe(0);
  });

  it('fails a call as a whole when one of its requests fails, and only it', async () => {
    device.holding = true;
    const failing = queue.read(0, IoVector.of(new Uint8Array(45_056 * 3)));
    const other = new Uint8Array(512);
    const good = queue.read(5, IoVector.of(other));
    await device.untilHeld(4);
    device.held[1]!.fail(new Error('the test'));
    let settled = false;
    failing.catch(() => {
      settled = true;
    });
    await turns(5);
    expect(settled).toBe(false); // two of its requests are still under way
    for (const index of [3, 2, 0]) device.held[index]!.complete();
    await expect(failing).rejects.toMatchObject({ code: 'ERR_PV_ERRNO', errno: 'EIO' });
    await good;
    expect(Buffer.compare(other, device.bytes.subarray(5 * 512, 6 * 512))).toBe(0);
    expect(failures).toEqual([]);
  });

  it('sends no more of a call that has failed', async () => {
    device.holding = true;
    const failing = queue.write(0, IoVector.of(patternBytes(45_056 * 40, 3)));
    failing.catch(() => {});
    await device.untilHeld(32);
    for (const held of device.held.splice(0)) held.fail(new Error('the test'));
    await expect(failing).rejects.toMatchObject({ errno: 'EIO' });
    await turns(5);
    expect(device.held).toEqual([]);
    const flush = queue.flush();
    await device.untilHeld(1);
    device.held[0]!.complete();
    await flush;
  });

  it('reuses its pages without mixing requests up, under random completion', async () => {
    device.holding = true;
    const reads: Promise<void>[] = [];
    const buffers = Array.from({ length: 200 }, () => new Uint8Array(1024));
    let seed = 12345;
    const random = (below: number) => {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
      return seed % below;
    };
    const sectors = buffers.map(() => random(SECTORS - 2));
    for (const [index, buffer] of buffers.entries()) reads.push(queue.read(sectors[index]!, IoVector.of(buffer)));
    for (let done = 0; done < buffers.length; done++) {
      await device.untilHeld(1);
      device.held.splice(random(device.held.length), 1)[0]!.complete();
    }
    await Promise.all(reads);
    buffers.forEach((buffer, index) => {
      const at = sectors[index]! * 512;
      expect(Buffer.compare(buffer, device.bytes.subarray(at, at + 1024))).toBe(0);
    });
  });

  it('fails what is under way and what waits when it is closed, and refuses what comes later', async () => {
    device.holding = true;
    const calls = Array.from({ length: 50 }, (_, index) => queue.read(index, IoVector.of(new Uint8Array(512))));
    calls.push(queue.flush());
    await device.untilHeld(32);
    const reason = new ErrnoError('ESHUTDOWN', 'the test');
    queue.close(reason);
    queue.close(new Error('another'));
    for (const call of calls) await expect(call).rejects.toBe(reason);
    await expect(queue.flush()).rejects.toBe(reason);
    // The backend still has the ring mapped: our page waits for it.
    expect(pair.frontend.usage()).toMatchObject({ grantedPages: 0, quarantinedPages: 1 });
    for (const held of device.held) held.complete();
    await turns(5);
    expect(failures).toEqual([]);
  });
});

/** A backend that answers by hand. */
it('fails what was asked of it when its platform is closed in the same turn', async () => {
  const read = queue.read(0, IoVector.of(new Uint8Array(512)));
  pair.frontend.close();
  await expect(read).rejects.toThrow('GNTST_bad_handle');
  expect(failures).toHaveLength(1);
  expect(() => queue.close(new Error('again'))).not.toThrow();
});

describe('a shared buffer', () => {
  const transfer = (buffer: Uint8Array, offset: number, length: number): IoVector => {
    const vector = new IoVector();
    vector.add(buffer, offset, length);
    return vector;
  };

  it.each([
    ['at its start', 0, 1],
    ['at its start', 0, 200],
    ['at a later sector', 3 * 512, 85],
    ['at a later sector', 3 * 512, 86],
    ['at the last sector of a page', 7 * 512, 200],
    ['between sectors', 100, 200],
  ])('carries what begins %s (byte %i), of %i sectors', async (_, offset, sectors) => {
    const device = new MemoryDevice(patternBytes(SECTORS * 512));
    pair.serve(device, queue.ringReference, queue.port);
    const length = sectors * 512;
    const buffer = queue.unsafeAllocateBuffer(offset + length)!;
    await queue.read(5, transfer(buffer, offset, length));
    expect(Buffer.compare(buffer.subarray(offset), device.bytes.subarray(5 * 512, 5 * 512 + length))).toBe(0);
    const data = patternBytes(length, 7);
    buffer.set(data, offset);
    await queue.write(777, transfer(buffer, offset, length));
    expect(Buffer.compare(device.bytes.subarray(777 * 512, 777 * 512 + length), data)).toBe(0);
  });

  it('is cut at whole logical sectors, wherever it begins', async () => {
    const device = new MemoryDevice(patternBytes(SECTORS * 512), { sectorSize: 4096 });
    pair.serve(device, queue.ringReference, queue.port);
    const length = 25 * 4096;
    const buffer = queue.unsafeAllocateBuffer(512 + length)!;
    await queue.read(8, transfer(buffer, 512, length));
    expect(Buffer.compare(buffer.subarray(512), device.bytes.subarray(4096, 4096 + length))).toBe(0);
    expect(pair.refusals).toEqual([]);
  });
});

describe('with a backend that breaks the protocol', () => {
  let pages: MappedPages;
  let port: EventPort;
  let ring: BackRing;
  const slot = new Int32Array(BLKIF_SLOT_WORDS);
  const request = new BlkifRequest();

  beforeEach(() => {
    pages = pair.backend.grants.map(pair.frontend.identity.domid, [queue.ringReference], 'read-write');
    port = pair.backend.events.bindInterdomain(pair.frontend.identity.domid, queue.port);
    ring = BackRing.attach(pages, BLKIF_SLOT_BYTES);
  });
  afterEach(() => {
    pair.backend.events.close(port);
    pages.unmap();
  });

  const takeOne = async () => {
    await until(() => ring.take(slot));
    request.decode(slot);
    return { id: request.idLow, operation: request.operation };
  };
  const answer = (fields: Partial<BlkifResponse>) => {
    const words = new Int32Array(BLKIF_RESPONSE_WORDS);
    Object.assign(new BlkifResponse(), fields).encode(words);
    ring.put(words);
    ring.push();
    pair.backend.events.notify(port);
  };

  it.each([
    ['an id that is not on the ring', { idLow: 31 }],
    ['an id beyond the ring', { idLow: 1000 }],
    ['a negative id', { idLow: -1 }],
    ['an id with a high word', { idHigh: 1 }],
    ['another operation', { operation: 1 }],
  ])('it answers %s', async (_, wrong) => {
    const read = queue.read(0, IoVector.of(new Uint8Array(512)));
    const waiting = queue.flush();
    const { id, operation } = await takeOne();
    answer({ idLow: id, operation, ...wrong });
    await expect(read).rejects.toThrow(ProtocolError);
    await expect(waiting).rejects.toThrow('which is not on the ring');
    await expect(queue.flush()).rejects.toThrow(ProtocolError);
    expect(failures).toHaveLength(1);
  });

  it('it answers one request twice', async () => {
    const bytes = new Uint8Array(512);
    const read = queue.read(0, IoVector.of(bytes));
    const second = queue.flush();
    const { id, operation } = await takeOne();
    answer({ idLow: id, operation });
    await read;
    await takeOne();
    answer({ idLow: id, operation });
    await expect(second).rejects.toThrow(ProtocolError);
    expect(failures).toHaveLength(1);
  });

  it.each([2, 33, 0x8000_0000, 0xffff_ffff])('it claims rsp_prod %d for one request', async (value) => {
    const read = queue.read(0, IoVector.of(new Uint8Array(512)));
    await takeOne();
    pages.store32(8, value);
    pair.backend.events.notify(port);
    await expect(read).rejects.toThrow(`rsp_prod to ${value}`);
    expect(failures).toHaveLength(1);
  });

  it.each([
    [-1, 'EIO'],
    [-2, 'EOPNOTSUPP'],
    [1, 'EIO'],
    [-32_768, 'EIO'],
  ])('status %i reads as %s', async (status, errno) => {
    const read = queue.read(3, IoVector.of(new Uint8Array(512)));
    const { id, operation } = await takeOne();
    answer({ idLow: id, operation, status });
    await expect(read).rejects.toMatchObject({ errno, context: { device: 'device/vbd/51712' } });
    expect(failures).toEqual([]);
  });

  it('it says nothing but events', async () => {
    for (let storm = 0; storm < 100; storm++) pair.backend.events.notify(port);
    await turns(10);
    const flush = queue.flush();
    const { id, operation } = await takeOne();
    answer({ idLow: id, operation });
    await flush;
  });

  it('only zeros and what was written are ever in the granted pages (XSA-403)', async () => {
    const data = patternBytes(3 * 512, 5);
    void queue.write(0, IoVector.of(data)).catch(() => {});
    await takeOne();
    expect([request.segmentCount, request.firstSectors[0], request.lastSectors[0]]).toEqual([1, 0, 2]);
    const from = pair.frontend.identity.domid;
    const page = pair.backend.grants.map(from, [queue.ringReference], 'read-only');
    page.unmap();
    const written = pair.backend.grants.map(
      from,
      [...request.references.subarray(0, 1)].map((reference) => reference as typeof queue.ringReference),
      'read-only',
    );
    const bytes = new Uint8Array(4096);
    written.read(0, bytes, 0, 4096);
    written.unmap();
    expect(bytes.subarray(0, data.byteLength)).toEqual(data);
    expect(bytes.subarray(data.byteLength).every((byte) => byte === 0)).toBe(true);
  });
});
