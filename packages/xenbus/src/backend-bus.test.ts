import { ProtocolError } from '@pvkit/ring';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BackendBus } from './backend-bus.ts';
import { XenbusState as S } from './state.ts';
import { FakeDriver } from './testing/fake-driver.ts';
import { MachineFixture, PATIENCE, until } from './testing/machine-fixture.ts';
import { addDevice, removeDevice } from './toolstack.ts';

let fixture: MachineFixture;
let driver: FakeDriver;
let bus: BackendBus;
let watchesBefore: number;

const openBus = (client = fixture.client) =>
  BackendBus.open({
    client,
    platform: fixture.machine.platform,
    drivers: [driver],
    identify: (id) => fixture.machine.hypervisor.identify(id),
  });

beforeEach(async () => {
  fixture = await MachineFixture.create();
  driver = new FakeDriver();
  watchesBefore = fixture.machine.store.counters().watches;
  bus = await openBus();
});
afterEach(async () => {
  await bus.close();
  expect(driver.faults).toEqual([]);
  expect(driver.holding).toEqual([]);
  expect(fixture.machine.store.counters().watches).toBe(watchesBefore);
  await fixture.close();
  const { mappedPages, eventPorts } = fixture.machine.platform.usage();
  expect([mappedPages, eventPorts]).toEqual([0, 0]);
});

const add = () =>
  addDevice(fixture.client, {
    ...fixture.device,
    backendNodes: { params: '/disk.img' },
    frontendNodes: {},
  });
const error = () => `/local/domain/0/error/backend/vtest/${fixture.identity.domid}/7/error`;
const errorText = () => fixture.client.readOptional(error());

async function connect(): Promise<void> {
  await add();
  await fixture.backendIs(S.InitWait);
  await fixture.frontend(S.Initialised, { 'ring-ref': '8' });
  await fixture.backendIs(S.Connected);
}

