/** Disks from image to guest through every layer, on the loopback machine. */
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { IoVector } from '@pvkit/blkback';
import { blockDeviceCompliance } from '@pvkit/blkback/compliance';
import { FileDevice } from '@pvkit/blkback/file';
import { addDevice, XenbusState } from '@pvkit/xenbus';
import { afterAll, describe, expect, it } from 'vitest';
import { MemoryDevice, patternBytes } from '../../packages/blkback/src/testing/memory-device.ts';
import { GuestWorker } from '../../packages/host/dist/guest/handle.js';
import type { GuestMessage } from '../../packages/host/dist/guest/protocol.js';
import { NOTHING, TestHost, turn } from './test-host.ts';

const directory = mkdtempSync(join(tmpdir(), 'pvkit-block-'));
const memory = mkdtempSync('/dev/shm/pvkit-block-');
afterAll(() => {
  for (const path of [directory, memory]) rmSync(path, { recursive: true });
});
let images = 0;

/** A machine with one guest whose disk is `image`, connected. */
async function connected(image: string, readOnly: boolean) {
  const host = await TestHost.create(new Map([[image, await FileDevice.open(image, { readOnly })]]));
  const guest = await host.guest(image, readOnly ? 'ro' : 'rw');
  return { host, guest, disk: await guest.connect() };
}

for (const [name, where] of [
  ['a file on disk', directory],
  ['a file on tmpfs', memory],
] as const)
  blockDeviceCompliance(`a frontend over loopback, of ${name}`, async ({ content, readOnly }) => {
    const image = join(where, `compliance-${images++}.img`);
    writeFileSync(image, content);
    const { host, guest, disk } = await connected(image, readOnly);
    return {
      device: disk,
      async close() {
        await disk.close();
        await guest.guest.close();
        expect(await host.close()).toEqual(NOTHING);
        rmSync(image);
      },
    };
  });

describe('a guest in a thread of its own', () => {
  it('reads and writes its disk, and what it wrote is in the image', async () => {
    const image = join(directory, 'worker.img');
    const content = randomBytes(4 * 1024 * 1024 + 512 * 3);
    writeFileSync(image, content);
    const host = await TestHost.create(new Map([[image, await FileDevice.open(image)]]));
    const identity = await host.machine.createGuest('worker');
    await addDevice(host.machine.client, host.describe(identity, image));

    const messages: GuestMessage[] = [];
    let heard: () => void = () => {};
    const worker = new GuestWorker(
      host.machine.guestHandle(identity),
      { kind: 'disk-check', path: 'device/vbd/51712' },
      (message) => {
        messages.push(message);
        heard();
      },
    );
    const message = async <K extends GuestMessage['kind']>(kind: K): Promise<Extract<GuestMessage, { kind: K }>> => {
      for (;;) {
        for (const each of messages) {
          if (each.kind === 'failed') throw new Error(each.reason);
          if (each.kind === kind) return each as Extract<GuestMessage, { kind: K }>;
        }
        await new Promise<void>((resolve) => {
          heard = resolve;
        });
      }
    };
    expect((await message('connected')).bytes).toBe(content.byteLength);
    expect((await message('read')).sha256).toBe(createHash('sha256').update(content).digest('hex'));
    worker.continue();
    const { position, bytes, sha256 } = await message('written');
    const written = readFileSync(image).subarray(position, position + bytes);
    expect(createHash('sha256').update(written).digest('hex')).toBe(sha256);
    worker.continue();
    await message('restored');
    expect(Buffer.compare(readFileSync(image), content)).toBe(0);

    await worker.shutdown();
    expect(await host.close()).toEqual(NOTHING);
  });

  it('may be killed in the middle of its work', async () => {
    const image = join(directory, 'killed.img');
    writeFileSync(image, Buffer.alloc(32 * 1024 * 1024));
    const host = await TestHost.create(new Map([[image, await FileDevice.open(image)]]));
    const identity = await host.machine.createGuest('worker');
    await addDevice(host.machine.client, host.describe(identity, image));
    const progress = new Promise<void>((resolve, reject) => {
      const worker = new GuestWorker(
        host.machine.guestHandle(identity),
        { kind: 'disk-check', path: 'device/vbd/51712' },
        (message) => {
          if (message.kind === 'failed') reject(new Error(message.reason));
          if (message.kind === 'connected') void worker.kill().then(resolve);
        },
      );
    });
    await progress;
    await host.machine.destroyGuest(identity);
    while (host.bus.devices.length > 0) await turn();
    expect(host.usage()).toEqual(NOTHING);
    expect(await host.close()).toEqual(NOTHING);
  });
});

