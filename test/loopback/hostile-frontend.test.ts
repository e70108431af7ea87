/** A guest that does what it likes with its ring, its grants, its nodes and its life: nobody but itself may suffer. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { FileDevice } from '@pvkit/blkback/file';
import type { GrantedPages } from '@pvkit/ring';
import { XenbusState } from '@pvkit/xenbus';
import { openLoopbackGuest } from '@pvkit/xenbus/loopback';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MemoryDevice, patternBytes } from '../../packages/blkback/src/testing/memory-device.ts';
import type { RawFrontend, RawRequest } from '../../packages/blkback/src/testing/raw-frontend.ts';
import { Neighbour, NOTHING, type TestGuest, TestHost, turns, until } from './test-host.ts';

const [READ, WRITE, FLUSH, DISCARD, INDIRECT] = [0, 1, 3, 5, 6];
const [OKAY, ERROR, EOPNOTSUPP] = [0, -1, -2];
const SECTORS = 2048;
const ID = 0xffff_8880_dead_beefn;
const directory = mkdtempSync('/dev/shm/pvkit-hostile-');
const image = join(directory, 'victim.img');
afterAll(() => rmSync(directory, { recursive: true }));

let host: TestHost;
let neighbour: Neighbour;
let hostile: TestGuest;

beforeEach(async () => {
  writeFileSync(image, patternBytes(SECTORS * 512, 5));
  host = await TestHost.create();
  neighbour = await Neighbour.create(host);
});
afterEach(async () => {
  await neighbour.goesOn();
  await neighbour.stop();
  expect(await host.close()).toEqual(NOTHING);
  rmSync(image, { force: true });
});

/** A hostile guest on a real file, which is opened anew for every connection. */
async function begin(access = 'rw'): Promise<RawFrontend> {
  host.devices.set(image, await FileDevice.open(image, { readOnly: access === 'ro' }));
  hostile = await host.guest(image, access);
  return hostile.connectRaw();
}

/** The backend has ended the connection, let go of the ring, and said why, naming domain and device. */
async function expectDisconnected(reason: string | RegExp, heldBefore = host.usage().mappedPages): Promise<void> {
  await hostile.backendIs(XenbusState.Closed);
  const where = { instance: 'loopback:test', domid: hostile.identity.domid, device: 'vbd/51712' };
  const [said, ...more] = host.events('xenbus.backend-disconnected', hostile.identity.domid);
  expect(said).toMatchObject(where);
  expect(String(said?.reason)).toMatch(reason);
  expect(more).toEqual([]);
  expect(await hostile.errorText()).toMatch(reason);
  expect(host.usage().mappedPages).toBeLessThanOrEqual(heldBefore);
}

describe('its ring', () => {
  it.each([
    ['one request more than fits', 33],
    ['two billion requests', 0x8000_0000],
    ['going backwards', 0xffff_ffff],
  ])('with req_prod %s', async (_, value) => {
    const raw = await begin();
    const held = host.usage().mappedPages;
    raw.ringPages.store32(0, value);
    hostile.guest.platform.events.notify(raw.port);
    await expectDisconnected(/req_prod to \d+/, held - 1);
    raw.close();
  });

  it('going back behind requests that are under way', async () => {
    const device = new MemoryDevice(patternBytes(SECTORS * 512));
    device.holding = true;
    host.devices.set('/slow.img', device);
    hostile = await host.guest('/slow.img');
    const raw = await hostile.connectRaw();
    const pages = raw.share(1);
    const segments = [{ reference: pages.references[0]!, first: 0, last: 7 }];
    raw.send({ operation: READ, id: 1n, segments }, { operation: WRITE, id: 2n, segments });
    await device.untilHeld(2);
    const held = host.usage();
    raw.ringPages.store32(0, 1);
    hostile.guest.platform.events.notify(raw.port);
    await until(() => host.events('xenbus.backend-disconnected').length > 0);
    await neighbour.goesOn();
    expect(host.usage()).toEqual(held); // until the device is done
    for (const operation of device.held) operation.complete();
    await expectDisconnected(/req_prod/, held.mappedPages - 1);
    raw.close();
  });

  it('after which it connects again and is served', async () => {
    const raw = await begin();
    raw.ringPages.store32(0, 77);
    hostile.guest.platform.events.notify(raw.port);
    await hostile.backendIs(XenbusState.Closed);
    raw.close();
    host.devices.set(image, await FileDevice.open(image));
    await hostile.write({ state: String(XenbusState.Closed) });
    await hostile.write({ state: String(XenbusState.Initialising) });
    const again = await hostile.connectRaw();
    expect((await again.call({ operation: FLUSH, id: 5n })).status).toBe(OKAY);
    expect(await hostile.errorText()).toBeUndefined();
    again.close();
  });
});

