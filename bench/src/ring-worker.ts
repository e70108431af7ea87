/** The backend's end of the two-thread ring benchmark. */
import { parentPort, workerData } from 'node:worker_threads';
import { BackRing, domid, eventPort, grantReference, PollBeforeSleep } from '@pvkit/ring';
import { type LoopbackHandle, LoopbackHypervisor } from '@pvkit/ring/loopback';
import { RESPONSE_WORDS, SLOT_BYTES } from './ring.ts';

export interface RingWorkerData {
  readonly handle: LoopbackHandle;
  readonly domid: number;
  readonly frontend: number;
  readonly reference: number;
  readonly port: number;
}

const data = workerData as RingWorkerData;
const hypervisor = LoopbackHypervisor.attach(data.handle);
const identity = hypervisor.identify(domid(data.domid));
if (identity === undefined) throw new Error('the backend domain is gone');
const back = hypervisor.openPlatform(identity);
const frontend = domid(data.frontend);
const ring = BackRing.attach(back.grants.map(frontend, [grantReference(data.reference)], 'read-write'), SLOT_BYTES);
const port = back.events.bindInterdomain(frontend, eventPort(data.port));
const slot = new Int32Array(SLOT_BYTES / 4);
const response = new Int32Array(RESPONSE_WORDS);
const turn = () => {
  while (ring.take(slot)) {
    response[0] = slot[2]!;
    ring.put(response);
  }
  if (ring.push()) back.events.notify(port);
  poll.idle();
};
const poll = new PollBeforeSleep(back, {
  ready: () => ring.hasRequests(),
  expecting: () => true,
  work: turn,
  sleep: () => {
    if (ring.finalCheck()) turn();
    else back.events.unmask(port);
  },
});
back.events.listen(port, turn);
parentPort?.on('message', () => {
  poll.stop();
  back.close();
  parentPort?.close();
});
parentPort?.postMessage('ready');
