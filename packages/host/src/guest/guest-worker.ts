/** Entry point of a loopback guest's thread. */
import { parentPort, workerData } from 'node:worker_threads';
import { openLoopbackGuest } from '@pvkit/xenbus/loopback';
import { runDiskCheck } from './disk-check.ts';
import { runIdle } from './idle.ts';
import type { GuestMessage, GuestRequest, GuestWorkerData } from './protocol.ts';

const { handle, program } = workerData as GuestWorkerData;
const report = (message: GuestMessage) => parentPort?.postMessage(message);
const guest = openLoopbackGuest(handle);
/** Resolves when the host says `request`, the next time if it has before. */
const said = (request: GuestRequest) =>
  new Promise<void>((resolve) => {
    const listen = (message: GuestRequest) => {
      if (message !== request) return;
      parentPort?.off('message', listen);
      resolve();
    };
    parentPort?.on('message', listen);
  });
const ends = said('shutdown');

try {
  switch (program.kind) {
    case 'idle':
      await runIdle(guest, report, ends);
      break;
    case 'disk-check':
      await runDiskCheck(guest, program.path, report, () => Promise.race([said('continue'), ends]), ends);
      break;
  }
} catch (error) {
  report({ kind: 'failed', reason: error instanceof Error ? error.message : String(error) });
  await ends;
} finally {
  await guest.close();
  parentPort?.close();
}