describe('its requests get the error of the protocol with their id, and its good ones are served', () => {
  let raw: RawFrontend;
  let pages: GrantedPages;
  let readOnly: GrantedPages;
  const grant = (page = 0, first = 0, last = 7) => ({ reference: pages.references[page]!, first, last });
  beforeEach(async () => {
    raw = await begin();
    pages = raw.share(11);
    readOnly = raw.share(1, 'read-only');
  });
  afterEach(() => raw.close());

  const rows: [string, () => Omit<RawRequest, 'id'>, number][] = [
    ['a reference never granted', () => ({ operation: READ, segments: [{ ...grant(), reference: 7777 }] }), ERROR],
    [
      'a reference beyond the table',
      () => ({ operation: WRITE, segments: [{ ...grant(), reference: 2 ** 32 - 1 }] }),
      ERROR,
    ],
    ['a reserved reference', () => ({ operation: READ, segments: [{ ...grant(), reference: 0 }] }), ERROR],
    [
      'a read into a read-only page',
      () => ({ operation: READ, segments: [{ ...grant(), reference: readOnly.references[0]! }] }),
      ERROR,
    ],
    [
      'one bad reference of three',
      () => ({ operation: WRITE, segments: [grant(0), { ...grant(), reference: 7777 }, grant(1)] }),
      ERROR,
    ],
    ['a sector beyond the end', () => ({ operation: READ, sector: BigInt(SECTORS), segments: [grant()] }), ERROR],
    ['sectors across the end', () => ({ operation: WRITE, sector: BigInt(SECTORS - 1), segments: [grant()] }), ERROR],
    ['sector 2^63', () => ({ operation: WRITE, sector: 2n ** 63n, segments: [grant()] }), ERROR],
    ['sector 2^64-1', () => ({ operation: WRITE, sector: 2n ** 64n - 1n, segments: [grant()] }), ERROR],
    ['first beyond last', () => ({ operation: READ, segments: [grant(0, 7, 0)] }), ERROR],
    ['last beyond the page', () => ({ operation: WRITE, segments: [grant(0, 0, 8)] }), ERROR],
    ['no segments', () => ({ operation: READ }), ERROR],
    ...[12, 13, 128, 255].map((count): [string, () => Omit<RawRequest, 'id'>, number] => [
      `${count} segments`,
      () => ({ operation: WRITE, segments: pages.references.map((_, page) => grant(page)), segmentCount: count }),
      ERROR,
    ]),
    ['a flush with segments', () => ({ operation: FLUSH, segments: [grant()] }), ERROR],
    ['a discard', () => ({ operation: DISCARD, sector: 0n, segments: [] }), EOPNOTSUPP],
    ['an indirect request', () => ({ operation: INDIRECT, segments: [grant()] }), EOPNOTSUPP],
    ['an unknown operation', () => ({ operation: 200, segments: [grant()] }), EOPNOTSUPP],
  ];

  it.each(rows)('%s', async (_, request, status) => {
    const before = readFileSync(image);
    expect(await raw.call({ id: ID, ...request() })).toEqual({ id: ID, operation: request().operation, status });
    expect(host.events('blkback.request-refused', hostile.identity.domid)).toMatchObject([
      { instance: 'loopback:test', device: 'vbd/51712' },
    ]);
    expect(Buffer.compare(readFileSync(image), before)).toBe(0);
    expect((await raw.call({ operation: READ, id: 2n, sector: 8n, segments: [grant()] })).status).toBe(OKAY);
    const bytes = new Uint8Array(4096);
    pages.read(0, bytes, 0, 4096);
    expect(Buffer.compare(bytes, before.subarray(4096, 8192))).toBe(0);
  });

  it("another guest's page", async () => {
    const other = await host.machine.createGuest('other');
    const { platform, close } = openLoopbackGuest(host.machine.guestHandle(other));
    // Reference numbers mean nothing outside their table: the same number, if granted here, is another page.
    const victim = platform.grants.share(host.machine.platform.identity.domid, 64, 'read-write');
    victim.write(0, patternBytes(4096, 77), 0, 4096);
    for (const reference of victim.references.slice(32)) {
      const response = await raw.call({ operation: READ, id: 1n, segments: [{ reference, first: 0, last: 7 }] });
      expect(response.status).toBe(ERROR);
    }
    const bytes = new Uint8Array(4096);
    victim.read(0, bytes, 0, 4096);
    expect(Buffer.compare(bytes, patternBytes(4096, 77))).toBe(0);
    victim.endAccess();
    await close();
  });

  it('a thousand refusals fill no log', async () => {
    for (let index = 0; index < 1000; index += 20) {
      raw.send(...Array.from({ length: 20 }, (_, more) => ({ operation: DISCARD, id: BigInt(index + more) })));
      await raw.receive(20);
    }
    const said = host.events('blkback.request-refused', hostile.identity.domid);
    expect(said).toHaveLength(10);
    expect(said.at(-1)).toHaveProperty('note');
    const [status] = host.bus.devices.filter((device) => device.context.frontend.domid === hostile.identity.domid);
    expect(status?.status()).toMatchObject({ errors: 1000 });
  });
});

