/** `pvkit block-attach`, `block-detach`, `block-list`: disks of running guests, on Xen and loopback alike. */
import { diskDevice, parseDiskSpec, parseVdev } from '@pvkit/blkback';
import { ConfigurationError, type Domid, domid, standardRuntime } from '@pvkit/ring';
import {
  addDevice,
  backendPath,
  type DeviceAddress,
  DeviceNodes,
  homePath,
  listDevices,
  parseDecimal,
  removeDevice,
  stateName,
  waitUntil,
  XenbusState,
} from '@pvkit/xenbus';
import type { XenstoreClient } from '@pvkit/xenstore';
import { type ClientOptions, withClient } from './xenstore.ts';

/** As libxl's time-out for a backend (`LIBXL_INIT_TIMEOUT`, `LIBXL_DESTROY_TIMEOUT`). */
const TIMEOUT = { timeoutMs: 10_000, timer: standardRuntime().timer };

export interface AttachOptions extends ClientOptions {
  readonly backend: string;
}

export async function attach(guest: string, disk: string, options: AttachOptions): Promise<void> {
  const spec = parseDiskSpec(disk);
  await withClient(options, async (client) => {
    const frontend = await findDomain(client, guest);
    const device = diskDevice(spec, frontend, await findDomain(client, options.backend));
    const backend = new DeviceNodes(client, backendPath(device));
    const home = homePath(device.backend);
    if ((await backend.ownState()) === undefined) await backend.clearError(home); // a predecessor's
    await addDevice(client, device);
    const readError = () => client.readOptional(errorPath(device));
    const isTaken = async () => {
      const state = await backend.ownState();
      return state === undefined || state >= XenbusState.InitWait;
    };
    // Whichever comes first; the other's wait ends with the connection.
    await Promise.race([
      waitUntil(client, `${backend.path}/state`, TIMEOUT, isTaken),
      waitUntil(client, errorPath(device), TIMEOUT, async () => (await readError()) !== undefined),
    ]);
    if (await isTaken()) return;
    const reason = await readError();
    await removeDevice(client, device, { ...TIMEOUT, timeoutMs: 1000 });
    await backend.clearError(home);
    throw new ConfigurationError(
      reason === undefined
        ? `no backend took disk ${spec.vdev} within 10 s: is 'pvkit host' running in domain ${device.backend}?`
        : `the backend refused disk ${spec.vdev}: ${reason.replace(/^\d+ /, '')}`,
    );
  });
}

export async function detach(guest: string, vdev: string, options: ClientOptions): Promise<void> {
  const devid = parseVdev(vdev);
  if (devid === undefined) throw new ConfigurationError(`'${vdev}' is not a virtual device, for example xvda or 51712`);
  await withClient(options, async (client) => {
    const frontend = await findDomain(client, guest);
    const device = (await listDevices(client, 'vbd', frontend)).find((found) => found.devid === devid);
    if (device === undefined) throw new ConfigurationError(`guest ${guest} has no disk ${vdev}`);
    if (!(await removeDevice(client, device, TIMEOUT)))
      process.stderr.write(`the backend did not close disk ${vdev} within 10 s; its nodes were removed all the same\n`);
  });
}

/** One line a disk, with the columns of `xl block-list` and the image's path. */
export async function listDisks(guest: string, options: ClientOptions): Promise<void> {
  await withClient(options, async (client) => {
    const frontend = await findDomain(client, guest);
    process.stdout.write('Vdev   BE  state        target\n');
    for (const device of await listDevices(client, 'vbd', frontend)) {
      const state = await new DeviceNodes(client, backendPath(device)).peerState();
      const target = (await client.readOptional(`${backendPath(device)}/params`)) ?? '';
      process.stdout.write(
        `${String(device.devid).padEnd(6)} ${String(device.backend).padEnd(3)} ${stateName(state).padEnd(12)} ${target}\n`,
      );
    }
  });
}

/** A domain by number or by name. @throws ConfigurationError when there is none. */
async function findDomain(client: XenstoreClient, text: string): Promise<Domid> {
  for (const name of (await client.directoryOptional('/local/domain')) ?? []) {
    const id = parseDecimal(name, 0, 0x7fef);
    if (id === undefined) continue;
    if (name === text || (await client.readOptional(`/local/domain/${name}/name`)) === text) return domid(id);
  }
  throw new ConfigurationError(`there is no domain '${text}'`);
}

const errorPath = (device: DeviceAddress): string => {
  const home = homePath(device.backend);
  return `${home}/error/${backendPath(device).slice(home.length + 1)}/error`;
};
