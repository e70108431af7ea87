/** A backend made of raw parts that breaks its promises: the frontend's calls fail with typed errors, and it closes. */
import { BlockFrontend, diskDevice, IoVector, parseDiskSpec } from '@pvkit/blkback';
import {
  BackRing,
  type DomainIdentity,
  ErrnoError,
  type EventPort,
  eventPort,
  grantReference,
  type MappedPages,
  ProtocolError,
} from '@pvkit/ring';
import { addDevice, waitUntil, XenbusState } from '@pvkit/xenbus';
import { type LoopbackGuest, LoopbackMachine, openLoopbackGuest } from '@pvkit/xenbus/loopback';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BlkifRequest, BlkifResponse } from '../../packages/blkback/src/protocol.ts';
import { NOTHING, PATIENCE, turn, turns } from './test-host.ts';

const RSP_PROD = 8;
const good = {
  sectors: '2048',
  'sector-size': '512',
  'physical-sector-size': '4096',
  info: '0',
  'feature-flush-cache': '1',
};

let machine: LoopbackMachine;
let identity: DomainIdentity;
let guest: LoopbackGuest;
let back: string;
let front: string;

/** The backend's end. */
let ringPages: MappedPages | undefined;
let port: EventPort | undefined;
let ring: BackRing;
const slot = new Int32Array(28);
const request = new BlkifRequest();

beforeEach(async () => {
  machine = await LoopbackMachine.create({ name: 'test' });
  identity = await machine.createGuest('guest');
  guest = openLoopbackGuest(machine.guestHandle(identity));
  const spec = parseDiskSpec('vdev=xvda,target=/none.img');
  await addDevice(machine.client, diskDevice(spec, identity.domid, machine.platform.identity.domid));
  back = `/local/domain/0/backend/vbd/${identity.domid}/51712`;
  front = `/local/domain/${identity.domid}/device/vbd/51712`;
});
afterEach(async () => {
  if (port !== undefined) machine.platform.events.close(port);
  ringPages?.unmap();
  port = ringPages = undefined;
  // The store's ring is the one port that a running guest always has.
  expect(guest.platform.usage()).toEqual({ ...NOTHING, eventPorts: 1 });
  await guest.close();
  await machine.destroyGuest(identity);
  expect(machine.platform.usage()).toEqual(NOTHING);
  await machine.close();
});

const write = async (nodes: Readonly<Record<string, string>>) => {
  for (const [key, value] of Object.entries(nodes)) await machine.client.write(`${back}/${key}`, value);
};
const frontendIs = async (state: XenbusState) => {
  const path = `${front}/state`;
  const held = await waitUntil(
    machine.client,
    path,
    PATIENCE,
    async () => (await machine.client.readOptional(path)) === String(state),
  );
  expect(held).toBe(true);
};
const connecting = () => BlockFrontend.connect(guest.client, guest.platform, 'device/vbd/51712');

/** As a backend that keeps to the rules until it is Connected, with these properties. */
async function connect(properties: Readonly<Record<string, string>> = good): Promise<BlockFrontend> {
  const connected = connecting();
  connected.catch(() => {});
  await write({ state: String(XenbusState.InitWait) });
  await frontendIs(XenbusState.Initialised);
  const reference = grantReference(Number(await machine.client.read(`${front}/ring-ref`)));
  const remote = eventPort(Number(await machine.client.read(`${front}/event-channel`)));
  ringPages = machine.platform.grants.map(identity.domid, [reference], 'read-write');
  port = machine.platform.events.bindInterdomain(identity.domid, remote);
  ring = BackRing.attach(ringPages, 112);
  await write({ ...properties, state: String(XenbusState.Connected) });
  return connected;
}

const takeOne = async () => {
  while (!ring.take(slot)) await turn();
  request.decode(slot);
  return { idLow: request.idLow, operation: request.operation };
};
const answer = (fields: Partial<BlkifResponse>) => {
  const words = new Int32Array(4);
  Object.assign(new BlkifResponse(), fields).encode(words);
  ring.put(words);
  ring.push();
  machine.platform.events.notify(port!);
};
const letGo = () => {
  machine.platform.events.close(port!);
  ringPages?.unmap();
  port = ringPages = undefined;
};
const sector = () => IoVector.of(new Uint8Array(512));