it('a write to a read-only disk is refused', async () => {
  const raw = await begin('ro');
  const pages = raw.share(1);
  const segments = [{ reference: pages.references[0]!, first: 0, last: 7 }];
  expect((await raw.call({ operation: WRITE, id: ID, segments })).status).toBe(ERROR);
  expect((await raw.call({ operation: READ, id: ID, segments })).status).toBe(OKAY);
  raw.close();
});

describe('its life', () => {
  it.each(['is destroyed', 'crashes, and its nodes stay'])('%s in mid-request with a slow device', async (how) => {
    const device = new MemoryDevice(patternBytes(SECTORS * 512));
    device.holding = true;
    host.devices.set('/slow.img', device);
    const usage = host.usage();
    hostile = await host.guest('/slow.img');
    const raw = await hostile.connectRaw();
    const pages = raw.share(8);
    const requests = Array.from({ length: 32 }, (_, index) => ({
      operation: index % 2 === 0 ? READ : WRITE,
      id: BigInt(index),
      segments: [{ reference: pages.references[index % 8]!, first: 0, last: 7 }],
    }));
    raw.send(...requests);
    await device.untilHeld(32);
    if (how === 'is destroyed') await hostile.destroy();
    else {
      host.machine.hypervisor.destroyDomain(hostile.identity);
      await host.machine.client.release(hostile.identity.domid);
    }
    await neighbour.goesOn();
    expect(host.usage().mappedPages).toBe(usage.mappedPages + 1); // the ring, while the device works
    for (const operation of device.held) operation.complete();
    await until(() => host.usage().mappedPages === usage.mappedPages && host.usage().eventPorts === usage.eventPorts);
    if (how === 'is destroyed') await until(() => host.bus.devices.length === 1);
    else await hostile.backendIs(XenbusState.Closed);
    expect(device.closes).toBe(1);
  });

  it('ends again and again', async () => {
    const usage = host.usage();
    for (let life = 0; life < 12; life++) {
      const raw = await begin();
      raw.send({ operation: FLUSH, id: 1n });
      if (life % 2 === 0) await raw.receive(1);
      await hostile.destroy();
      await until(() => host.bus.devices.length === 1);
    }
    expect(host.usage()).toEqual(usage);
  });
});