describe('a disk', () => {
  const image = '/memory.img';
  const make = async (device = new MemoryDevice(patternBytes(1024 * 512))) => {
    const host = await TestHost.create(new Map([[image, device]]));
    return { host, device, guest: await host.guest(image) };
  };

  it('connects again after it was closed, as often as one likes', async () => {
    const { host, guest, device } = await make();
    for (let time = 0; time < 5; time++) {
      const disk = await guest.connect();
      const bytes = new Uint8Array(512);
      await disk.readv(time, IoVector.of(bytes));
      expect(Buffer.compare(bytes, device.bytes.subarray(time * 512, (time + 1) * 512))).toBe(0);
      await disk.close();
    }
    await guest.guest.close();
    expect(await host.close()).toEqual(NOTHING);
  });

  it('connects again after a frontend that was never closed', async () => {
    const { host, guest, device } = await make();
    const raw = await guest.connectRaw();
    const disk = await guest.connect();
    const bytes = new Uint8Array(512);
    await disk.readv(9, IoVector.of(bytes));
    expect(Buffer.compare(bytes, device.bytes.subarray(9 * 512, 10 * 512))).toBe(0);
    raw.close();
    await disk.close();
    await guest.guest.close();
    expect(await host.close()).toEqual(NOTHING);
  });

  it('survives the replacement of its backend process: the frontend is told, and may connect again', async () => {
    const { host, guest } = await make();
    const disk = await guest.connect();
    const held = host.usage().mappedPages;
    await host.restartBackends();
    await disk.closed;
    expect(host.usage().mappedPages).toBe(held - 1);
    await disk.close();
    const again = await guest.connect();
    await again.flush();
    await again.close();
    await guest.guest.close();
    expect(await host.close()).toEqual(NOTHING);
  });

  it('is detached with operations under way: those that the device has are finished, and the frontend is told', async () => {
    const { host, guest, device } = await make();
    const disk = await guest.connect();
    device.holding = true;
    const data = patternBytes(512, 9);
    const outcomes = Promise.allSettled([disk.writev(3, IoVector.of(data)), disk.flush()]);
    await device.untilHeld(2);
    const removal = guest.remove();
    await disk.closed;
    for (const operation of device.held) operation.complete();
    expect(await removal).toBe(true);
    for (const outcome of await outcomes)
      expect(outcome).toMatchObject({ status: 'rejected', reason: { errno: 'ENODEV' } });
    expect(Buffer.compare(device.bytes.subarray(3 * 512, 4 * 512), data)).toBe(0);
    expect(device.closes).toBe(1);
    await disk.close();
    await guest.guest.close();
    expect(await host.close()).toEqual(NOTHING);
  });

  it('of each of several guests is its own', async () => {
    const devices = new Map(
      Array.from({ length: 4 }, (_, index) => [
        `/disk-${index}.img`,
        new MemoryDevice(patternBytes(512 * 512, index + 1)),
      ]),
    );
    const host = await TestHost.create(devices);
    const guests = await Promise.all([...devices.keys()].map((target) => host.guest(target)));
    const disks = await Promise.all(guests.map((guest) => guest.connect()));
    const wholes = disks.map(() => new Uint8Array(512 * 512));
    await Promise.all(disks.map((disk, index) => disk.readv(0, IoVector.of(wholes[index]!))));
    [...devices.values()].forEach((device, index) => {
      expect(Buffer.compare(wholes[index]!, device.bytes)).toBe(0);
    });
    expect(host.bus.devices.map(({ state }) => state)).toEqual(disks.map(() => XenbusState.Connected));
    for (const [index, disk] of disks.entries()) {
      await disk.close();
      await guests[index]!.guest.close();
    }
    expect(await host.close()).toEqual(NOTHING);
  });

  it('whose image fails says EIO, and works again when the image does', async () => {
    const { host, guest, device } = await make();
    const disk = await guest.connect();
    device.failure = new Error('the test');
    await expect(disk.readv(0, IoVector.of(new Uint8Array(512)))).rejects.toMatchObject({ errno: 'EIO' });
    await expect(disk.flush()).rejects.toMatchObject({ errno: 'EIO' });
    device.failure = undefined;
    await disk.flush();
    await disk.close();
    await guest.guest.close();
    expect(await host.close()).toEqual(NOTHING);
  });
});