describe('a backend that breaks the ring', () => {
  const rows: [string, () => Promise<void>][] = [
    ['answers an id that is not on the ring', async () => answer({ ...(await takeOne()), idLow: 30 })],
    ['answers an id beyond the ring', async () => answer({ ...(await takeOne()), idLow: 0x7fff_ffff })],
    ['answers an id with a high word', async () => answer({ ...(await takeOne()), idHigh: 1 })],
    ['answers another operation', async () => answer({ ...(await takeOne()), operation: 3 })],
    [
      'answers twice',
      async () => {
        const first = await takeOne();
        await takeOne();
        answer(first);
        answer(first);
      },
    ],
    [
      'claims more responses than there are requests',
      async () => {
        await takeOne();
        ringPages!.store32(RSP_PROD, 20);
        machine.platform.events.notify(port!);
      },
    ],
    [
      'moves rsp_prod backwards',
      async () => {
        await takeOne();
        ringPages!.store32(RSP_PROD, 0xffff_ffff);
        machine.platform.events.notify(port!);
      },
    ],
  ];

  it.each(rows)('%s', async (_, misbehave) => {
    const disk = await connect();
    const calls = [
      disk.readv(0, sector()),
      disk.readv(1, sector()),
      disk.readv(2, IoVector.of(new Uint8Array(512 * 512))),
    ];
    const outcomes = Promise.allSettled(calls);
    await misbehave();
    const failed = (await outcomes).filter((outcome) => outcome.status === 'rejected');
    expect(failed.length).toBeGreaterThanOrEqual(2);
    for (const { reason } of failed) {
      expect(reason).toBeInstanceOf(ProtocolError);
    }
    await disk.closed;
    await frontendIs(XenbusState.Closed);
    expect(() => disk.readv(0, sector())).toThrow(ErrnoError);
    letGo();
    await disk.close();
  });

  it('answers with errors, which are those of the calls alone', async () => {
    const disk = await connect();
    for (const [status, errno] of [
      [-1, 'EIO'],
      [-2, 'EOPNOTSUPP'],
      [-77, 'EIO'],
    ] as const) {
      const read = disk.readv(0, sector());
      answer({ ...(await takeOne()), status });
      await expect(read).rejects.toMatchObject({ errno });
    }
    letGo();
    await disk.close();
  });

  it('sends events without end', async () => {
    const disk = await connect();
    for (let storm = 0; storm < 100; storm++) {
      for (let event = 0; event < 50; event++) machine.platform.events.notify(port!);
      await turns(1);
    }
    const read = disk.readv(0, sector());
    answer(await takeOne());
    await read;
    letGo();
    await disk.close();
  });
});

describe('a backend whose properties can not be', () => {
  it.each([
    { ...good, sectors: '-1' },
    { ...good, sectors: '18446744073709551615' },
    { ...good, sectors: 'many' },
    { ...good, 'sector-size': '0' },
    { ...good, 'sector-size': '511' },
    { ...good, 'sector-size': '4294967296' },
    { ...good, info: 'x'.repeat(1000) },
    { ...good, 'physical-sector-size': '1e3' },
    { ...good, 'feature-flush-cache': 'yes' },
    { sectors: '2048', 'sector-size': '512' },
    {},
  ])('is refused: %#', async (properties) => {
    await expect(connect(properties)).rejects.toBeInstanceOf(ProtocolError);
    await frontendIs(XenbusState.Closed);
    letGo();
  });

  it('later is refused later', async () => {
    const disk = await connect();
    const read = expect(disk.readv(0, sector())).rejects.toBeInstanceOf(ProtocolError);
    await write({ sectors: 'x', state: String(XenbusState.Connected) });
    await read;
    await disk.closed;
    letGo();
    await disk.close();
  });

  it('may change its size', async () => {
    const disk = await connect();
    expect(() => disk.readv(3000, sector())).toThrow('outside a device');
    await write({ sectors: '4096', state: String(XenbusState.Connected) });
    while (disk.geometry.sectors !== 4096) await turn();
    const read = disk.readv(3000, sector());
    answer(await takeOne());
    await read;
    letGo();
    await disk.close();
  });
});

describe('a backend that goes away', () => {
  const endings: [string, () => Promise<unknown>][] = [
    ['closing', () => write({ state: String(XenbusState.Closing) })],
    ['closed', () => write({ state: String(XenbusState.Closed) })],
    ['back to InitWait', () => write({ state: String(XenbusState.InitWait) })],
    ['with a state that is none', () => write({ state: 'gone' })],
    ['with its directory', () => machine.client.remove(back)],
  ];

  it.each(endings)('%s, with calls under way', async (_, end) => {
    const disk = await connect();
    const calls = Array.from({ length: 50 }, (_, index) => disk.readv(index, sector()));
    const outcomes = Promise.allSettled(calls);
    await takeOne();
    await end();
    for (const outcome of await outcomes) {
      // A directory may go between the frontend's look at its state and at its properties: that is a protocol error.
      const code = expect.stringMatching(/^ERR_PV_(ERRNO|PROTOCOL)$/);
      expect(outcome).toMatchObject({ status: 'rejected', reason: { code } });
    }
    await disk.closed;
    await frontendIs(XenbusState.Closed);
    letGo();
    await disk.close();
  });

  it.each([XenbusState.Closing, XenbusState.Closed])('before it connects (state %i)', async (state) => {
    const connected = connecting();
    connected.catch(() => {});
    await write({ state: String(state) });
    await expect(connected).rejects.toMatchObject({ errno: 'ENODEV' });
  });

  it('with the device itself', async () => {
    const disk = await connect();
    const read = expect(disk.readv(0, sector())).rejects.toMatchObject({ errno: 'ENODEV' });
    await machine.client.remove(front);
    await read;
    await disk.closed;
    letGo();
    await disk.close();
    expect(await machine.client.exists(front)).toBe(false);
  });

  it('and never lets go of the ring: the page is not used for anything else meanwhile', async () => {
    const disk = await connect();
    await disk.close();
    expect(guest.platform.usage()).toMatchObject({ grantedPages: 0, quarantinedPages: 1 });
    expect(ringPages!.load32(RSP_PROD)).toBe(0);
    letGo();
  });
});

it('a device that is not there is an error of the configuration', async () => {
  await expect(BlockFrontend.connect(guest.client, guest.platform, 'device/vbd/1')).rejects.toMatchObject({
    code: 'ERR_PV_CONFIGURATION',
  });
});
