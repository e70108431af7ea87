/** A disk through the whole loopback path, the guest in another thread, against `fs.read` on the same file at the same depth. */
import { once } from 'node:events';
import { closeSync, fdatasyncSync, openSync, read, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { blockBackendDriver, diskDevice, parseVdev } from '@pvkit/blkback';
import { FileDevice } from '@pvkit/blkback/file';
import { domid } from '@pvkit/ring';
import { AlignedArena } from '@pvkit/ring/loopback';
import { addDevice, BackendBus } from '@pvkit/xenbus';
import { LoopbackMachine } from '@pvkit/xenbus/loopback';
import { type Load, positions } from './block-load.ts';
import type { BlockWorkerData } from './block-worker.ts';
import { inTurns, type Row } from './report.ts';

/** For `fs.read`'s buffers. */
const memory = new AlignedArena();
const FILE_BYTES = 256 * 1024 * 1024;

export async function benchBlock(rounds: number, seconds: number): Promise<Row[]> {
  const path = join(process.env.PVKIT_BENCH_DIR ?? tmpdir(), `pvkit-bench-${process.pid}.img`);
  makeFile(path);
  const machine = await LoopbackMachine.create({ name: 'bench' });
  const drivers = [blockBackendDriver(({ target }) => FileDevice.open(target))];
  const bus = await BackendBus.open({ client: machine.client, platform: machine.platform, drivers });
  const guest = await machine.createGuest('bench');
  await addDevice(
    machine.client,
    diskDevice({ target: path, vdev: 'xvda', devid: parseVdev('xvda')!, readOnly: false }, guest.domid, domid(0)),
  );
  const workerData: BlockWorkerData = { handle: machine.guestHandle(guest) };
  const worker = new Worker(new URL('./block-worker.js', import.meta.url), { workerData });
  await once(worker, 'message');
  const throughRing = async (load: Load): Promise<number> => {
    worker.postMessage(load);
    const [operations] = (await once(worker, 'message')) as [number];
    return operations;
  };
  try {
    const small = { bytes: 4096, depth: 32, random: true, shared: true, seconds, total: FILE_BYTES };
    const large = { bytes: 1024 * 1024, depth: 1, random: false, shared: true, seconds, total: FILE_BYTES };
    const rows: Row[] = [];
    const measure = async (name: string, unit: string, load: Load, target?: number): Promise<void> => {
      const { value, reference, ratios } = await inTurns(
        rounds,
        () => throughRing(load),
        () => fsRead(path, load),
      );
      rows.push({
        name,
        unit,
        value,
        reference: { name: 'fs.read', value: reference },
        rounds: ratios,
        ...(target === undefined ? {} : { target }),
      });
    };
    await measure('block, 4 KiB random reads, depth 32', 'reads/s', small, 0.8);
    await measure('  the same, ordinary buffers', 'reads/s', { ...small, shared: false });
    await measure('block, 1 MiB sequential reads, depth 1', 'MiB/s', large, 0.9);
    await measure('  the same, ordinary buffers', 'MiB/s', { ...large, shared: false });
    await measure('  the same, depth 4', 'MiB/s', { ...large, depth: 4 });
    return rows;
  } finally {
    worker.postMessage('end');
    await once(worker, 'exit');
    await bus.close();
    await machine.close();
    rmSync(path, { force: true });
  }
}

/** Written once and kept in the page cache. */
function makeFile(path: string): void {
  const file = openSync(path, 'w', 0o600);
  const bytes = Buffer.alloc(1024 * 1024);
  for (let chunk = 0; chunk < FILE_BYTES / bytes.length; chunk++) writeSync(file, bytes.fill(chunk & 0xff));
  fdatasyncSync(file);
  closeSync(file);
}

/** Reads a second (4 KiB) or MiB a second (1 MiB): one operation is one of either. */
function fsRead(path: string, load: Load): Promise<number> {
  const file = openSync(path, 'r');
  const next = positions(load);
  return new Promise((resolve, reject) => {
    let operations = 0;
    let running = load.depth;
    const start = performance.now();
    const end = start + load.seconds * 1000;
    for (let slot = 0; slot < load.depth; slot++) {
      // Page-aligned: into what `Buffer` gives, the kernel copies several times more slowly.
      const buffer = memory.allocate(load.bytes);
      const again = (): void => {
        read(file, buffer, 0, load.bytes, next(), (error) => {
          if (error) return reject(error);
          operations++;
          if (performance.now() < end) return again();
          running--;
          if (running > 0) return;
          closeSync(file);
          resolve(operations / ((performance.now() - start) / 1000));
        });
      };
      again();
    }
  });
}
