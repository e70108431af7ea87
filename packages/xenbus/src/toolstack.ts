/**
 * What a toolstack does for a device: the pairs of directories with their permissions, as libxl makes them
 * (`tools/libs/light/libxl_device.c`), and their orderly removal.
 */
import { DOMID_FIRST_RESERVED, type Domid, domid, ErrnoError } from '@pvkit/ring';
import { type NodeOperations, type Permissions, permissions, type XenstoreClient } from '@pvkit/xenstore';
import { DeviceNodes } from './device-nodes.ts';
import { DEVID_MAX, parseDecimal } from './keys.ts';
import { XenbusState } from './state.ts';

/** A device to be made: whose, of which class, and the nodes that are particular to it. */
export interface DeviceDescription {
  readonly deviceClass: string;
  readonly devid: number;
  readonly frontend: Domid;
  readonly backend: Domid;
  /** Nodes beyond `frontend`, `frontend-id`, `online`, `state`. */
  readonly backendNodes: Readonly<Record<string, string>>;
  /** Nodes beyond `backend`, `backend-id`, `state`. */
  readonly frontendNodes: Readonly<Record<string, string>>;
}

export type DeviceAddress = Pick<DeviceDescription, 'deviceClass' | 'devid' | 'frontend' | 'backend'>;

export const homePath = (id: Domid): string => `/local/domain/${id}`;
export const backendPath = ({ backend, deviceClass, frontend, devid }: DeviceAddress): string =>
  `${homePath(backend)}/backend/${deviceClass}/${frontend}/${devid}`;
export const frontendPath = ({ deviceClass, frontend, devid }: DeviceAddress): string =>
  `${homePath(frontend)}/device/${deviceClass}/${devid}`;
const libxlPath = ({ deviceClass, frontend, devid }: DeviceAddress): string =>
  `/libxl/${frontend}/device/${deviceClass}/${devid}`;

const initialising = String(XenbusState.Initialising);

/**
 * Creates both directories in one transaction: each end's own is writable by it and readable by the other
 * (`n<owner>, r<peer>`), and the copy below `/libxl` is the toolstack's alone.
 * @throws ErrnoError `EEXIST` when the device exists.
 */
export async function addDevice(client: XenstoreClient, device: DeviceDescription): Promise<void> {
  const { frontend, backend } = device;
  const back = backendPath(device);
  const front = frontendPath(device);
  const backendNodes = {
    frontend: front,
    'frontend-id': String(frontend),
    online: '1',
    state: initialising,
    ...device.backendNodes,
  };
  const frontendNodes = {
    backend: back,
    'backend-id': String(backend),
    state: initialising,
    ...device.frontendNodes,
  };
  await client.transaction(async (tx) => {
    if (await tx.exists(back))
      throw new ErrnoError('EEXIST', 'attaching a device', where(device), `${back} exists; detach it first`);
    await removeIfThere(tx, front); // a predecessor's ring references are none of ours
    await makeDirectory(tx, front, permissions(frontend, [{ domid: backend, access: 'read' }]));
    await writeAll(tx, front, frontendNodes);
    await makeDirectory(tx, back, permissions(backend, [{ domid: frontend, access: 'read' }]));
    await writeAll(tx, back, backendNodes);
    await makeDirectory(tx, libxlPath(device), permissions(0));
    await writeAll(tx, libxlPath(device), { backend: back, ...backendNodes });
  });
}

/**
 * A domain's devices of one class, by the toolstack's own record below `/libxl`: the domain can write its own directory,
 * so what that says of backends is not to be trusted (XSA-175).
 */
export async function listDevices(
  client: XenstoreClient,
  deviceClass: string,
  frontend: Domid,
): Promise<DeviceAddress[]> {
  const record = `/libxl/${frontend}/device/${deviceClass}`;
  const devices: DeviceAddress[] = [];
  for (const name of (await client.directoryOptional(record)) ?? []) {
    const devid = parseDecimal(name, 0, DEVID_MAX);
    const path = (await client.readOptional(`${record}/${name}/backend`)) ?? '';
    const backend = parseDecimal(/^\/local\/domain\/(\d+)\//.exec(path)?.[1] ?? '', 0, DOMID_FIRST_RESERVED - 1);
    if (devid === undefined || backend === undefined) continue;
    devices.push({ deviceClass, devid, frontend, backend: domid(backend) });
  }
  return devices;
}

export interface RemovalOptions {
  /** Milliseconds to wait for the backend to reach Closed; libxl's own time-out is 10,000. */
  readonly timeoutMs: number;
  /** Calls `callback` after some milliseconds. */
  readonly timer: (milliseconds: number, callback: () => void) => { cancel(): void };
}

/**
 * Takes a device away in order: `online` = 0 and Closing, wait for the backend to be Closed, remove both directories.
 * @returns false when the backend did not close in time and the directories were removed all the same.
 */
export async function removeDevice(
  client: XenstoreClient,
  device: DeviceAddress,
  options: RemovalOptions,
): Promise<boolean> {
  const back = backendPath(device);
  const nodes = new DeviceNodes(client, back);
  await client.transaction(async (tx) => {
    const state = await tx.readOptional(`${back}/state`);
    if (state === undefined || state === String(XenbusState.Closed)) return;
    await tx.write(`${back}/online`, '0');
    await tx.write(`${back}/state`, String(XenbusState.Closing));
  });
  const closed = await waitUntil(client, `${back}/state`, options, async () => {
    const state = await nodes.ownState();
    return state === undefined || state === XenbusState.Closed;
  });
  await client.transaction(async (tx) => {
    await removeIfThere(tx, frontendPath(device));
    await removeIfThere(tx, back);
    await removeIfEmpty(tx, parentOf(back)); // leftovers count against quotas
    await removeIfThere(tx, libxlPath(device));
  });
  return closed;
}

/** Waits until `condition` holds, looking again whenever `path` changes. @returns whether it held in time. */
export async function waitUntil(
  client: XenstoreClient,
  path: string,
  { timeoutMs, timer }: RemovalOptions,
  condition: () => Promise<boolean>,
): Promise<boolean> {
  const watch = await client.watch(path);
  let expired = false;
  const clock = timer(timeoutMs, () => {
    expired = true;
    void watch.close();
  });
  try {
    for await (const _ of watch) if (await condition()) return true;
    return expired ? condition() : false;
  } finally {
    clock.cancel();
    await watch.close();
  }
}

/** A directory with permissions of its own, made with missing parents. */
async function makeDirectory(tx: NodeOperations, path: string, acl: Permissions): Promise<void> {
  await tx.mkdir(path);
  await tx.setPermissions(path, acl);
}

/** New nodes take the permissions of the directory they are made in. */
async function writeAll(tx: NodeOperations, path: string, nodes: Readonly<Record<string, string>>): Promise<void> {
  await Promise.all(Object.entries(nodes).map(([key, value]) => tx.write(`${path}/${key}`, value)));
}

async function removeIfThere(tx: NodeOperations, path: string): Promise<void> {
  if (await tx.exists(path)) await tx.remove(path);
}

async function removeIfEmpty(tx: NodeOperations, path: string): Promise<void> {
  if ((await tx.directoryOptional(path))?.length === 0) await tx.remove(path);
}

const parentOf = (path: string): string => path.slice(0, path.lastIndexOf('/'));

function where({ deviceClass, devid, frontend }: DeviceAddress) {
  return { domid: frontend, device: `${deviceClass}/${devid}` };
}
