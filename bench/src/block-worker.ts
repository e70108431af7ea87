/** The guest of the block benchmark. */
import { parentPort, workerData } from 'node:worker_threads';
import { BlockFrontend, IoVector } from '@pvkit/blkback';
import { type LoopbackGuestHandle, openLoopbackGuest } from '@pvkit/xenbus/loopback';
import { type Load, positions } from './block-load.ts';

export interface BlockWorkerData {
  readonly handle: LoopbackGuestHandle;
}

const guest = openLoopbackGuest((workerData as BlockWorkerData).handle);
const disk = await BlockFrontend.connect(guest.client, guest.platform, 'device/vbd/51712');

/** Kept between loads: shared buffers last as long as the device. */
const shared = new Map<number, Uint8Array[]>();
function takeBuffer({ bytes, shared: wanted }: Load): Uint8Array {
  if (!wanted) return new Uint8Array(bytes);
  return shared.get(bytes)?.pop() ?? disk.unsafeAllocateBuffer(bytes);
}
function giveBuffer(buffer: Uint8Array): void {
  const kept = shared.get(buffer.byteLength);
  if (kept === undefined) shared.set(buffer.byteLength, [buffer]);
  else kept.push(buffer);
}

async function run(load: Load): Promise<number> {
  const next = positions(load);
  let operations = 0;
  const start = performance.now();
  const end = start + load.seconds * 1000;
  const loop = async (): Promise<void> => {
    const buffer = takeBuffer(load);
    const vector = IoVector.of(buffer);
    while (performance.now() < end) {
      await disk.readv(next() / 512, vector);
      operations++;
    }
    if (load.shared) giveBuffer(buffer);
  };
  await Promise.all(Array.from({ length: load.depth }, loop));
  return operations / ((performance.now() - start) / 1000);
}

parentPort?.on('message', (message: Load | 'end') => {
  if (message !== 'end') {
    void run(message).then((operations) => parentPort?.postMessage(operations));
    return;
  }
  void disk
    .close()
    .then(() => guest.close())
    .then(() => parentPort?.close());
});
parentPort?.postMessage('ready');
