/** The xenbus instance that a host serves: this machine's Xen, or a loopback machine in the process. */
import { existsSync } from 'node:fs';
import { blockBackendDriver } from '@pvkit/blkback';
import { FileDevice } from '@pvkit/blkback/file';
import { isXenDomain, missingDevices, openXenbusTransport, openXenPlatform } from '@pvkit/linux';
import {
  type DomainIdentity,
  type Domid,
  domid,
  instanceName,
  type Observer,
  type Platform,
  standardRuntime,
} from '@pvkit/ring';
import { BackendBus } from '@pvkit/xenbus';
import { LoopbackMachine } from '@pvkit/xenbus/loopback';
import { XenstoreClient } from '@pvkit/xenstore';
import type { InstanceChoice } from './config.ts';

export interface HostInstance {
  readonly name: string;
  readonly client: XenstoreClient;
  readonly platform: Platform;
  /** The machine, when it is a loopback one. */
  readonly machine?: LoopbackMachine;
  readonly identify?: (domid: Domid) => DomainIdentity | undefined;
  close(): Promise<void>;
}

/** Opens what the configuration says; `auto` is Xen where this machine is a domain of it. */
export function openInstance(choice: InstanceChoice, observe: Observer): Promise<HostInstance> {
  const xen = choice === 'xen' || (choice === 'auto' && isXenDomain());
  return xen ? openXenInstance(observe) : openLoopbackInstance('host', observe);
}

/** @throws ErrnoError that names the module to load or the permission to fix. */
export async function openXenInstance(observe: Observer): Promise<HostInstance> {
  const instance = instanceName('xen');
  // Grants are opened when they are first used; what is missing should be known before a guest waits for it.
  const [missing] = missingDevices(['xenbus', 'evtchn', 'gntdev']);
  if (missing !== undefined) throw missing;
  const runtime = standardRuntime(observe);
  const client = new XenstoreClient(openXenbusTransport(), runtime, { instance });
  try {
    const own = domid(Number(await client.read('domid')));
    const platform = openXenPlatform({ identity: { instance, domid: own, generation: 0 }, runtime });
    return {
      name: instance,
      client,
      platform,
      async close() {
        await client.close();
        platform.close();
      },
    };
  } catch (error) {
    await client.close();
    throw error;
  }
}

export async function openLoopbackInstance(name: string, observe: Observer): Promise<HostInstance> {
  const machine = await LoopbackMachine.create({ name, observe });
  return {
    name: machine.hypervisor.instance,
    client: machine.client,
    platform: machine.platform,
    machine,
    identify: (id) => machine.hypervisor.identify(id),
    close: () => machine.close(),
  };
}

/** Serves every disk whose backend is this domain. */
export function serveDisks({ client, platform, identify }: HostInstance): Promise<BackendBus> {
  const disks = blockBackendDriver(({ target, readOnly }) => FileDevice.open(target, { readOnly }));
  return BackendBus.open({ client, platform, drivers: [disks], ...(identify === undefined ? {} : { identify }) });
}

/** The kernel's own block backend, which would claim the same nodes. */
export function kernelBlkback(): boolean {
  return existsSync('/sys/bus/xen-backend/drivers/vbd');
}