describe('its nodes', () => {
  it('rewritten while it is connected change nothing of the connection', async () => {
    const raw = await begin();
    for (const value of ['0', '1', '8', '4294967295', 'x', '', 'z'.repeat(1900)])
      await hostile.write({
        'ring-ref': value,
        'event-channel': value,
        protocol: value,
        backend: `/local/domain/0/backend/vbd/${value === '' ? 'q' : value}/51712`,
        'backend-id': value,
        'multi-queue-num-queues': value,
      });
    await hostile.write({ state: String(XenbusState.Connected) });
    expect((await raw.call({ operation: FLUSH, id: 9n })).status).toBe(OKAY);
    expect(host.events('xenbus.backend-disconnected')).toEqual([]);
    raw.close();
  });

  it.each(['garbage', '-1', '99999999999', '6'.repeat(1900), '\u0000'])(
    'with a state that is none end the connection, and it may begin anew: %#',
    async (state) => {
      const raw = await begin();
      await hostile.write({ state });
      await hostile.backendIs(XenbusState.Closed);
      raw.close();
      host.devices.set(image, await FileDevice.open(image));
      await hostile.write({ state: String(XenbusState.Initialising) });
      const again = await hostile.connectRaw();
      expect((await again.call({ operation: FLUSH, id: 9n })).status).toBe(OKAY);
      again.close();
    },
  );

  it.each([
    [{ 'ring-ref': '0' }, 'ring-ref'],
    [{ 'ring-ref': '4294967295' }, 'GNTST'],
    [{ 'ring-ref': 'x'.repeat(1900) }, 'ring-ref'],
    [{ 'ring-ref': '\u0001\u001b[2J' }, 'ring-ref'],
    [{ 'event-channel': '131071' }, 'EINVAL'],
    [{ 'event-channel': '1' }, 'EINVAL'],
    [{ 'event-channel': '1e1' }, 'event-channel'],
    [{ protocol: 'sparc-abi' }, 'sparc-abi'],
    [{ 'ring-page-order': '4' }, 'ring-page-order'],
    [{ 'multi-queue-num-queues': '4000000000' }, 'multi-queue-num-queues'],
  ])('that make no connection: %#', async (nodes, reason) => {
    host.devices.set(image, await FileDevice.open(image));
    hostile = await host.guest(image);
    await hostile.backendIs(XenbusState.InitWait);
    const usage = host.usage();
    const pages = hostile.guest.platform.grants.share(host.machine.platform.identity.domid, 1, 'read-write');
    const port = hostile.guest.platform.events.allocateUnbound(host.machine.platform.identity.domid);
    const good = { 'ring-ref': String(pages.references[0]), 'event-channel': String(port) };
    await hostile.write({ ...good, ...nodes, state: String(XenbusState.Initialised) });
    await hostile.backendIs(XenbusState.Closed);
    expect(await hostile.errorText()).toContain(reason);
    expect(host.events('xenbus.backend-connect-failed', hostile.identity.domid)).toHaveLength(1);
    expect(host.usage()).toEqual(usage);
    pages.endAccess();
  });

  it('deleted while it is connected end the connection', async () => {
    const raw = await begin();
    await hostile.guest.client.remove(hostile.front);
    await hostile.backendIs(XenbusState.Closed);
    raw.close();
  });

  it('never let it write to the backend, or to the neighbour', async () => {
    const raw = await begin();
    const { client } = hostile.guest;
    for (const path of [
      `${hostile.back}/state`,
      '/local/domain/0/backend/vbd/1/51712/state',
      '/local/domain/1/device/vbd/51712/state',
    ])
      await expect(client.write(path, '6')).rejects.toMatchObject({ errno: 'EACCES' });
    raw.close();
  });
});

it('its events, however many, cost the others little', async () => {
  const raw = await begin();
  const { events } = hostile.guest.platform;
  for (let storm = 0; storm < 300; storm++) {
    for (let event = 0; event < 50; event++) events.notify(raw.port);
    if (storm % 10 === 0) await neighbour.goesOn(1);
    await turns(1);
  }
  expect((await raw.call({ operation: FLUSH, id: 1n })).status).toBe(OKAY);
  expect(host.events('xenbus.backend-disconnected')).toEqual([]);
  raw.close();
});
