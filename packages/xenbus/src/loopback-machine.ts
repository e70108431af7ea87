/**
 * A whole machine in this process: the loopback hypervisor, domain 0 with a xenstored, and guests, each with its xenstore
 * ring, that may run in this thread or in workers. For tests, development and laptops without Xen.
 */
import {
  type DomainIdentity,
  domid,
  ErrnoError,
  type EventPort,
  eventPort,
  grantReference,
  type Observer,
  standardRuntime,
} from '@pvkit/ring';
import {
  type LoopbackHandle,
  LoopbackHypervisor,
  type LoopbackLimits,
  type LoopbackPlatform,
} from '@pvkit/ring/loopback';
import { memoryTransportPair, type NodeOperations, permissions, RingTransport, XenstoreClient } from '@pvkit/xenstore';
import { type DomainHost, type DomainTransport, XenstoreServer } from '@pvkit/xenstore/server';
import { homePath } from './toolstack.ts';

export interface LoopbackMachineOptions {
  /** Makes the instance name, `loopback:<name>`. */
  readonly name: string;
  readonly limits?: Partial<LoopbackLimits>;
  readonly observe?: Observer | undefined;
}

/** What a guest's thread needs to start; may be posted to a worker. */
export interface LoopbackGuestHandle {
  readonly machine: LoopbackHandle;
  readonly domid: number;
}

/** A running guest, as its own thread has it. */
export interface LoopbackGuest {
  readonly platform: LoopbackPlatform;
  readonly client: XenstoreClient;
  /** Shuts down in order: the client, then the platform with all that it holds. Idempotent. */
  close(): Promise<void>;
}

export class LoopbackMachine {
  readonly hypervisor: LoopbackHypervisor;
  /** Domain 0's ports in this thread. */
  readonly platform: LoopbackPlatform;
  /** Domain 0's own connection to the store. */
  readonly client: XenstoreClient;
  readonly store: XenstoreServer;
  readonly #guests = new Map<number, DomainIdentity>();

  private constructor(
    hypervisor: LoopbackHypervisor,
    platform: LoopbackPlatform,
    store: XenstoreServer,
    client: XenstoreClient,
  ) {
    this.hypervisor = hypervisor;
    this.platform = platform;
    this.store = store;
    this.client = client;
  }

  static async create({ name, limits, observe }: LoopbackMachineOptions): Promise<LoopbackMachine> {
    const hypervisor = LoopbackHypervisor.create(name, limits, observe);
    const platform = hypervisor.openPlatform(hypervisor.createDomain());
    const runtime = standardRuntime(observe);
    const store = new XenstoreServer({ runtime, host: new LoopbackDomainHost(hypervisor, platform) });
    const [ours, theirs] = memoryTransportPair(runtime);
    store.connect(theirs);
    const client = new XenstoreClient(ours, runtime, { instance: hypervisor.instance });
    const home = homePath(domid(0));
    await client.write(`${home}/domid`, '0');
    await client.write(`${home}/name`, 'Domain-0');
    return new LoopbackMachine(hypervisor, platform, store, client);
  }

  /** Creates a guest with its home in the store, as libxl lays it out; it runs once {@link openLoopbackGuest} is called. */
  async createGuest(name: string): Promise<DomainIdentity> {
    const guest = this.hypervisor.createDomain();
    this.#guests.set(guest.domid, guest);
    const { gfn, port } = this.hypervisor.buildStoreRing(guest, domid(0));
    const home = homePath(guest.domid);
    const guestReads = permissions(0, [{ domid: guest.domid, access: 'read' }]);
    await this.client.transaction(async (tx) => {
      if (await tx.exists(home)) await tx.remove(home);
      await tx.mkdir(home);
      await tx.setPermissions(home, guestReads);
      await tx.write(`${home}/name`, name);
      await tx.write(`${home}/domid`, String(guest.domid));
      for (const directory of ['device', 'control', 'backend']) await tx.mkdir(`${home}/${directory}`);
      for (const directory of ['data', 'drivers', 'feature', 'attr', 'error']) {
        await tx.mkdir(`${home}/${directory}`);
        await tx.setPermissions(`${home}/${directory}`, permissions(guest.domid));
      }
    });
    await this.client.introduce(guest.domid, gfn, port);
    return guest;
  }

