import { ErrnoError, type GrantedPages, ProtocolError } from '@pvkit/ring';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY } from './protocol.ts';
import { MemoryDevice, type MemoryDeviceOptions, patternBytes } from './testing/memory-device.ts';
import { QueuePair, turns, until } from './testing/queue-pair.ts';
import { RawFrontend, type RawRequest, type RawSegment } from './testing/raw-frontend.ts';

const [READ, WRITE, BARRIER, FLUSH, DISCARD, INDIRECT] = [0, 1, 2, 3, 5, 6];
const SECTORS = 4096;
const REQ_PROD = 0;
const RSP_PROD = 8;
/** Linux's frontends use what fits as an id; others use pointers. */
const ID = 0xffff_8880_1234_5678n;

let pair: QueuePair;
let device: MemoryDevice;
let front: RawFrontend;
let pages: GrantedPages;

let inPlace = false;

function start(options: MemoryDeviceOptions = {}, index = 0): void {
  device = new MemoryDevice(patternBytes(SECTORS * 512), { inPlace, ...options });
  front = new RawFrontend(pair.frontend, pair.backend.identity.domid, index);
  pages = front.share(11);
  pair.serve(device, front.ringPages.references[0]!, front.port, index);
}

beforeEach(() => {
  pair = new QueuePair();
});
afterEach(async () => {
  await pair.stop();
  front.close();
  expect(pair.backend.usage()).toEqual({ grantedPages: 0, quarantinedPages: 0, mappedPages: 0, eventPorts: 0 });
  expect(pair.frontend.usage()).toEqual({ grantedPages: 0, quarantinedPages: 0, mappedPages: 0, eventPorts: 0 });
  await pair.close();
});

const segment = (page: number, first = 0, last = 7): RawSegment => ({
  reference: pages.references[page]!,
  first,
  last,
});
const content = (offset: number, length: number): Uint8Array => {
  const bytes = new Uint8Array(length);
  pages.read(offset, bytes, 0, length);
  return bytes;
};
const disk = (sector: number, count: number) => device.bytes.slice(sector * 512, (sector + count) * 512);

