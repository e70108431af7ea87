import { ErrnoError } from '@pvkit/ring';
import { permissions } from '@pvkit/xenstore';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { XenbusState } from './state.ts';
import { MachineFixture, PATIENCE, timer } from './testing/machine-fixture.ts';
import { addDevice, type DeviceDescription, removeDevice, waitUntil } from './toolstack.ts';

let fixture: MachineFixture;
let description: DeviceDescription;
beforeEach(async () => {
  fixture = await MachineFixture.create();
  description = {
    ...fixture.device,
    deviceClass: 'vbd',
    devid: 51_712,
    backendNodes: { params: '/disk.img', mode: 'w', 'device-type': 'disk' },
    frontendNodes: { 'virtual-device': '51712', 'device-type': 'disk' },
  };
});
afterEach(() => fixture.close());

const BACK = '/local/domain/0/backend/vbd/1/51712';
const FRONT = '/local/domain/1/device/vbd/51712';
const LIBXL = '/libxl/1/device/vbd/51712';

async function nodesOf(path: string): Promise<Record<string, string>> {
  const names = (await fixture.client.directoryOptional(path)) ?? [];
  return Object.fromEntries(
    await Promise.all(names.map(async (name) => [name, await fixture.client.read(`${path}/${name}`)])),
  );
}

describe('a device that is added', () => {
  beforeEach(() => addDevice(fixture.client, description));

  it('has the nodes of libxl in its three directories', async () => {
    const backend = {
      frontend: FRONT,
      'frontend-id': '1',
      online: '1',
      state: '1',
      params: '/disk.img',
      mode: 'w',
      'device-type': 'disk',
    };
    expect(await nodesOf(BACK)).toEqual(backend);
    expect(await nodesOf(FRONT)).toEqual({
      backend: BACK,
      'backend-id': '0',
      state: '1',
      'virtual-device': '51712',
      'device-type': 'disk',
    });
    expect(await nodesOf(LIBXL)).toEqual({ backend: BACK, ...backend });
  });

  it('has their permissions: each end reads the other, writes its own, and nobody else sees any of it', async () => {
    const backend = permissions(0, [{ domid: 1, access: 'read' }]);
    const frontend = permissions(1, [{ domid: 0, access: 'read' }]);
    const all: [string, ReturnType<typeof permissions>][] = [
      [BACK, backend],
      [`${BACK}/state`, backend],
      [`${BACK}/params`, backend],
      [FRONT, frontend],
      [`${FRONT}/state`, frontend],
      [`${FRONT}/backend`, frontend],
      [LIBXL, permissions(0)],
      [`${LIBXL}/state`, permissions(0)],
      ['/local/domain/0/backend/vbd/1', permissions(0)],
      ['/local/domain/0/backend/vbd', permissions(0)],
      ['/local/domain/1/device/vbd', permissions(0, [{ domid: 1, access: 'read' }])],
    ];
    for (const [path, acl] of all) expect([path, await fixture.client.getPermissions(path)]).toEqual([path, acl]);
  });

  it('is what the guest may do with it', async () => {
    const { client } = fixture.guest;
    expect(await client.read(`${BACK}/state`)).toBe('1');
    await client.write(`${FRONT}/ring-ref`, '8');
    expect(await fixture.client.getPermissions(`${FRONT}/ring-ref`)).toEqual(
      permissions(1, [{ domid: 0, access: 'read' }]),
    );
    await expect(client.write(`${BACK}/state`, '4')).rejects.toMatchObject({ errno: 'EACCES' });
    await expect(client.read(`${LIBXL}/backend`)).rejects.toMatchObject({ errno: 'EACCES' });
    await expect(client.directory('/local/domain/0/backend/vbd')).rejects.toMatchObject({ errno: 'EACCES' });
  });

  it('can not be added again, and stays as it is', async () => {
    await fixture.guest.client.write(`${FRONT}/state`, '4');
    const again = addDevice(fixture.client, description);
    await expect(again).rejects.toBeInstanceOf(ErrnoError);
    await expect(again).rejects.toMatchObject({ errno: 'EEXIST', context: { domid: 1, device: 'vbd/51712' } });
    expect(await fixture.client.read(`${FRONT}/state`)).toBe('4');
  });

  it('is removed once its backend is Closed: first offline and Closing, then gone, with the empty parent', async () => {
    const removal = removeDevice(fixture.client, description, PATIENCE);
    await fixture.nodeIs(`${BACK}/state`, String(XenbusState.Closing));
    expect(await fixture.client.read(`${BACK}/online`)).toBe('0');
    expect(await fixture.client.exists(FRONT)).toBe(true);
    await fixture.client.write(`${BACK}/state`, String(XenbusState.Closed));
    expect(await removal).toBe(true);
    for (const path of [BACK, FRONT, LIBXL, '/local/domain/0/backend/vbd/1'])
      expect([path, await fixture.client.exists(path)]).toEqual([path, false]);
  });

  it('leaves other devices of the guest alone', async () => {
    await addDevice(fixture.client, { ...description, devid: 51_728 });
    await fixture.client.write(`${BACK}/state`, String(XenbusState.Closed));
    expect(await removeDevice(fixture.client, description, PATIENCE)).toBe(true);
    expect(await fixture.client.directory('/local/domain/0/backend/vbd/1')).toEqual(['51728']);
    expect(await fixture.client.directory('/local/domain/1/device/vbd')).toEqual(['51728']);
  });

  it('is removed all the same, saying so, when its backend does not close in time', async () => {
    expect(await removeDevice(fixture.client, description, { timeoutMs: 20, timer })).toBe(false);
    for (const path of [BACK, FRONT, LIBXL]) expect(await fixture.client.exists(path)).toBe(false);
  });

  it('is removed when its backend removes the directory itself', async () => {
    const removal = removeDevice(fixture.client, description, PATIENCE);
    await fixture.nodeIs(`${BACK}/state`, String(XenbusState.Closing));
    await fixture.client.remove(BACK);
    expect(await removal).toBe(true);
    expect(await fixture.client.exists(FRONT)).toBe(false);
  });

  it('goes with its domain, the backend side included', async () => {
    await fixture.machine.destroyGuest(fixture.identity);
    for (const path of [BACK, '/local/domain/0/backend/vbd/1', '/local/domain/1', '/libxl/1'])
      expect([path, await fixture.client.exists(path)]).toEqual([path, false]);
  });
});