describe('a device', () => {
  it('goes through its life, and publishes what its class says at each step', async () => {
    await connect();
    expect(await fixture.client.read(`${fixture.back}/feature-x`)).toBe('1');
    expect(await fixture.client.read(`${fixture.back}/property`)).toBe('2');
    expect(driver.calls).toEqual([
      ['open', { params: '/disk.img' }],
      ['connect', { 'ring-ref': '8', 'queue-0/ring-ref': undefined }],
    ]);
    expect(bus.devices.map(({ name, context }) => [name, context.frontend])).toEqual([['vtest/7', fixture.identity]]);
    await fixture.frontend(S.Connected);
    await fixture.frontend(S.Closing);
    await fixture.backendIs(S.Closing);
    expect(driver.holding).toHaveLength(1); // until the frontend has finished
    await fixture.frontend(S.Closed);
    await fixture.backendIs(S.Closed);
    expect(driver.names).toEqual(['open', 'connect', 'disconnect', 'close']);
    await fixture.frontend(S.Initialising);
    await fixture.backendIs(S.InitWait);
    await fixture.frontend(S.Initialised);
    await fixture.backendIs(S.Connected);
  });

  it('that is there already is served too', async () => {
    await bus.close();
    await add();
    bus = await openBus();
    await fixture.backendIs(S.InitWait);
    expect(bus.devices).toHaveLength(1);
  });

  it('may have its directories made in any order, node by node', async () => {
    const { client, back, front } = fixture;
    const nodes: [string, string][] = [
      [`${front}/state`, '3'],
      [`${back}/online`, '1'],
      [`${back}/params`, '/disk.img'],
      [`${back}/frontend`, front],
      [`${back}/state`, '1'],
    ];
    for (const order of [nodes, [...nodes].reverse()]) {
      for (const [path, value] of order) await client.write(path, value);
      await fixture.backendIs(S.Connected);
      await client.remove(back);
      await client.remove(front);
      await until(() => bus.devices.length === 0);
    }
  });

  it('is not made of names that no device has', async () => {
    const { client } = fixture;
    for (const name of ['x/7', '01/7', '1/07', '1/-1', '1/2147483648', '32752/1', '1/7x', '1/0x7'])
      await client.write(`/local/domain/0/backend/vtest/${name}/state`, '1');
    await add();
    await fixture.backendIs(S.InitWait);
    expect(driver.instances).toHaveLength(1);
  });

  it('that is removed in order closes when its frontend has closed', async () => {
    await connect();
    const removal = removeDevice(fixture.client, fixture.device, PATIENCE);
    await fixture.backendIs(S.Closing);
    expect(driver.holding).toHaveLength(1);
    await fixture.frontend(S.Closed);
    expect(await removal).toBe(true);
    await until(() => bus.devices.length === 0);
    expect(driver.holding).toEqual([]);
  });

  it('that is removed before its frontend came closes at once', async () => {
    await add();
    await fixture.backendIs(S.InitWait);
    expect(await removeDevice(fixture.client, fixture.device, PATIENCE)).toBe(true);
    await until(() => bus.devices.length === 0);
  });

  it('whose own directory is deleted lets go of everything and does not bring it back', async () => {
    await connect();
    await fixture.client.remove(`/local/domain/0/backend/vtest/${fixture.identity.domid}`);
    await until(() => bus.devices.length === 0);
    expect(driver.names.slice(2)).toEqual(['disconnect', 'close']);
    expect(await fixture.client.exists(fixture.back)).toBe(false);
  });

  it('that comes back while its predecessor still drains is served once, by a device of its own', async () => {
    await connect();
    let drained: () => void = () => {};
    driver.draining = new Promise((resolve) => {
      drained = resolve;
    });
    await fixture.client.remove(fixture.back);
    await until(() => driver.names.includes('disconnect'));
    await fixture.client.remove(fixture.front);
    await add();
    await fixture.client.write(`${fixture.back}/params`, '/other.img');
    await fixture.client.exists('/'); // the events of the above have been delivered
    driver.draining = undefined;
    drained();
    await fixture.backendIs(S.InitWait);
    await fixture.frontend(S.Initialised);
    await fixture.backendIs(S.Connected);
    expect(bus.devices).toHaveLength(1);
    expect(driver.holding).toHaveLength(1);
    expect(driver.holding[0]).toBe(driver.instances.at(-1));
    expect(driver.calls.at(-2)).toEqual(['open', { params: '/other.img' }]);
  });

  it('whose domain dies without a change of any node closes', async () => {
    await connect();
    await fixture.guest.close();
    fixture.machine.hypervisor.destroyDomain(fixture.identity);
    await fixture.client.release(fixture.identity.domid);
    await fixture.backendIs(S.Closed);
    expect(driver.holding).toEqual([]);
  });

  it('goes when the toolstack destroys its domain', async () => {
    await connect();
    await fixture.guest.close();
    await fixture.machine.destroyGuest(fixture.identity);
    await until(() => bus.devices.length === 0);
    expect(driver.holding).toEqual([]);
  });

  it('closes when its frontend directory is deleted', async () => {
    await connect();
    await fixture.client.remove(fixture.front);
    await fixture.backendIs(S.Closed);
  });

  it.each(['x', '', '44', '-4', '4'.repeat(2000), '\u0000\u0001'])(
    'closes when the frontend says a state that is none: %#',
    async (text) => {
      await connect();
      await fixture.guest.client.write(`${fixture.front}/state`, text);
      await fixture.backendIs(S.Closed);
      await fixture.frontend(S.Initialising);
      await fixture.backendIs(S.InitWait);
    },
  );

  it('begins anew when its frontend is Initialising again without a close', async () => {
    await connect();
    await fixture.frontend(S.Connected);
    await fixture.frontend(S.Initialising);
    await fixture.backendIs(S.InitWait);
    expect(driver.names).toEqual(['open', 'connect', 'disconnect']);
    await fixture.frontend(S.Initialised, { 'ring-ref': '9' });
    await fixture.backendIs(S.Connected);
    expect(driver.calls.at(-1)?.[1]['ring-ref']).toBe('9');
  });

  it('of a predecessor process, its frontend connected, is closed and served again when the frontend begins anew', async () => {
    await add();
    await fixture.backendIs(S.InitWait);
    await bus.close();
    await fixture.frontend(S.Connected);
    await fixture.client.write(`${fixture.back}/state`, String(S.Connected));
    driver = new FakeDriver();
    bus = await openBus();
    await fixture.backendIs(S.Closed);
    expect(driver.names).not.toContain('connect');
    await fixture.frontend(S.Closed);
    await fixture.frontend(S.Initialising);
    await fixture.backendIs(S.InitWait);
  });

  it('survives a frontend that rewrites its nodes as fast as it can', async () => {
    await connect();
    const { client } = fixture.guest;
    for (let round = 0; round < 60; round++)
      await Promise.all([
        client.write(`${fixture.front}/state`, String(round % 9)),
        client.write(`${fixture.front}/ring-ref`, 'y'.repeat(2000)),
        client.write(`${fixture.front}/backend`, '/local/domain/0/backend/vtest/5/5'),
      ]);
    await fixture.frontend(S.Closed);
    await fixture.backendIs(S.Closed);
    await fixture.frontend(S.Initialising);
    await fixture.backendIs(S.InitWait);
    expect(bus.devices).toHaveLength(1);
  });
});

