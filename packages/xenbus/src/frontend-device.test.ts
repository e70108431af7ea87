import { ConfigurationError, GrantError, ProtocolError } from '@pvkit/ring';
import type { XenstoreClient } from '@pvkit/xenstore';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FrontendDevice, type FrontendInstance } from './frontend-device.ts';
import type { Nodes } from './keys.ts';
import { vbdFrontendLifeCycle } from './life-cycle.ts';
import { XenbusState as S } from './state.ts';
import { MachineFixture, until } from './testing/machine-fixture.ts';
import { addDevice } from './toolstack.ts';

/** Records what is asked of it. */
class FakeInstance implements FrontendInstance {
  readonly featureKeys = ['feature-x'];
  readonly propertyKeys = ['property'];
  readonly calls: [string, unknown][] = [];
  publishFailure: Error | undefined;
  connectFailure: Error | undefined;
  holding = false;
  fail: (reason: Error) => void = () => {};

  publish(backend: Nodes, failed: (reason: Error) => void): Record<string, string> {
    this.calls.push(['publish', backend]);
    if (this.publishFailure !== undefined) throw this.publishFailure;
    this.holding = true;
    this.fail = failed;
    return { 'ring-ref': '8' };
  }

  connect(backend: Nodes): void {
    this.calls.push(['connect', backend]);
    if (this.connectFailure !== undefined) throw this.connectFailure;
  }

  disconnect(reason: Error): void {
    if (this.holding) this.calls.push(['disconnect', reason.message]);
    this.holding = false;
  }

  get names(): string[] {
    return this.calls.map(([name]) => name);
  }
}

let fixture: MachineFixture;
let instance: FakeInstance;
let watchesBefore: number;

beforeEach(async () => {
  fixture = await MachineFixture.create();
  instance = new FakeInstance();
  await addDevice(fixture.client, { ...fixture.device, backendNodes: {}, frontendNodes: {} });
  watchesBefore = fixture.machine.store.counters().watches;
});
afterEach(async () => {
  expect(instance.holding).toBe(false);
  await until(() => fixture.machine.store.counters().watches <= watchesBefore);
  await fixture.close();
});

/** The device as it will be; a failure is kept for whoever waits for it. */
function connecting(client: XenstoreClient = fixture.guest.client): Promise<FrontendDevice> {
  const { platform } = fixture.guest;
  const promise = FrontendDevice.connect(
    { client, platform, path: 'device/vtest/7' },
    vbdFrontendLifeCycle,
    () => instance,
  );
  promise.catch(() => {});
  return promise;
}

/** As the backend: writes nodes, then its state. */
async function backend(state: S, nodes: Readonly<Record<string, string>> = {}): Promise<void> {
  for (const [key, value] of Object.entries(nodes)) await fixture.client.write(`${fixture.back}/${key}`, value);
  await fixture.client.write(`${fixture.back}/state`, String(state));
}

async function connected(): Promise<FrontendDevice> {
  const device = connecting();
  await backend(S.InitWait, { 'feature-x': '1' });
  await fixture.frontendIs(S.Initialised);
  await backend(S.Connected, { property: '2' });
  return device;
}