  /** What a thread needs to run `guest`. */
  guestHandle(guest: DomainIdentity): LoopbackGuestHandle {
    return { machine: this.hypervisor.handle, domid: guest.domid };
  }

  /** Destroys a guest whatever it is doing, and its home in the store; backends see it gone. */
  async destroyGuest(guest: DomainIdentity): Promise<void> {
    if (!this.#guests.delete(guest.domid)) return;
    this.hypervisor.destroyDomain(guest);
    await this.client.transaction(async (tx) => {
      for (const path of [...(await backendsOf(tx, guest)), homePath(guest.domid), `/libxl/${guest.domid}`])
        if (await tx.exists(path)) await tx.remove(path);
    });
    if (await this.client.isDomainIntroduced(guest.domid)) await this.client.release(guest.domid);
  }

  /** Destroys the guests and ends the store. What backends hold must be closed before. Idempotent. */
  async close(): Promise<void> {
    for (const guest of [...this.#guests.values()]) await this.destroyGuest(guest);
    await this.client.close();
    this.store.close();
    this.platform.close();
  }
}

/** Directories of a domain's devices on the backends' side, by the toolstack's own record of them. */
async function backendsOf(tx: NodeOperations, { domid: id }: DomainIdentity): Promise<string[]> {
  const record = `/libxl/${id}/device`;
  const found = new Set<string>();
  for (const deviceClass of (await tx.directoryOptional(record)) ?? [])
    for (const devid of (await tx.directoryOptional(`${record}/${deviceClass}`)) ?? []) {
      const path = await tx.readOptional(`${record}/${deviceClass}/${devid}/backend`);
      // The one that holds all of this domain's devices of the class: `…/backend/<class>/<domid>`.
      if (path !== undefined) found.add(path.slice(0, path.lastIndexOf('/')));
    }
  return [...found];
}

/** Runs a guest in the calling thread: opens its ports and connects to the store through its ring. */
export function openLoopbackGuest(handle: LoopbackGuestHandle, observe?: Observer): LoopbackGuest {
  const hypervisor = LoopbackHypervisor.attach(handle.machine, observe);
  const identity = hypervisor.identify(domid(handle.domid));
  if (identity === undefined)
    throw new ErrnoError('ESRCH', 'running a guest', { instance: hypervisor.instance, domid: handle.domid });
  const platform = hypervisor.openPlatform(identity);
  const { runtime, events } = platform;
  let ring: ReturnType<LoopbackPlatform['openStoreRing']>;
  try {
    ring = platform.openStoreRing();
  } catch (error) {
    platform.close();
    throw error;
  }
  const transport = new RingTransport({ role: 'domain', ...ring, events, runtime });
  const client = new XenstoreClient(transport, runtime, { instance: identity.instance, domid: identity.domid });
  return {
    platform,
    client,
    async close() {
      await client.close();
      platform.close();
    },
  };
}

/** Gives the store the rings of loopback domains: page by grant 1, port as INTRODUCE said. */
class LoopbackDomainHost implements DomainHost {
  readonly #hypervisor: LoopbackHypervisor;
  readonly #platform: LoopbackPlatform;

  constructor(hypervisor: LoopbackHypervisor, platform: LoopbackPlatform) {
    this.#hypervisor = hypervisor;
    this.#platform = platform;
  }

  exists(id: number): boolean {
    return this.#hypervisor.identify(domid(id)) !== undefined;
  }

  connect(id: number, _gfn: number, port: number): DomainTransport {
    const { grants, events, runtime } = this.#platform;
    const pages = grants.map(domid(id), [grantReference(1)], 'read-write');
    let bound: EventPort;
    try {
      bound = events.bindInterdomain(domid(id), eventPort(port));
    } catch (error) {
      pages.unmap();
      throw error;
    }
    return new RingTransport({ role: 'server', pages, events, port: bound, runtime, release: () => pages.unmap() });
  }
}