describe.each(['by way of a buffer', 'in place'])('reading %s', (way) => {
  beforeEach(() => {
    inPlace = way === 'in place';
    start();
  });

  describe('requests that are right', () => {
    it('reads into exactly the sectors of the segments', async () => {
      pages.write(0, new Uint8Array(2 * 4096).fill(0xee), 0, 2 * 4096);
      const segments = [segment(0, 3, 5), segment(1, 7, 7)];
      expect(await front.call({ operation: READ, id: ID, sector: 100n, segments })).toEqual({
        id: ID,
        operation: READ,
        status: BLKIF_RSP_OKAY,
      });
      expect(Buffer.compare(content(3 * 512, 3 * 512), disk(100, 3))).toBe(0);
      expect(Buffer.compare(content(4096 + 7 * 512, 512), disk(103, 1))).toBe(0);
      expect(content(0, 3 * 512).every((byte) => byte === 0xee)).toBe(true);
      expect(content(6 * 512, 2 * 512 + 7 * 512).every((byte) => byte === 0xee)).toBe(true);
      expect(pair.queue.counters).toMatchObject({ rd_req: 1, rd_sect: 4, wr_req: 0, errors: 0 });
    });

    it('writes from exactly the sectors of the segments, eleven pages and the last sector of the disk included', async () => {
      const data = patternBytes(11 * 4096, 7);
      pages.write(0, data, 0, data.byteLength);
      const sector = SECTORS - 11 * 8;
      const segments = Array.from({ length: 11 }, (_, index) => segment(index));
      const before = disk(sector - 1, 1);
      expect((await front.call({ operation: WRITE, id: 1n, sector: BigInt(sector), segments })).status).toBe(0);
      expect(Buffer.compare(disk(sector, 88), data)).toBe(0);
      expect(Buffer.compare(disk(sector - 1, 1), before)).toBe(0);
      expect(pair.queue.counters).toMatchObject({ wr_req: 1, wr_sect: 88, errors: 0 });
    });

    it('may name one page in several segments', async () => {
      const segments = [segment(0, 0, 0), segment(0, 1, 1), segment(0, 7, 7)];
      expect((await front.call({ operation: READ, id: 1n, sector: 8n, segments })).status).toBe(0);
      expect(Buffer.compare(content(0, 1024), disk(8, 2))).toBe(0);
      expect(Buffer.compare(content(7 * 512, 512), disk(10, 1))).toBe(0);
    });

    it('writes from a page that the backend may only read', async () => {
      const readOnly = front.share(1, 'read-only');
      const data = patternBytes(4096, 3);
      readOnly.write(0, data, 0, 4096);
      const segments = [{ reference: readOnly.references[0]!, first: 0, last: 7 }];
      expect((await front.call({ operation: WRITE, id: 1n, segments })).status).toBe(0);
      expect(Buffer.compare(disk(0, 8), data)).toBe(0);
    });

    it('flushes', async () => {
      expect(await front.call({ operation: FLUSH, id: 5n })).toEqual({ id: 5n, operation: FLUSH, status: 0 });
      expect(device.flushes).toBe(1);
      expect(pair.queue.counters.f_req).toBe(1);
    });

    it('answers a whole ring of them with one event, over the wrap of the indices', async () => {
      await pair.stop();
      front.close();
      start({}, 0xffff_fff0);
      for (let round = 0; round < 3; round++) {
        const requests = Array.from({ length: front.ring.size }, (_, index) => ({
          operation: READ,
          id: BigInt(index),
          sector: BigInt(index * 8),
          segments: [segment(index % 11)],
        }));
        front.send(...requests);
        const responses = await front.receive(requests.length);
        expect(responses.map(({ id }) => id)).toEqual(requests.map(({ id }) => id));
        expect(responses.every(({ status }) => status === 0)).toBe(true);
      }
      expect(pair.failures).toEqual([]);
    });

    it('answers each as its device completes, in any order, and each once', async () => {
      device.holding = true;
      const count = front.ring.size;
      const requests = Array.from({ length: count }, (_, index) => ({
        operation: index % 3 === 0 ? WRITE : READ,
        id: BigInt(index),
        sector: BigInt(index * 8),
        segments: [segment(index % 11)],
      }));
      front.send(...requests);
      await device.untilHeld(count);
      expect(pair.queue.inFlight).toBe(count);
      const order = device.held.map((_, index) => (index * 7) % count);
      for (const index of order) {
        device.held[index]!.complete();
        if (index % 5 === 0) await turns(1);
      }
      const responses = await front.receive(count);
      expect(responses.every(({ status }) => status === 0)).toBe(true);
      expect(responses.map(({ id }) => Number(id)).sort((a, b) => a - b)).toEqual(requests.map(({ id }) => Number(id)));
      expect(pair.queue.inFlight).toBe(0);
      expect(pair.buffers.allocated).toBeLessThanOrEqual(count);
    });

    it('needs no more buffers for later requests than for the first', async () => {
      for (let round = 0; round < 50; round++)
        await front.call({ operation: READ, id: BigInt(round), segments: [segment(0)] });
      expect(pair.buffers.allocated).toBe(inPlace ? 0 : 1);
    });
  });

  describe('requests that are wrong get the error of the protocol, and the ring goes on', () => {
    const eleven = Array.from({ length: 11 }, (_, index) => index);
    const rows: [string, () => Partial<RawRequest> & { operation: number }, number, string][] = [
      ['no segments', () => ({ operation: READ }), BLKIF_RSP_ERROR, '0 segments'],
      ['no segments to write', () => ({ operation: WRITE }), BLKIF_RSP_ERROR, '0 segments'],
      [
        'twelve segments',
        () => ({ operation: READ, segments: eleven.map((page) => segment(page)), segmentCount: 12 }),
        BLKIF_RSP_ERROR,
        '12 segments',
      ],
      [
        '255 segments',
        () => ({ operation: WRITE, segments: eleven.map((page) => segment(page)), segmentCount: 255 }),
        BLKIF_RSP_ERROR,
        '255 segments',
      ],
      ['first beyond last', () => ({ operation: READ, segments: [segment(0, 5, 4)] }), BLKIF_RSP_ERROR, '5 to 4'],
      ['last beyond the page', () => ({ operation: READ, segments: [segment(0, 0, 8)] }), BLKIF_RSP_ERROR, '0 to 8'],
      [
        'both beyond the page',
        () => ({ operation: WRITE, segments: [segment(0, 255, 255)] }),
        BLKIF_RSP_ERROR,
        '255 to',
      ],
      [
        'a second segment that is wrong',
        () => ({ operation: WRITE, segments: [segment(0), segment(1, 9, 9)] }),
        BLKIF_RSP_ERROR,
        '9 to 9',
      ],
      [
        'a sector at the end',
        () => ({ operation: READ, sector: BigInt(SECTORS), segments: [segment(0, 0, 0)] }),
        BLKIF_RSP_ERROR,
        'outside a device',
      ],
      [
        'sectors across the end',
        () => ({ operation: WRITE, sector: BigInt(SECTORS - 7), segments: [segment(0)] }),
        BLKIF_RSP_ERROR,
        'outside a device',
      ],
      [
        'sector 2^63',
        () => ({ operation: READ, sector: 2n ** 63n, segments: [segment(0)] }),
        BLKIF_RSP_ERROR,
        'outside a device',
      ],
      [
        'a sector that overflows 64 bits',
        () => ({ operation: WRITE, sector: 2n ** 64n - 4n, segments: [segment(0)] }),
        BLKIF_RSP_ERROR,
        'outside a device',
      ],
      [
        'a sector that overflows 32 bits',
        () => ({ operation: READ, sector: 2n ** 32n, segments: [segment(0)] }),
        BLKIF_RSP_ERROR,
        'outside a device',
      ],
      [
        'a reference never granted',
        () => ({ operation: READ, segments: [{ reference: 4000, first: 0, last: 7 }] }),
        BLKIF_RSP_ERROR,
        "can't be used",
      ],
      [
        'a reference beyond the table',
        () => ({ operation: WRITE, segments: [{ reference: 0xffff_ffff, first: 0, last: 7 }] }),
        BLKIF_RSP_ERROR,
        "can't be used",
      ],
      [
        'one bad reference among good ones',
        () => ({ operation: WRITE, segments: [segment(0), { reference: 4000, first: 0, last: 0 }, segment(1)] }),
        BLKIF_RSP_ERROR,
        "can't be used",
      ],
      ['a flush with segments', () => ({ operation: FLUSH, segments: [segment(0)] }), BLKIF_RSP_ERROR, 'a flush with'],
      ['a barrier', () => ({ operation: BARRIER, segments: [segment(0)] }), BLKIF_RSP_EOPNOTSUPP, 'not offered'],
      ['a discard', () => ({ operation: DISCARD, sector: 8n }), BLKIF_RSP_EOPNOTSUPP, 'not offered'],
      [
        'an indirect request',
        () => ({ operation: INDIRECT, segments: [segment(0)] }),
        BLKIF_RSP_EOPNOTSUPP,
        'not offered',
      ],
      ['a reserved operation', () => ({ operation: 4 }), BLKIF_RSP_EOPNOTSUPP, 'unknown operation 4'],
      ['an unknown operation', () => ({ operation: 255 }), BLKIF_RSP_EOPNOTSUPP, 'unknown operation 255'],
    ];

    it.each(rows)('%s', async (_, request, status, reason) => {
      const before = device.bytes.slice();
      const response = await front.call({ id: ID, ...request() });
      expect(response).toEqual({ id: ID, operation: request().operation, status });
      expect(pair.refusals).toHaveLength(1);
      expect(pair.refusals[0]).toContain(reason);
      expect(Buffer.compare(device.bytes, before)).toBe(0);
      expect(pair.queue.counters.errors).toBe(1);
      expect((await front.call({ operation: READ, id: 2n, sector: 1n, segments: [segment(0)] })).status).toBe(0);
      expect(Buffer.compare(content(0, 4096), disk(1, 8))).toBe(0);
      expect(pair.failures).toEqual([]);
    });

    it('reads into a page that it may only read', async () => {
      const readOnly = front.share(1, 'read-only');
      const segments = [{ reference: readOnly.references[0]!, first: 0, last: 7 }];
      expect((await front.call({ operation: READ, id: 1n, segments })).status).toBe(BLKIF_RSP_ERROR);
      expect(readOnly.load32(0)).toBe(0);
    });

    it('a page that the frontend granted to another domain', async () => {
      const other = pair.hypervisor.createDomain();
      const foreign = pair.frontend.grants.share(other.domid, 1, 'read-write');
      const segments = [{ reference: foreign.references[0]!, first: 0, last: 7 }];
      for (const operation of [READ, WRITE])
        expect((await front.call({ operation, id: 1n, segments })).status).toBe(BLKIF_RSP_ERROR);
      foreign.endAccess();
    });

    it('a write to a read-only disk, flushes being harmless', async () => {
      await pair.stop();
      front.close();
      start({ readOnly: true });
      expect((await front.call({ operation: WRITE, id: 3n, segments: [segment(0)] })).status).toBe(BLKIF_RSP_ERROR);
      expect((await front.call({ operation: FLUSH, id: 4n })).status).toBe(BLKIF_RSP_OKAY);
      expect(pair.refusals).toEqual(['a write to a read-only device']);
    });

    it('half of a large sector', async () => {
      await pair.stop();
      front.close();
      start({ sectorSize: 4096 });
      expect((await front.call({ operation: READ, id: 3n, segments: [segment(0, 0, 3)] })).status).toBe(
        BLKIF_RSP_ERROR,
      );
      expect((await front.call({ operation: READ, id: 3n, sector: 8n, segments: [segment(0)] })).status).toBe(0);
    });

    it.each([
      ['throws', () => (device.failure = new ErrnoError('EIO', 'the test')), () => {}],
      ['rejects', () => (device.holding = true), () => device.held.shift()!.fail(new ErrnoError('ENOSPC', 'the test'))],
    ])('those that the device fails: it %s', async (_, arrange, act) => {
      arrange();
      for (const request of [
        { operation: READ, segments: [segment(0)] },
        { operation: WRITE, segments: [segment(0)] },
        { operation: FLUSH },
      ]) {
        const response = front.call({ id: ID, ...request });
        if (device.holding) await device.untilHeld(1);
        act();
        expect(await response).toEqual({ id: ID, operation: request.operation, status: BLKIF_RSP_ERROR });
      }
      expect(pair.refusals).toHaveLength(3);
      expect(content(0, 4096).every((byte) => byte === 0)).toBe(true);
    });

    it('mixed at random with right ones: each is answered once, and by what it is', async () => {
      const one = fc.record({
        operation: fc.constantFrom(READ, WRITE, FLUSH, DISCARD, 77),
        sector: fc.constantFrom(0, 8, SECTORS - 8, SECTORS - 7, 2 ** 40),
        first: fc.integer({ min: 0, max: 9 }),
        last: fc.integer({ min: 0, max: 9 }),
        granted: fc.boolean(),
        segments: fc.constantFrom(0, 1, 2),
      });
      await fc.assert(
        fc.asyncProperty(fc.array(one, { minLength: 1, maxLength: 32 }), async (requests) => {
          front.send(
            ...requests.map(({ operation, sector, first, last, granted, segments }, index) => ({
              operation,
              id: BigInt(index),
              sector: BigInt(sector),
              segments: Array.from({ length: segments }, () => ({
                ...segment(0, first, last),
                ...(granted ? {} : { reference: 3000 }),
              })),
            })),
          );
          const statuses = new Map(
            (await front.receive(requests.length)).map(({ id, status }) => [Number(id), status]),
          );
          const expected = requests.map(({ operation, sector, first, last, granted, segments }) => {
            if (operation === FLUSH) return segments === 0 ? BLKIF_RSP_OKAY : BLKIF_RSP_ERROR;
            if (operation !== READ && operation !== WRITE) return BLKIF_RSP_EOPNOTSUPP;
            const count = (last - first + 1) * segments;
            const right = segments > 0 && first <= last && last <= 7 && sector + count <= SECTORS && granted;
            return right ? BLKIF_RSP_OKAY : BLKIF_RSP_ERROR;
          });
          expect(requests.map((_, index) => statuses.get(index))).toEqual(expected);
        }),
        { numRuns: 50 },
      );
      expect(pair.failures).toEqual([]);
    });
  });

  describe('a ring that can not be believed stops the queue, once', () => {
    it.each([
      ['one beyond the ring', 33],
      ['far beyond the ring', 0x4000_0000],
      ['half the circle', 0x8000_0000],
      ['backwards', 0xffff_ffff],
    ])('req_prod %s', async (_, value) => {
      front.ringPages.store32(REQ_PROD, value);
      pair.frontend.events.notify(front.port);
      await until(() => pair.failures.length > 0);
      expect(pair.failures[0]).toBeInstanceOf(ProtocolError);
      expect(pair.failures[0]!.message).toContain(`req_prod to ${value}`);
      pair.frontend.events.notify(front.port);
      await turns(5);
      expect(pair.failures).toHaveLength(1);
      expect(front.ringPages.load32(RSP_PROD)).toBe(0);
    });

    it('req_prod back before requests that are under way', async () => {
      device.holding = true;
      front.send(...[1n, 2n, 3n].map((id) => ({ operation: READ, id, segments: [segment(0)] })));
      await device.untilHeld(3);
      front.ringPages.store32(REQ_PROD, 1);
      pair.frontend.events.notify(front.port);
      await until(() => pair.failures.length > 0);
      for (const held of device.held) held.complete();
      await turns(5);
      expect(front.ringPages.load32(RSP_PROD)).toBe(0);
      expect(pair.failures).toHaveLength(1);
    });

    it('gives back the buffers of requests that were never answered', async () => {
      for (let round = 0; round < 5; round++) {
        device.holding = true;
        front.send(
          { operation: READ, id: 1n, segments: [segment(0)] },
          { operation: READ, id: 2n, segments: [segment(1)] },
        );
        await device.untilHeld(2);
        // One completes, its data waiting to be copied out, in the very turn in which the ring breaks.
        device.held.shift()!.complete();
        front.ringPages.store32(REQ_PROD, 500);
        pair.frontend.events.notify(front.port);
        await until(() => pair.failures.length > 0);
        device.held.shift()!.complete();
        await pair.stop();
        front.close();
        pair.failures.length = 0;
        start();
      }
      expect(pair.buffers.allocated).toBe(2);
    });
  });

  describe('closing', () => {
    it('waits for the device, answers nothing any more, and can be asked again', async () => {
      device.holding = true;
      front.send(
        { operation: READ, id: 1n, segments: [segment(0)] },
        { operation: WRITE, id: 2n, segments: [segment(1)] },
        { operation: FLUSH, id: 3n },
      );
      await device.untilHeld(3);
      const ended: number[] = [];
      const closing = [1, 2, 3].map((call) => pair.queue.close().then(() => ended.push(call)));
      device.held[0]!.complete();
      device.held[1]!.fail(new Error('the test'));
      await turns(5);
      expect(ended).toEqual([]);
      device.held[2]!.complete();
      await Promise.all(closing);
      await pair.queue.close();
      await turns(5);
      expect(front.ringPages.load32(RSP_PROD)).toBe(0);
      expect(content(0, 4096).every((byte) => byte === 0)).toBe(true);
    });

    it('takes nothing that comes later', async () => {
      const { queue } = pair;
      await queue.close();
      front.send({ operation: FLUSH, id: 1n });
      await turns(5);
      expect(device.flushes).toBe(0);
      expect(queue.inFlight).toBe(0);
    });

    it('survives the death of the frontend with work under way', async () => {
      device.holding = true;
      front.send(
        { operation: READ, id: 1n, segments: [segment(0)] },
        { operation: WRITE, id: 2n, segments: [segment(1)] },
      );
      await device.untilHeld(2);
      pair.destroyFrontend();
      device.held.shift()!.complete();
      await turns(5);
      device.held.shift()!.complete();
      await turns(5);
      expect(pair.failures).toEqual([]);
      expect(pair.refusals).toHaveLength(1); // the read's page has gone with its domain
    });
  });

  it('counts events that found nothing to do, and goes on', async () => {
    for (let storm = 0; storm < 200; storm++) {
      pair.frontend.events.notify(front.port);
      if (storm % 10 === 0) await turns(1);
    }
    await until(() => pair.queue.counters.spurious > 5);
    expect((await front.call({ operation: FLUSH, id: 1n })).status).toBe(0);
  });
});
