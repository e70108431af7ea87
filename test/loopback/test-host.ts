/** For tests: a loopback machine with block backends in domain 0, a neighbour whose disk must not suffer, and hostile guests. */
import {
  type BlockDevice,
  BlockFrontend,
  blockBackendDriver,
  diskDevice,
  IoVector,
  parseDiskSpec,
} from '@pvkit/blkback';
import { ConfigurationError, type DomainIdentity, type PlatformUsage, standardRuntime } from '@pvkit/ring';
import { addDevice, BackendBus, type DeviceDescription, removeDevice, waitUntil, XenbusState } from '@pvkit/xenbus';
import { type LoopbackGuest, LoopbackMachine, openLoopbackGuest } from '@pvkit/xenbus/loopback';
import { MemoryDevice, patternBytes } from '../../packages/blkback/src/testing/memory-device.ts';
import { RawFrontend } from '../../packages/blkback/src/testing/raw-frontend.ts';

const LIMITS = {
  frames: 16_384,
  domains: 16,
  pagesPerDomain: 8192,
  grantEntries: 8192,
  maptrackEntries: 1024,
  ports: 128,
};
export const PATIENCE = { timeoutMs: 10_000, timer: standardRuntime().timer };
export const NOTHING: PlatformUsage = { grantedPages: 0, quarantinedPages: 0, mappedPages: 0, eventPorts: 0 };
export const NEIGHBOUR_SECTORS = 4096;

export interface Observed {
  readonly event: string;
  readonly facts: Readonly<Record<string, unknown>>;
}

export class TestHost {
  readonly observed: Observed[];
  readonly machine: LoopbackMachine;
  bus: BackendBus;
  readonly devices: Map<string, BlockDevice>;

  private constructor(
    machine: LoopbackMachine,
    bus: BackendBus,
    devices: Map<string, BlockDevice>,
    observed: Observed[],
  ) {
    this.machine = machine;
    this.bus = bus;
    this.devices = devices;
    this.observed = observed;
  }

  /** `devices` are the images, by path. */
  static async create(devices = new Map<string, BlockDevice>()): Promise<TestHost> {
    const observed: Observed[] = [];
    const machine = await LoopbackMachine.create({
      name: 'test',
      limits: LIMITS,
      observe: (event, facts) => observed.push({ event, facts }),
    });
    return new TestHost(machine, await serve(machine, devices), devices, observed);
  }

  /** Ends the backends' process in order, and starts another. */
  async restartBackends(): Promise<void> {
    await this.bus.close();
    this.bus = await serve(this.machine, this.devices);
  }

  events(name: string, domid?: number): Readonly<Record<string, unknown>>[] {
    return this.observed
      .filter(({ event, facts }) => event === name && (domid === undefined || facts.domid === domid))
      .map(({ facts }) => facts);
  }

  describe(guest: DomainIdentity, target: string, vdev = 'xvda', access = 'rw'): DeviceDescription {
    const spec = parseDiskSpec(`format=raw,vdev=${vdev},access=${access},target=${target}`);
    return diskDevice(spec, guest.domid, this.machine.platform.identity.domid);
  }

  /** A new guest with a disk. */
  async guest(target: string, access = 'rw'): Promise<TestGuest> {
    const identity = await this.machine.createGuest(`guest-${target}`);
    const device = this.describe(identity, target, 'xvda', access);
    await addDevice(this.machine.client, device);
    return new TestGuest(this, identity, openLoopbackGuest(this.machine.guestHandle(identity)), device);
  }

  /** Resolves once a node says `value`; undefined: once it is absent. */
  async nodeIs(path: string, value: string | undefined): Promise<void> {
    let last: string | undefined;
    const held = await waitUntil(this.machine.client, path, PATIENCE, async () => {
      last = await this.machine.client.readOptional(path);
      return last === value;
    });
    if (!held) throw new Error(`${path} is ${last}, not ${value}`);
  }

  usage(): PlatformUsage {
    return this.machine.platform.usage();
  }

  /** Ends everything; what domain 0 holds then is returned: nothing, if nothing leaked. */
  async close(): Promise<PlatformUsage> {
    await this.bus.close();
    const { machine } = this;
    for (const name of (await machine.client.directoryOptional('/local/domain')) ?? []) {
      const identity = name === '0' ? undefined : machine.hypervisor.identify(Number(name) as DomainIdentity['domid']);
      if (identity !== undefined) await machine.destroyGuest(identity);
    }
    const usage = this.usage();
    await machine.close();
    return usage;
  }
}

