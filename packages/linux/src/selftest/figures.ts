/** What the hot calls cost, as medians in microseconds. */
import { type Domid, GrantCopyBatch, PAGE_SIZE, type Platform } from '@pvkit/ring';
import { libc } from '../sys/libc.ts';
import { eventPair } from './events.ts';
import { type StoreProbe, XS_READ } from './store.ts';
import type { Check, Details } from './support.ts';

/** Pages of the largest blkif request with direct segments (`BLKIF_MAX_SEGMENTS_PER_REQUEST`). */
const SEGMENTS = 11;
const BATCH = 128;

async function median(rounds: number, round: () => void | Promise<void>): Promise<number> {
  const times: number[] = [];
  for (let count = 0; count < rounds; count++) {
    const start = process.hrtime.bigint();
    const done = round();
    if (done !== undefined) await done;
    times.push(Number(process.hrtime.bigint() - start) / 1000);
  }
  times.sort((a, b) => a - b);
  return Math.round(times[times.length >> 1]! * 10) / 10;
}

export function figures(platform: Platform, self: Domid, store: StoreProbe): Check[] {
  return [
    { name: 'figures: events, µs', run: () => eventFigures(platform, self) },
    { name: 'figures: grants, µs', run: () => grantFigures(platform, self) },
    {
      name: 'figures: xenstore, µs',
      run: async () => ({ read: await median(200, async () => void (await store.request(XS_READ, 'domid\0'))) }),
    },
  ];
}

async function eventFigures(platform: Platform, self: Domid): Promise<Details> {
  const { events } = platform;
  const { near, far } = eventPair(platform, self);
  let arrived: () => void = () => {};
  events.listen(near, () => {
    events.unmask(near);
    arrived();
  });
  const emptyCall = await median(1000, () => void libc().ioctl(-1, 0, 0));
  const notify = await median(1000, () => events.notify(far));
  const notifyToHandler = await median(500, async () => {
    const arrival = new Promise<void>((resolve) => {
      arrived = resolve;
    });
    events.notify(far);
    await arrival;
  });
  events.close(near);
  events.close(far);
  return { emptyCall, notify, notifyToHandler };
}

async function grantFigures(platform: Platform, self: Domid): Promise<Details> {
  const { grants } = platform;
  const ours = grants.share(self, SEGMENTS, 'read-write');
  const local = grants.allocateBuffer(SEGMENTS * PAGE_SIZE);
  const heap = Buffer.alloc(SEGMENTS * PAGE_SIZE);
  const batch = new GrantCopyBatch(self, BATCH);
  const copy = (pages: number, buffer: Uint8Array, toGrant: boolean) =>
    median(500, () => {
      batch.clear();
      for (let index = 0; index < pages; index++) {
        const reference = ours.references[index % SEGMENTS]!;
        const offset = (index % SEGMENTS) * PAGE_SIZE;
        if (toGrant) batch.addToGrant(reference, 0, buffer, offset, PAGE_SIZE);
        else batch.addFromGrant(reference, 0, buffer, offset, PAGE_SIZE);
      }
      grants.copy(batch);
    });
  const mapAndUnmap = (pages: number) => {
    const references = ours.references.slice(0, pages);
    return median(100, () => grants.map(self, references, 'read-write').unmap());
  };
  const words = new Int32Array(28);
  const result = {
    copyFrom1: await copy(1, local, false),
    copyTo1: await copy(1, local, true),
    copyFrom11: await copy(SEGMENTS, local, false),
    copyTo11: await copy(SEGMENTS, local, true),
    copyFrom11Unaligned: await copy(SEGMENTS, heap, false),
    copyFrom128: await copy(BATCH, local, false),
    mapAndUnmap1: await mapAndUnmap(1),
    mapAndUnmap11: await mapAndUnmap(SEGMENTS),
    readRingSlot: await median(1000, () => ours.readWords(64, words, 28)),
    loadWord: await median(1000, () => void ours.load32(0)),
  };
  ours.endAccess();
  return result;
}
