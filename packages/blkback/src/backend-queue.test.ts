import { ProtocolError } from '@pvkit/ring';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BLKIF_RSP_OKAY } from './protocol.ts';
import { patternBytes } from './testing/memory-device.ts';
import { turns, until } from './testing/queue-pair.ts';
import { SECTORS, ServedRing } from './testing/served-ring.ts';

const [READ, WRITE, FLUSH] = [0, 1, 3];
const REQ_PROD = 0;
const RSP_PROD = 8;
const ID = 0xffff_8880_1234_5678n;

let served: ServedRing;
afterEach(() => served.close());

describe.each(['by way of a buffer', 'in place'])('reading %s', (way) => {
  beforeEach(() => {
    served = new ServedRing(way === 'in place');
  });

  describe('requests that are right', () => {
    it('reads into exactly the sectors of the segments', async () => {
      served.pages.write(0, new Uint8Array(2 * 4096).fill(0xee), 0, 2 * 4096);
      const segments = [served.segment(0, 3, 5), served.segment(1, 7, 7)];
      expect(await served.front.call({ operation: READ, id: ID, sector: 100n, segments })).toEqual({
        id: ID,
        operation: READ,
        status: BLKIF_RSP_OKAY,
      });
      expect(Buffer.compare(served.content(3 * 512, 3 * 512), served.disk(100, 3))).toBe(0);
      expect(Buffer.compare(served.content(4096 + 7 * 512, 512), served.disk(103, 1))).toBe(0);
      expect(served.content(0, 3 * 512).every((byte) => byte === 0xee)).toBe(true);
      expect(served.content(6 * 512, 2 * 512 + 7 * 512).every((byte) => byte === 0xee)).toBe(true);
      expect(served.pair.queue.counters).toMatchObject({ rd_req: 1, rd_sect: 4, wr_req: 0, errors: 0 });
    });

    it('writes from exactly the sectors of the segments, eleven pages and the last sector of the disk included', async () => {
      const data = patternBytes(11 * 4096, 7);
      served.pages.write(0, data, 0, data.byteLength);
      const sector = SECTORS - 11 * 8;
      const segments = Array.from({ length: 11 }, (_, index) => served.segment(index));
      const before = served.disk(sector - 1, 1);
      expect((await served.front.call({ operation: WRITE, id: 1n, sector: BigInt(sector), segments })).status).toBe(0);
      expect(Buffer.compare(served.disk(sector, 88), data)).toBe(0);
      expect(Buffer.compare(served.disk(sector - 1, 1), before)).toBe(0);
      expect(served.pair.queue.counters).toMatchObject({ wr_req: 1, wr_sect: 88, errors: 0 });
    });

    it('may name one page in several segments', async () => {
      const segments = [served.segment(0, 0, 0), served.segment(0, 1, 1), served.segment(0, 7, 7)];
      expect((await served.front.call({ operation: READ, id: 1n, sector: 8n, segments })).status).toBe(0);
      expect(Buffer.compare(served.content(0, 1024), served.disk(8, 2))).toBe(0);
      expect(Buffer.compare(served.content(7 * 512, 512), served.disk(10, 1))).toBe(0);
    });

    it('writes from a page that the backend may only read', async () => {
      const readOnly = served.front.share(1, 'read-only');
      const data = patternBytes(4096, 3);
      readOnly.write(0, data, 0, 4096);
      const segments = [{ reference: readOnly.references[0]!, first: 0, last: 7 }];
      expect((await served.front.call({ operation: WRITE, id: 1n, segments })).status).toBe(0);
      expect(Buffer.compare(served.disk(0, 8), data)).toBe(0);
    });

    it('flushes', async () => {
      expect(await served.front.call({ operation: FLUSH, id: 5n })).toEqual({ id: 5n, operation: FLUSH, status: 0 });
      expect(served.device.flushes).toBe(1);
      expect(served.pair.queue.counters.f_req).toBe(1);
    });

    it('answers a whole ring of them with one event, over the wrap of the indices', async () => {
      await served.restart({}, 0xffff_fff0);
      for (let round = 0; round < 3; round++) {
        const requests = Array.from({ length: served.front.ring.size }, (_, index) => ({
          operation: READ,
          id: BigInt(index),
          sector: BigInt(index * 8),
          segments: [served.segment(index % 11)],
        }));
        served.front.send(...requests);
        const responses = await served.front.receive(requests.length);
        expect(responses.map(({ id }) => id)).toEqual(requests.map(({ id }) => id));
        expect(responses.every(({ status }) => status === 0)).toBe(true);
      }
      expect(served.pair.failures).toEqual([]);
    });

    it('answers each as its device completes, in any order, and each once', async () => {
      served.device.holding = true;
      const count = served.front.ring.size;
      const requests = Array.from({ length: count }, (_, index) => ({
        operation: index % 3 === 0 ? WRITE : READ,
        id: BigInt(index),
        sector: BigInt(index * 8),
        segments: [served.segment(index % 11)],
      }));
      served.front.send(...requests);
      await served.device.untilHeld(count);
      expect(served.pair.queue.inFlight).toBe(count);
      const order = served.device.held.map((_, index) => (index * 7) % count);
      for (const index of order) {
        served.device.held[index]!.complete();
        if (index % 5 === 0) await turns(1);
      }
      const responses = await served.front.receive(count);
      expect(responses.every(({ status }) => status === 0)).toBe(true);
      expect(responses.map(({ id }) => Number(id)).sort((a, b) => a - b)).toEqual(requests.map(({ id }) => Number(id)));
      expect(served.pair.queue.inFlight).toBe(0);
      expect(served.pair.buffers.allocated).toBeLessThanOrEqual(count);
    });

    it('needs no more buffers for later requests than for the first', async () => {
      for (let round = 0; round < 50; round++)
        await served.front.call({ operation: READ, id: BigInt(round), segments: [served.segment(0)] });
      expect(served.pair.buffers.allocated).toBe(served.inPlace ? 0 : 1);
    });
  });

  describe('a ring that can not be believed stops the queue, once', () => {
    it.each([
      ['one beyond the ring', 33],
      ['far beyond the ring', 0x4000_0000],
      ['half the circle', 0x8000_0000],
      ['backwards', 0xffff_ffff],
    ])('req_prod %s', async (_, value) => {
      served.front.ringPages.store32(REQ_PROD, value);
      served.pair.frontend.events.notify(served.front.port);
      await until(() => served.pair.failures.length > 0);
      expect(served.pair.failures[0]).toBeInstanceOf(ProtocolError);
      expect(served.pair.failures[0]!.message).toContain(`req_prod to ${value}`);
      served.pair.frontend.events.notify(served.front.port);
      await turns(5);
      expect(served.pair.failures).toHaveLength(1);
      expect(served.front.ringPages.load32(RSP_PROD)).toBe(0);
    });

    it('req_prod back before requests that are under way', async () => {
      served.device.holding = true;
      served.front.send(...[1n, 2n, 3n].map((id) => ({ operation: READ, id, segments: [served.segment(0)] })));
      await served.device.untilHeld(3);
      served.front.ringPages.store32(REQ_PROD, 1);
      served.pair.frontend.events.notify(served.front.port);
      await until(() => served.pair.failures.length > 0);
      for (const held of served.device.held) held.complete();
      await turns(5);
      expect(served.front.ringPages.load32(RSP_PROD)).toBe(0);
      expect(served.pair.failures).toHaveLength(1);
    });

    it('gives back the buffers of requests that were never answered', async () => {
      for (let round = 0; round < 5; round++) {
        served.device.holding = true;
        served.front.send(
          { operation: READ, id: 1n, segments: [served.segment(0)] },
          { operation: READ, id: 2n, segments: [served.segment(1)] },
        );
        await served.device.untilHeld(2);
        // One completes, its data waiting to be copied out, in the very turn in which the ring breaks.
        served.device.held.shift()!.complete();
        served.front.ringPages.store32(REQ_PROD, 500);
        served.pair.frontend.events.notify(served.front.port);
        await until(() => served.pair.failures.length > 0);
        served.device.held.shift()!.complete();
        served.pair.failures.length = 0;
        await served.restart();
      }
      expect(served.pair.buffers.allocated).toBe(2);
    });
  });

  describe('closing', () => {
    it('waits for the device, answers nothing any more, and can be asked again', async () => {
      served.device.holding = true;
      served.front.send(
        { operation: READ, id: 1n, segments: [served.segment(0)] },
        { operation: WRITE, id: 2n, segments: [served.segment(1)] },
        { operation: FLUSH, id: 3n },
      );
      await served.device.untilHeld(3);
      const ended: number[] = [];
      const closing = [1, 2, 3].map((call) => served.pair.queue.close().then(() => ended.push(call)));
      served.device.held[0]!.complete();
      served.device.held[1]!.fail(new Error('the test'));
      await turns(5);
      expect(ended).toEqual([]);
      served.device.held[2]!.complete();
      await Promise.all(closing);
      await served.pair.queue.close();
      await turns(5);
      expect(served.front.ringPages.load32(RSP_PROD)).toBe(0);
      expect(served.content(0, 4096).every((byte) => byte === 0)).toBe(true);
    });

    it('takes nothing that comes later', async () => {
      const { queue } = served.pair;
      await queue.close();
      served.front.send({ operation: FLUSH, id: 1n });
      await turns(5);
      expect(served.device.flushes).toBe(0);
      expect(queue.inFlight).toBe(0);
    });

    it('survives the death of the frontend with work under way', async () => {
      served.device.holding = true;
      served.front.send(
        { operation: READ, id: 1n, segments: [served.segment(0)] },
        { operation: WRITE, id: 2n, segments: [served.segment(1)] },
      );
      await served.device.untilHeld(2);
      served.pair.destroyFrontend();
      served.device.held.shift()!.complete();
      await turns(5);
      served.device.held.shift()!.complete();
      await turns(5);
      expect(served.pair.failures).toEqual([]);
      expect(served.pair.refusals).toHaveLength(1); // the read's page has gone with its domain
    });
  });

  it('lets its port rest in a storm of events that are for nothing, and serves what comes meanwhile', async () => {
    for (let storm = 0; storm < 2000; storm++) {
      served.pair.frontend.events.notify(served.front.port);
      await turns(1);
    }
    // Without rests each of them would have been taken; a machine that is slow enough has some more.
    expect(served.pair.queue.counters.spurious).toBeGreaterThan(32);
    expect(served.pair.queue.counters.spurious).toBeLessThan(1000);
    expect((await served.front.call({ operation: FLUSH, id: 1n })).status).toBe(0);
  });

  it('counts events that found nothing to do, and goes on', async () => {
    for (let storm = 0; storm < 200; storm++) {
      served.pair.frontend.events.notify(served.front.port);
      if (storm % 10 === 0) await turns(1);
    }
    await until(() => served.pair.queue.counters.spurious > 5);
    expect((await served.front.call({ operation: FLUSH, id: 1n })).status).toBe(0);
  });
});