it('leftovers of a frontend do not become nodes of the new device', async () => {
  await fixture.client.write(`${FRONT}/ring-ref`, '8');
  await addDevice(fixture.client, description);
  expect(await fixture.client.exists(`${FRONT}/ring-ref`)).toBe(false);
  expect((await fixture.client.getPermissions(`${FRONT}/state`)).owner).toBe(1);
});

it('a device that is not there is removed without waiting', async () => {
  expect(await removeDevice(fixture.client, description, PATIENCE)).toBe(true);
});

it('waiting leaves no watch behind, whether what it waits for comes or not', async () => {
  const before = fixture.machine.store.counters().watches;
  expect(await waitUntil(fixture.client, '/x', { timeoutMs: 20, timer }, async () => false)).toBe(false);
  expect(await waitUntil(fixture.client, '/x', PATIENCE, async () => true)).toBe(true);
  await expect(waitUntil(fixture.client, '/x', PATIENCE, () => Promise.reject(new Error('the test')))).rejects.toThrow(
    'the test',
  );
  const waiting = waitUntil(fixture.client, '/x', PATIENCE, () => fixture.client.exists('/x'));
  await fixture.client.write('/x', '');
  expect(await waiting).toBe(true);
  expect(fixture.machine.store.counters().watches).toBe(before);
});
