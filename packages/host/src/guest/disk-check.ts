/** The demonstration's guest: reads its whole disk, writes, flushes, verifies, and puts back what was there. */
import { createHash, randomBytes } from 'node:crypto';
import { type BlockDevice, BlockFrontend, IoVector } from '@pvkit/blkback';
import type { LoopbackGuest } from '@pvkit/xenbus/loopback';
import type { GuestMessage } from './protocol.ts';

const CHUNK = 1024 * 1024;
/** Reads under way at a time. */
const DEPTH = 4;
const PROGRESS_MS = 50;

export async function runDiskCheck(
  { client, platform }: LoopbackGuest,
  path: string,
  report: (message: GuestMessage) => void,
  hostLooked: () => Promise<void>,
  ends: Promise<void>,
): Promise<void> {
  const disk = await BlockFrontend.connect(client, platform, path);
  const reportAndWait = (message: GuestMessage): Promise<void> => {
    const looked = hostLooked();
    report(message);
    return looked;
  };
  try {
    const total = disk.geometry.sectors * 512;
    report({ kind: 'connected', path, bytes: total });
    const start = performance.now();
    let ended = false;
    void ends.then(() => {
      ended = true;
    });
    const sha256 = await hashDisk(disk, total, (done) => {
      report({ kind: 'progress', done, total });
      return !ended;
    });
    if (sha256 === undefined) return;
    const milliseconds = performance.now() - start;
    await reportAndWait({ kind: 'read', sha256, bytes: total, milliseconds });
    if (!disk.geometry.readOnly) {
      await overwriteAndRestore(disk, total, reportAndWait);
      report({ kind: 'restored' });
    }
    await Promise.race([ends, disk.closed]);
  } finally {
    await disk.close();
  }
}

/** SHA-256 of the whole disk, some reads ahead of the hash; undefined when `progress` said to stop. */
async function hashDisk(
  disk: BlockDevice,
  total: number,
  progress: (done: number) => boolean,
): Promise<string | undefined> {
  const hash = createHash('sha256');
  const buffers = Array.from({ length: DEPTH }, () => new Uint8Array(CHUNK));
  const reads: (Promise<void> | undefined)[] = [];
  const sizeAt = (chunk: number) => Math.min(CHUNK, total - chunk * CHUNK);
  const begin = (chunk: number) => {
    const vector = new IoVector();
    vector.add(buffers[chunk % DEPTH]!, 0, sizeAt(chunk));
    reads[chunk % DEPTH] = disk.readv((chunk * CHUNK) / 512, vector);
  };
  const chunks = Math.ceil(total / CHUNK);
  for (let chunk = 0; chunk < Math.min(DEPTH, chunks); chunk++) begin(chunk);
  let reported = performance.now();
  for (let chunk = 0; chunk < chunks; chunk++) {
    await reads[chunk % DEPTH];
    hash.update(buffers[chunk % DEPTH]!.subarray(0, sizeAt(chunk)));
    if (chunk + DEPTH < chunks) begin(chunk + DEPTH);
    if (performance.now() - reported < PROGRESS_MS) continue;
    reported = performance.now();
    if (progress(Math.min(total, (chunk + 1) * CHUNK))) continue;
    await Promise.all(reads);
    return undefined;
  }
  if (!progress(total)) return undefined;
  return hash.digest('hex');
}

/** Tries writes on the disk's last chunk, so that the image ends as it began. */
async function overwriteAndRestore(
  disk: BlockDevice,
  total: number,
  reportAndWait: (message: GuestMessage) => Promise<void>,
): Promise<void> {
  const bytes = Math.min(CHUNK, total);
  const position = total - bytes;
  const before = new Uint8Array(bytes);
  await disk.readv(position / 512, IoVector.of(before));
  const pattern = randomBytes(bytes);
  await writeAndVerify(disk, position, pattern);
  await reportAndWait({ kind: 'written', position, bytes, sha256: createHash('sha256').update(pattern).digest('hex') });
  await writeAndVerify(disk, position, before);
}

async function writeAndVerify(disk: BlockDevice, position: number, data: Uint8Array): Promise<void> {
  await disk.writev(position / 512, IoVector.of(data));
  await disk.flush();
  const back = new Uint8Array(data.byteLength);
  await disk.readv(position / 512, IoVector.of(back));
  if (Buffer.compare(back, data) !== 0) throw new Error(`${data.byteLength} bytes at ${position} read back differ`);
}
