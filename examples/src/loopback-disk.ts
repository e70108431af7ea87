/**
 * A whole machine in this process: domain 0 serves a disk image, and a guest reads and writes it through xenstore,
 * grants, event channels and a blkif ring, as a Linux guest would. Here both run in one thread; `pvkit demo` gives the
 * guest a worker of its own.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BlockFrontend, blockBackendDriver, diskDevice, IoVector, parseDiskSpec } from '@pvkit/blkback';
import { FileDevice } from '@pvkit/blkback/file';
import { addDevice, BackendBus } from '@pvkit/xenbus';
import { LoopbackMachine, openLoopbackGuest } from '@pvkit/xenbus/loopback';

const directory = mkdtempSync(join(tmpdir(), 'pvkit-example-'));
const image = join(directory, 'disk.img');
writeFileSync(image, Buffer.alloc(1024 * 1024, 'what was on the disk. '));

// The host: a machine, and in its domain 0 a backend for every disk that appears in the store.
const machine = await LoopbackMachine.create({ name: 'example' });
const { client, platform, hypervisor } = machine;
const bus = await BackendBus.open({
  client,
  platform,
  drivers: [blockBackendDriver(({ target, readOnly }) => FileDevice.open(target, { readOnly }))],
  identify: (domid) => hypervisor.identify(domid),
});

// The toolstack: a guest, and a disk for it, written as xl users write it.
const identity = await machine.createGuest('example');
const spec = parseDiskSpec(`format=raw,vdev=xvda,access=rw,target=${image}`);
await addDevice(client, diskDevice(spec, identity.domid, platform.identity.domid));

// The guest: all that it has are its own ports and its own connection to the store.
const guest = openLoopbackGuest(machine.guestHandle(identity));
const disk = await BlockFrontend.connect(guest.client, guest.platform, `device/vbd/${spec.devid}`);
console.log(`domain ${identity.domid} has a disk of ${disk.geometry.sectors} sectors`);

const sector = new Uint8Array(512);
await disk.readv(0, IoVector.of(sector));
console.log(`sector 0 begins with '${Buffer.from(sector).toString('latin1', 0, 21)}'`);

await disk.writev(1, IoVector.of(new Uint8Array(512).fill(0x2a)));
await disk.flush();
console.log(`sector 1 of the image is now '${readFileSync(image).toString('latin1', 512, 520)}…'`);

// In order: each end lets go of what it holds, and nothing is left.
await disk.close();
await guest.close();
await bus.close();
await machine.destroyGuest(identity);
console.log('domain 0 still holds', platform.usage());
await machine.close();
rmSync(directory, { recursive: true });
