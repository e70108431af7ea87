import { ErrnoError } from '@pvkit/ring';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY } from './protocol.ts';
import type { RawRequest } from './testing/raw-frontend.ts';
import { SECTORS, ServedRing } from './testing/served-ring.ts';

const [READ, WRITE, BARRIER, FLUSH, DISCARD, INDIRECT] = [0, 1, 2, 3, 5, 6];
/** Linux's frontends use what fits as an id; others use pointers. */
const ID = 0xffff_8880_1234_5678n;

let served: ServedRing;
afterEach(() => served.close());

describe.each(['by way of a buffer', 'in place'])('reading %s', (way) => {
  beforeEach(() => {
    served = new ServedRing(way === 'in place');
  });

  describe('requests that are wrong get the error of the protocol, and the ring goes on', () => {
    const eleven = Array.from({ length: 11 }, (_, index) => index);
    const rows: [string, () => Partial<RawRequest> & { operation: number }, number, string][] = [
      ['no segments', () => ({ operation: READ }), BLKIF_RSP_ERROR, '0 segments'],
      ['no segments to write', () => ({ operation: WRITE }), BLKIF_RSP_ERROR, '0 segments'],
      [
        'twelve segments',
        () => ({ operation: READ, segments: eleven.map((page) => served.segment(page)), segmentCount: 12 }),
        BLKIF_RSP_ERROR,
        '12 segments',
      ],
      [
        '255 segments',
        () => ({ operation: WRITE, segments: eleven.map((page) => served.segment(page)), segmentCount: 255 }),
        BLKIF_RSP_ERROR,
        '255 segments',
      ],
      [
        'first beyond last',
        () => ({ operation: READ, segments: [served.segment(0, 5, 4)] }),
        BLKIF_RSP_ERROR,
        '5 to 4',
      ],
      [
        'last beyond the page',
        () => ({ operation: READ, segments: [served.segment(0, 0, 8)] }),
        BLKIF_RSP_ERROR,
        '0 to 8',
      ],
      [
        'both beyond the page',
        () => ({ operation: WRITE, segments: [served.segment(0, 255, 255)] }),
        BLKIF_RSP_ERROR,
        '255 to',
      ],
      [
        'a second segment that is wrong',
        () => ({ operation: WRITE, segments: [served.segment(0), served.segment(1, 9, 9)] }),
        BLKIF_RSP_ERROR,
        '9 to 9',
      ],
      [
        'a sector at the end',
        () => ({ operation: READ, sector: BigInt(SECTORS), segments: [served.segment(0, 0, 0)] }),
        BLKIF_RSP_ERROR,
        'outside a device',
      ],
      [
        'sectors across the end',
        () => ({ operation: WRITE, sector: BigInt(SECTORS - 7), segments: [served.segment(0)] }),
        BLKIF_RSP_ERROR,
        'outside a device',
      ],
      [
        'sector 2^63',
        () => ({ operation: READ, sector: 2n ** 63n, segments: [served.segment(0)] }),
        BLKIF_RSP_ERROR,
        'outside a device',
      ],
      [
        'a sector that overflows 64 bits',
        () => ({ operation: WRITE, sector: 2n ** 64n - 4n, segments: [served.segment(0)] }),
        BLKIF_RSP_ERROR,
        'outside a device',
      ],
      [
        'a sector that overflows 32 bits',
        () => ({ operation: READ, sector: 2n ** 32n, segments: [served.segment(0)] }),
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
        () => ({
          operation: WRITE,
          segments: [served.segment(0), { reference: 4000, first: 0, last: 0 }, served.segment(1)],
        }),
        BLKIF_RSP_ERROR,
        "can't be used",
      ],
      [
        'a flush with segments',
        () => ({ operation: FLUSH, segments: [served.segment(0)] }),
        BLKIF_RSP_ERROR,
        'a flush with',
      ],
      ['a barrier', () => ({ operation: BARRIER, segments: [served.segment(0)] }), BLKIF_RSP_EOPNOTSUPP, 'not offered'],
      ['a discard', () => ({ operation: DISCARD, sector: 8n }), BLKIF_RSP_EOPNOTSUPP, 'not offered'],
      [
        'an indirect request',
        () => ({ operation: INDIRECT, segments: [served.segment(0)] }),
        BLKIF_RSP_EOPNOTSUPP,
        'not offered',
      ],
      ['a reserved operation', () => ({ operation: 4 }), BLKIF_RSP_EOPNOTSUPP, 'unknown operation 4'],
      ['an unknown operation', () => ({ operation: 255 }), BLKIF_RSP_EOPNOTSUPP, 'unknown operation 255'],
    ];

    it.each(rows)('%s', async (_, request, status, reason) => {
      const before = served.device.bytes.slice();
      const response = await served.front.call({ id: ID, ...request() });
      expect(response).toEqual({ id: ID, operation: request().operation, status });
      expect(served.pair.refusals).toHaveLength(1);
      expect(served.pair.refusals[0]).toContain(reason);
      expect(Buffer.compare(served.device.bytes, before)).toBe(0);
      expect(served.pair.queue.counters.errors).toBe(1);
      expect(
        (await served.front.call({ operation: READ, id: 2n, sector: 1n, segments: [served.segment(0)] })).status,
      ).toBe(0);
      expect(Buffer.compare(served.content(0, 4096), served.disk(1, 8))).toBe(0);
      expect(served.pair.failures).toEqual([]);
    });

    it('reads into a page that it may only read', async () => {
      const readOnly = served.front.share(1, 'read-only');
      const segments = [{ reference: readOnly.references[0]!, first: 0, last: 7 }];
      expect((await served.front.call({ operation: READ, id: 1n, segments })).status).toBe(BLKIF_RSP_ERROR);
      expect(readOnly.load32(0)).toBe(0);
    });

    it('a page that the frontend granted to another domain', async () => {
      const other = served.pair.hypervisor.createDomain();
      const foreign = served.pair.frontend.grants.share(other.domid, 1, 'read-write');
      const segments = [{ reference: foreign.references[0]!, first: 0, last: 7 }];
      for (const operation of [READ, WRITE])
        expect((await served.front.call({ operation, id: 1n, segments })).status).toBe(BLKIF_RSP_ERROR);
      foreign.endAccess();
    });

    it('a write to a read-only disk, flushes being harmless', async () => {
      await served.restart({ readOnly: true });
      expect((await served.front.call({ operation: WRITE, id: 3n, segments: [served.segment(0)] })).status).toBe(
        BLKIF_RSP_ERROR,
      );
      expect((await served.front.call({ operation: FLUSH, id: 4n })).status).toBe(BLKIF_RSP_OKAY);
      expect(served.pair.refusals).toEqual(['a write to a read-only device']);
    });

    it('half of a large sector', async () => {
      await served.restart({ sectorSize: 4096 });
      expect((await served.front.call({ operation: READ, id: 3n, segments: [served.segment(0, 0, 3)] })).status).toBe(
        BLKIF_RSP_ERROR,
      );
      expect(
        (await served.front.call({ operation: READ, id: 3n, sector: 8n, segments: [served.segment(0)] })).status,
      ).toBe(0);
    });

    it.each([
      ['throws', () => (served.device.failure = new ErrnoError('EIO', 'the test')), () => {}],
      [
        'rejects',
        () => (served.device.holding = true),
        () => served.device.held.shift()!.fail(new ErrnoError('ENOSPC', 'the test')),
      ],
    ])('those that the device fails: it %s', async (_, arrange, act) => {
      arrange();
      for (const request of [
        { operation: READ, segments: [served.segment(0)] },
        { operation: WRITE, segments: [served.segment(0)] },
        { operation: FLUSH },
      ]) {
        const response = served.front.call({ id: ID, ...request });
        if (served.device.holding) await served.device.untilHeld(1);
        act();
        expect(await response).toEqual({ id: ID, operation: request.operation, status: BLKIF_RSP_ERROR });
      }
      expect(served.pair.refusals).toHaveLength(3);
      expect(served.content(0, 4096).every((byte) => byte === 0)).toBe(true);
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
          served.front.send(
            ...requests.map(({ operation, sector, first, last, granted, segments }, index) => ({
              operation,
              id: BigInt(index),
              sector: BigInt(sector),
              segments: Array.from({ length: segments }, () => ({
                ...served.segment(0, first, last),
                ...(granted ? {} : { reference: 3000 }),
              })),
            })),
          );
          const statuses = new Map(
            (await served.front.receive(requests.length)).map(({ id, status }) => [Number(id), status]),
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
      expect(served.pair.failures).toEqual([]);
    });
  });
});