describe('a frontend device', () => {
  it('goes through its life', async () => {
    const device = await connected();
    await fixture.frontendIs(S.Connected);
    expect(await fixture.client.read(`${fixture.front}/ring-ref`)).toBe('8');
    expect(instance.calls.slice(0, 2)).toEqual([
      ['publish', { 'feature-x': '1' }],
      ['connect', { property: '2' }],
    ]);
    await Promise.all([device.close(), device.close()]);
    await device.closed;
    await fixture.frontendIs(S.Closed);
    expect(instance.names.filter((name) => name !== 'connect')).toEqual(['publish', 'disconnect']);
  });

  it('reads the properties again when the backend rewrites its state', async () => {
    const device = await connected();
    await backend(S.Connected, { property: '3' });
    await until(() => JSON.stringify(instance.calls.at(-1)) === JSON.stringify(['connect', { property: '3' }]));
    await device.close();
  });

  it.each([S.Closing, S.Closed, S.InitWait])('closes when its backend goes to state %i', async (state) => {
    const device = await connected();
    await backend(state);
    await device.closed;
    await fixture.frontendIs(S.Closed);
    expect(instance.names.at(-1)).toBe('disconnect');
    await device.close();
    expect(await fixture.client.read(`${fixture.front}/state`)).toBe(String(S.Closed));
  });

  it('lets go when its directory is deleted, and does not bring it back', async () => {
    const device = await connected();
    await fixture.client.remove(fixture.front);
    await device.closed;
    await device.close();
    expect(await fixture.client.exists(fixture.front)).toBe(false);
  });

  it('ends when its instance says so', async () => {
    const device = await connected();
    instance.fail(new ProtocolError('the ring can not be believed'));
    instance.fail(new ProtocolError('nor can this'));
    await device.closed;
    expect(instance.calls.at(-1)).toEqual(['disconnect', 'the ring can not be believed']);
    await fixture.frontendIs(S.Closed);
    await device.close();
  });
});

describe('connecting', () => {
  it.each([
    ['publish', new GrantError('GNTST_no_space', 'the test')],
    ['connect', new ProtocolError('the test')],
  ] as const)('fails with what %s throws', async (what, error) => {
    if (what === 'publish') instance.publishFailure = error;
    else instance.connectFailure = error;
    const failure = expect(connecting()).rejects.toBe(error);
    await backend(S.InitWait);
    if (what === 'connect') {
      await fixture.frontendIs(S.Initialised);
      await backend(S.Connected);
    }
    await failure;
    await fixture.frontendIs(S.Closed);
  });

  it('is refused without a device, or with one that makes no sense', async () => {
    await fixture.client.write(`${fixture.front}/backend-id`, '0x0');
    await expect(connecting()).rejects.toBeInstanceOf(ProtocolError);
    await fixture.client.remove(fixture.front);
    await expect(connecting()).rejects.toBeInstanceOf(ConfigurationError);
  });

  it('again after a close waits until the backend has let go, and begins anew', async () => {
    await (await connected()).close();
    const again = connecting();
    await backend(S.Closing);
    await fixture.client.exists('/');
    expect(await fixture.client.read(`${fixture.front}/state`)).toBe(String(S.Closed));
    await backend(S.Closed);
    await fixture.frontendIs(S.Initialising);
    expect(instance.names.filter((name) => name === 'publish')).toHaveLength(1);
    await backend(S.InitWait);
    await fixture.frontendIs(S.Initialised);
    await backend(S.Connected);
    await (await again).close();
    expect(instance.names.filter((name) => name === 'publish')).toHaveLength(2);
  });

  it('after a predecessor that vanished while connected does the same', async () => {
    await backend(S.Connected);
    await fixture.frontend(S.Connected, { 'ring-ref': '99' });
    const device = connecting();
    await fixture.frontendIs(S.Closed);
    await backend(S.Closed);
    await fixture.frontendIs(S.Initialising);
    await backend(S.InitWait);
    await fixture.frontendIs(S.Initialised);
    expect(await fixture.client.read(`${fixture.front}/ring-ref`)).toBe('8');
    await backend(S.Connected);
    await (await device).close();
  });

  it('ends when the store is lost meanwhile', async () => {
    const client = fixture.connect();
    const path = fixture.front;
    const { platform } = fixture.guest;
    const device = FrontendDevice.connect({ client, platform, path }, vbdFrontendLifeCycle, () => instance);
    const outcome = expect(device).rejects.toThrow('the test');
    await backend(S.InitWait);
    await fixture.frontendIs(S.Initialised);
    // The look that follows finds no store, and neither can it write Closed.
    await client.close();
    instance.fail(new ProtocolError('the test'));
    await outcome;
  });
});