function serve(machine: LoopbackMachine, devices: ReadonlyMap<string, BlockDevice>): Promise<BackendBus> {
  const driver = blockBackendDriver(async ({ target }) => {
    const device = devices.get(target);
    if (device === undefined) throw new ConfigurationError(`there is no image '${target}'`);
    return device;
  });
  return BackendBus.open({
    client: machine.client,
    platform: machine.platform,
    drivers: [driver],
    identify: (id) => machine.hypervisor.identify(id),
  });
}

export class TestGuest {
  readonly host: TestHost;
  readonly identity: DomainIdentity;
  readonly guest: LoopbackGuest;
  readonly device: DeviceDescription;
  readonly back: string;
  readonly front: string;

  constructor(host: TestHost, identity: DomainIdentity, guest: LoopbackGuest, device: DeviceDescription) {
    this.host = host;
    this.identity = identity;
    this.guest = guest;
    this.device = device;
    this.back = `/local/domain/0/backend/vbd/${identity.domid}/${device.devid}`;
    this.front = `/local/domain/${identity.domid}/device/vbd/${device.devid}`;
  }

  /** As a frontend that keeps to the rules. */
  connect(): Promise<BlockFrontend> {
    return BlockFrontend.connect(this.guest.client, this.guest.platform, `device/vbd/${this.device.devid}`);
  }

  /** As a frontend that keeps to the rules until it is connected. */
  async connectRaw(): Promise<RawFrontend> {
    await this.backendIs(XenbusState.InitWait);
    const raw = new RawFrontend(this.guest.platform, this.host.machine.platform.identity.domid);
    await this.write({
      'ring-ref': String(raw.ringPages.references[0]),
      'event-channel': String(raw.port),
      protocol: 'x86_64-abi',
      state: String(XenbusState.Initialised),
    });
    await this.backendIs(XenbusState.Connected);
    await this.write({ state: String(XenbusState.Connected) });
    return raw;
  }

  /** Writes nodes of the frontend's directory, in order. */
  async write(nodes: Readonly<Record<string, string>>): Promise<void> {
    for (const [key, value] of Object.entries(nodes)) await this.guest.client.write(`${this.front}/${key}`, value);
  }

  async backendIs(state: XenbusState): Promise<void> {
    await this.host.nodeIs(`${this.back}/state`, String(state));
  }

  errorText(): Promise<string | undefined> {
    return this.host.machine.client.readOptional(
      `/local/domain/0/error/backend/vbd/${this.identity.domid}/${this.device.devid}/error`,
    );
  }

  remove(): Promise<boolean> {
    return removeDevice(this.host.machine.client, this.device, PATIENCE);
  }

  async destroy(): Promise<void> {
    await this.host.machine.destroyGuest(this.identity);
    await this.guest.close();
  }
}

/** A well-behaved guest that writes and verifies its disk all the while. */
export class Neighbour {
  rounds = 0;
  failure: unknown;
  readonly #disk: BlockFrontend;
  readonly #running: Promise<void>;
  #stopped = false;

  private constructor(disk: BlockFrontend) {
    this.#disk = disk;
    this.#running = this.#run().catch((error) => {
      this.failure = error;
    });
  }

  static async create(host: TestHost): Promise<Neighbour> {
    host.devices.set('/neighbour.img', new MemoryDevice(patternBytes(NEIGHBOUR_SECTORS * 512)));
    const guest = await host.guest('/neighbour.img');
    return new Neighbour(await guest.connect());
  }

  /** Resolves once its disk has done `rounds` more. */
  async goesOn(rounds = 3): Promise<void> {
    const goal = this.rounds + rounds;
    while (this.rounds < goal) {
      if (this.failure !== undefined) throw this.failure;
      await turn();
    }
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
    await this.#disk.close();
    if (this.failure !== undefined) throw this.failure;
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      const data = patternBytes(32 * 1024, this.rounds + 2);
      const sector = (this.rounds * 97) % (NEIGHBOUR_SECTORS - 64);
      await this.#disk.writev(sector, IoVector.of(data));
      const back = new Uint8Array(data.byteLength);
      await this.#disk.readv(sector, IoVector.of(back));
      if (Buffer.compare(back, data) !== 0) throw new Error(`the neighbour's round ${this.rounds} read back differs`);
      this.rounds++;
    }
  }
}

export const turn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

export async function turns(count: number): Promise<void> {
  for (let index = 0; index < count; index++) await turn();
}

/** Lets the event loop turn until a condition holds. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await turn();
}
