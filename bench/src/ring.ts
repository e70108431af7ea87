/** Request rings over loopback pages: both ends in one thread, and in two. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { BackRing, FrontRing, PollBeforeSleep } from '@pvkit/ring';
import { LoopbackHypervisor } from '@pvkit/ring/loopback';
import { median, type Row } from './report.ts';
import type { RingWorkerData } from './ring-worker.ts';

/** blkif's slots: a request of 112 bytes, a response of 16. */
export const SLOT_BYTES = 112;
export const RESPONSE_WORDS = 4;

export async function benchRing(rounds: number, requests: number): Promise<Row[]> {
  const one: number[] = [];
  const two: number[] = [];
  for (let round = 0; round < rounds; round++) {
    one.push(oneThread(requests));
    two.push(await twoThreads(requests / 2));
  }
  return [
    { name: 'request ring, one thread', unit: 'requests/s', value: median(one), rounds: one, target: 3e6 },
    { name: 'request ring, two threads', unit: 'requests/s', value: median(two), rounds: two, target: 0.5e6 },
  ];
}

/** Requests and answers a second, in batches of a ringful. */
function oneThread(requests: number): number {
  const hypervisor = LoopbackHypervisor.create('bench', { frames: 64 });
  const back = hypervisor.openPlatform(hypervisor.createDomain());
  const front = hypervisor.openPlatform(hypervisor.createDomain());
  const pages = front.grants.share(back.identity.domid, 1, 'read-write');
  const mapped = back.grants.map(front.identity.domid, pages.references, 'read-write');
  const frontRing = FrontRing.create(pages, SLOT_BYTES);
  const backRing = BackRing.attach(mapped, SLOT_BYTES);
  const request = new Int32Array(SLOT_BYTES / 4);
  const slot = new Int32Array(SLOT_BYTES / 4);
  const answer = new Int32Array(RESPONSE_WORDS);
  const response = new Int32Array(RESPONSE_WORDS);
  let answered = 0;
  const start = performance.now();
  while (answered < requests) {
    while (frontRing.free > 0) frontRing.put(request);
    frontRing.push();
    while (backRing.take(slot)) {
      response[0] = slot[2]!;
      backRing.put(response);
    }
    backRing.push();
    while (frontRing.take(answer)) answered++;
  }
  const seconds = (performance.now() - start) / 1000;
  front.close();
  back.close();
  return answered / seconds;
}

/** The backend in another thread; both ends poll before they sleep until an event, as drivers do. */
async function twoThreads(requests: number): Promise<number> {
  const hypervisor = LoopbackHypervisor.create('bench', { frames: 64 });
  const backend = hypervisor.createDomain();
  const front = hypervisor.openPlatform(hypervisor.createDomain());
  const pages = front.grants.share(backend.domid, 1, 'read-write');
  const ring = FrontRing.create(pages, SLOT_BYTES);
  const port = front.events.allocateUnbound(backend.domid);
  const workerData: RingWorkerData = {
    handle: hypervisor.handle,
    domid: backend.domid,
    frontend: front.identity.domid,
    reference: pages.references[0]!,
    port,
  };
  const worker = new Worker(new URL('./ring-worker.js', import.meta.url), { workerData });
  await once(worker, 'message');
  const request = new Int32Array(SLOT_BYTES / 4);
  const answer = new Int32Array(RESPONSE_WORDS);
  let put = 0;
  let answered = 0;
  const start = performance.now();
  await new Promise<void>((resolve) => {
    const turn = () => {
      while (ring.take(answer)) answered++;
      while (ring.free > 0 && put < requests) {
        ring.put(request);
        put++;
      }
      if (ring.push()) front.events.notify(port);
      if (answered === requests) resolve();
      else poll.idle();
    };
    const poll = new PollBeforeSleep(front, {
      ready: () => ring.hasResponses(),
      expecting: () => true,
      work: turn,
      sleep: () => {
        if (ring.finalCheck()) turn();
        else front.events.unmask(port);
      },
    });
    front.events.listen(port, turn);
    turn();
  });
  const seconds = (performance.now() - start) / 1000;
  worker.postMessage('end');
  await once(worker, 'exit');
  front.close();
  return answered / seconds;
}
