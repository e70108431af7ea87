// The only program of a guest: reads a whole disk through pvkit's frontend and prints its SHA-256.
import { createHash } from 'node:crypto';
import { BlockFrontend, IoVector } from '@pvkit/blkback';
import { openXenbusTransport, openXenPlatform } from '@pvkit/linux';
import { domid, instanceName, standardRuntime } from '@pvkit/ring';
import { XenstoreClient } from '@pvkit/xenstore';

const path = process.argv[2] ?? 'device/vbd/51712';
const instance = instanceName('xen');
const runtime = standardRuntime();
const client = new XenstoreClient(openXenbusTransport(), runtime, { instance });
const platform = openXenPlatform({
  identity: { instance, domid: domid(Number(await client.read('domid'))), generation: 0 },
  runtime,
});
const disk = await BlockFrontend.connect(client, platform, path);
const hash = createHash('sha256');
const buffer = new Uint8Array(1024 * 1024);
const { sectors } = disk.geometry;
for (let sector = 0; sector < sectors; ) {
  const bytes = Math.min(buffer.byteLength, (sectors - sector) * 512);
  const vector = new IoVector();
  vector.add(buffer, 0, bytes);
  await disk.readv(sector, vector);
  hash.update(buffer.subarray(0, bytes));
  sector += bytes / 512;
}
console.log(JSON.stringify({ sectors, sha256: hash.digest('hex') }));
if (process.argv[3] === 'write') {
  // The last sector, so that the other end can see what a frontend of ours writes.
  await disk.writev(sectors - 1, IoVector.of(new Uint8Array(512).fill(0xa5)));
  await disk.flush();
  console.log('written');
}
await disk.close();
console.log(JSON.stringify(platform.usage()));
await client.close();
platform.close();