describe('what goes wrong is said in the error node and observed, naming domain and device', () => {
  const where = () => ({ instance: 'loopback:test', domid: fixture.identity.domid, device: 'vtest/7' });

  it('a device that can not be opened waits for its nodes to change', async () => {
    driver.openFailure = new ProtocolError('there is no such image');
    await add();
    await fixture.nodeIs(error(), '22 there is no such image');
    expect(await fixture.client.read(`${fixture.back}/state`)).toBe(String(S.Initialising));
    expect(fixture.events('xenbus.backend-open-failed')[0]).toMatchObject({
      ...where(),
      reason: 'there is no such image',
    });
    driver.openFailure = undefined;
    await fixture.client.write(`${fixture.back}/params`, '/there.img');
    await fixture.backendIs(S.InitWait);
    expect(await errorText()).toBeUndefined();
  });

  it('a frontend whose nodes can not be used is refused by Closed, and may try again', async () => {
    driver.connectFailure = new ProtocolError("node 'ring-ref' is 'x', not a number");
    await add();
    await fixture.backendIs(S.InitWait);
    await fixture.frontend(S.Initialised);
    await fixture.backendIs(S.Closed);
    expect(await errorText()).toBe("22 node 'ring-ref' is 'x', not a number");
    expect(fixture.events('xenbus.backend-connect-failed')[0]).toMatchObject(where());
    driver.connectFailure = undefined;
    await fixture.frontend(S.Closed);
    await fixture.frontend(S.Initialising);
    await fixture.backendIs(S.InitWait);
    expect(await errorText()).toBeUndefined();
    await fixture.frontend(S.Initialised);
    await fixture.backendIs(S.Connected);
  });

  it('a bug of ours is told apart', async () => {
    driver.connectFailure = new TypeError('x is undefined');
    await add();
    await fixture.frontend(S.Initialised);
    await fixture.backendIs(S.Closed);
    expect(await errorText()).toBe('22 internal error: x is undefined');
  });

  it('a connection that fails while it is up is ended from our side', async () => {
    await connect();
    driver.instances[0]!.fail(new ProtocolError('the ring can not be believed'));
    driver.instances[0]!.fail(new ProtocolError('nor can this'));
    await fixture.backendIs(S.Closed);
    expect(await errorText()).toBe('22 the ring can not be believed');
    expect(fixture.events('xenbus.backend-disconnected')).toHaveLength(1);
    expect(driver.holding).toEqual([]);
  });

  it('a frontend in another domain than the path says is not followed', async () => {
    const other = await fixture.machine.createGuest('other');
    await fixture.client.write(`/local/domain/${other.domid}/device/vtest/7/state`, String(S.Initialised));
    await add();
    await fixture.backendIs(S.InitWait);
    await fixture.client.write(`${fixture.back}/frontend`, `/local/domain/${other.domid}/device/vtest/7`);
    await fixture.backendIs(S.Closed);
    expect(fixture.events('xenbus.backend-foreign-frontend')[0]).toMatchObject(where());
    expect(driver.names).not.toContain('connect');
  });
});

describe('closing the bus', () => {
  it('closes connected devices in order, leaves their directories, and may be asked again', async () => {
    await connect();
    const states: (string | undefined)[] = [];
    const watch = await fixture.client.watchCallback(`${fixture.back}/state`, () => {
      void fixture.client.readOptional(`${fixture.back}/state`).then((state) => states.push(state));
    });
    await Promise.all([bus.close(), bus.close()]);
    expect(driver.holding).toEqual([]);
    await fixture.backendIs(S.Closed);
    await watch.close();
    await bus.close();
    await fixture.frontend(S.Initialising);
    expect(await fixture.client.read(`${fixture.back}/state`)).toBe(String(S.Closed));
  });

  it('waits for a device that drains', async () => {
    await connect();
    let drained: () => void = () => {};
    driver.draining = new Promise((resolve) => {
      drained = resolve;
    });
    let closed = false;
    const closing = bus.close().then(() => {
      closed = true;
    });
    await fixture.backendIs(S.Closing);
    await until(() => driver.names.includes('disconnect'));
    expect(closed).toBe(false);
    drained();
    await closing;
    expect(driver.names.slice(2)).toEqual(['disconnect', 'close']);
  });

  it('lets go of everything although the store has gone first', async () => {
    await connect();
    const lost = fixture.connect();
    await bus.close();
    bus = await openBus(lost);
    await fixture.frontend(S.Closed);
    await fixture.frontend(S.Initialising);
    await fixture.backendIs(S.InitWait);
    await fixture.frontend(S.Initialised);
    await fixture.backendIs(S.Connected);
    driver.calls.length = 0;
    await lost.close();
    await bus.close();
    expect(driver.names).toEqual(['disconnect', 'close']);
    await until(() => fixture.machine.store.counters().watches === watchesBefore);
  });

  it('a bus that can not be opened leaves no watch', async () => {
    const { client } = fixture;
    const drivers = [driver, new FakeDriver('no such class')];
    const watches = fixture.machine.store.counters().watches;
    await expect(BackendBus.open({ client, platform: fixture.machine.platform, drivers })).rejects.toMatchObject({
      errno: 'EINVAL',
    });
    expect(fixture.machine.store.counters().watches).toBe(watches);
  });
});
