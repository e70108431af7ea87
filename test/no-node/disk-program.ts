/** The guest's program: everything that a disk can do, through the frontend as it is published. Runs in QuickJS. */
import { BlockFrontend, IoVector } from '@pvkit/blkback';
import { RingTransport, XenstoreClient } from '@pvkit/xenstore';
import { crc32 } from './crc32.ts';
import { openStoreRing, platform, runProgram, runtime } from './guest-bridge.ts';

const CHUNK = 256 * 1024;

/** What the host compares with the image. */
export interface ProgramResult {
  /** Of the whole disk as it was. */
  readonly crc32: number;
  readonly bytes: number;
  /** Where a pattern was written, flushed and read back, and its CRC-32 as read back. */
  readonly written: { readonly position: number; readonly bytes: number; readonly crc32: number };
  /** `state` of the frontend's directory after the close. */
  readonly stateAfterClose: string;
  /** What a read after the close failed with. */
  readonly errorAfterClose: string;
  /** What the guest still held before its platform was closed: nothing but the ring to xenstored. */
  readonly held: { readonly grantedPages: number; readonly mappedPages: number; readonly eventPorts: number };
}

runProgram(async (): Promise<ProgramResult> => {
  const { identity, events } = platform;
  const client = new XenstoreClient(
    new RingTransport({ role: 'domain', ...openStoreRing(), events, runtime }),
    runtime,
    {
      instance: identity.instance,
      domid: identity.domid,
    },
  );
  const [devid] = await client.directory('device/vbd');
  const path = `device/vbd/${devid}`;
  const disk = await BlockFrontend.connect(client, platform, path);
  const bytes = disk.geometry.sectors * 512;

  let checksum = 0;
  const chunk = new Uint8Array(CHUNK);
  for (let position = 0; position < bytes; position += CHUNK) {
    const size = Math.min(CHUNK, bytes - position);
    const vector = new IoVector();
    vector.add(chunk, 0, size);
    await disk.readv(position / 512, vector);
    checksum = crc32(chunk, size, checksum);
  }

  // Odd sector, not whole pages, from two ranges, and more than one ring request.
  const position = 512 * 77;
  const pattern = new Uint8Array(512 * 301);
  for (let index = 0; index < pattern.length; index++) pattern[index] = (index * 31 + (index >>> 8)) & 0xff;
  const vector = new IoVector();
  vector.add(pattern, 0, 5000);
  vector.add(pattern, 5000, pattern.length - 5000);
  await disk.writev(position / 512, vector);
  await disk.flush();
  const back = new Uint8Array(pattern.length);
  await disk.readv(position / 512, IoVector.of(back));

  await disk.close();
  const errorAfterClose = await Promise.resolve()
    .then(() => disk.readv(0, IoVector.of(new Uint8Array(512))))
    .then(
      () => 'nothing',
      (error) => String(error),
    );
  const stateAfterClose = await client.read(`${path}/state`);
  await client.close();
  const { grantedPages, mappedPages, eventPorts } = platform.usage();
  platform.close();
  return {
    crc32: checksum,
    bytes,
    written: { position, bytes: back.length, crc32: crc32(back, back.length, 0) },
    stateAfterClose,
    errorAfterClose,
    held: { grantedPages, mappedPages, eventPorts },
  };
});
