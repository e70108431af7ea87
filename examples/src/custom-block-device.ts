/**
 * A block device of one's own, served to a guest: 8 GiB that exist nowhere. Sectors are made up when they are read,
 * and only those that were written take memory. Anything that implements `BlockDevice` can be served like this.
 */
import {
  type BlockDevice,
  BlockFrontend,
  type BlockGeometry,
  blockBackendDriver,
  diskDevice,
  IoVector,
  parseDiskSpec,
} from '@pvkit/blkback';
import { addDevice, BackendBus } from '@pvkit/xenbus';
import { LoopbackMachine, openLoopbackGuest } from '@pvkit/xenbus/loopback';

/** Each sector says its own number, until it is written. */
class NumberedDisk implements BlockDevice {
  readonly geometry: BlockGeometry = {
    sectors: 16 * 1024 * 1024,
    sectorSize: 512,
    physicalSectorSize: 512,
    readOnly: false,
    flushable: false, // there is nowhere to flush to
  };
  readonly #written = new Map<number, Uint8Array>();

  // An operation that is complete when it returns, as these are, returns nothing; others return a promise.
  readv(first: number, vector: IoVector): undefined {
    forEachSector(first, vector, (sector, bytes) => {
      bytes.set(this.#written.get(sector) ?? Buffer.from(`sector ${sector} `.padEnd(512, '.')));
    });
  }

  writev(first: number, vector: IoVector): undefined {
    forEachSector(first, vector, (sector, bytes) => void this.#written.set(sector, bytes.slice()));
  }

  flush(): undefined {}

  async close(): Promise<void> {
    this.#written.clear();
  }
}

/** The backend has checked the range, and every range of a vector is whole sectors. */
function forEachSector(first: number, vector: IoVector, visit: (sector: number, bytes: Uint8Array) => void): void {
  let sector = first;
  for (let range = 0; range < vector.count; range++)
    for (let done = 0; done < vector.lengths[range]!; done += 512) {
      const start = vector.offsets[range]! + done;
      visit(sector++, vector.buffers[range]!.subarray(start, start + 512));
    }
}

const machine = await LoopbackMachine.create({ name: 'example' });
const { client, platform } = machine;
// `target` of the disk's configuration is ours to interpret: here it is no path.
const drivers = [blockBackendDriver(async () => new NumberedDisk())];
const bus = await BackendBus.open({ client, platform, drivers });
const identity = await machine.createGuest('example');
const spec = parseDiskSpec('vdev=xvdb,target=numbered');
await addDevice(client, diskDevice(spec, identity.domid, platform.identity.domid));

const guest = openLoopbackGuest(machine.guestHandle(identity));
const disk = await BlockFrontend.connect(guest.client, guest.platform, `device/vbd/${spec.devid}`);
const bytes = new Uint8Array(1024);
await disk.writev(9_000_001, IoVector.of(Buffer.from('written by the guest'.padEnd(512, '-'))));
await disk.readv(9_000_000, IoVector.of(bytes));
for (const start of [0, 512]) console.log(Buffer.from(bytes).toString('latin1', start, start + 20));

await disk.close();
await guest.close();
await bus.close();
await machine.close();
