/** For tests: a small loopback machine with one guest, and what was observed on it. */
import { type DomainIdentity, standardRuntime } from '@pvkit/ring';
import { memoryTransportPair, XenstoreClient } from '@pvkit/xenstore';
import { type LoopbackGuest, LoopbackMachine, openLoopbackGuest } from '../loopback-machine.ts';
import type { XenbusState } from '../state.ts';
import { backendPath, type DeviceAddress, frontendPath, waitUntil } from '../toolstack.ts';

const LIMITS = { frames: 8192, domains: 8, pagesPerDomain: 4096, grantEntries: 4096, maptrackEntries: 1024, ports: 64 };

export const timer = standardRuntime().timer;
/** Longer than any test waits for what does come. */
export const PATIENCE = { timeoutMs: 10_000, timer };

export interface Observed {
  readonly event: string;
  readonly facts: Readonly<Record<string, unknown>>;
}

export class MachineFixture {
  readonly observed: Observed[];
  readonly machine: LoopbackMachine;
  readonly identity: DomainIdentity;
  readonly guest: LoopbackGuest;
  readonly device: DeviceAddress;
  readonly back: string;
  readonly front: string;

  private constructor(machine: LoopbackMachine, identity: DomainIdentity, observed: Observed[]) {
    this.machine = machine;
    this.identity = identity;
    this.observed = observed;
    this.guest = openLoopbackGuest(machine.guestHandle(identity));
    this.device = {
      deviceClass: 'vtest',
      devid: 7,
      frontend: identity.domid,
      backend: machine.platform.identity.domid,
    };
    this.back = backendPath(this.device);
    this.front = frontendPath(this.device);
  }

  static async create(): Promise<MachineFixture> {
    const observed: Observed[] = [];
    const machine = await LoopbackMachine.create({
      name: 'test',
      limits: LIMITS,
      observe: (event, facts) => observed.push({ event, facts }),
    });
    return new MachineFixture(machine, await machine.createGuest('guest'), observed);
  }

  /** Another connection of domain 0 to the store. */
  connect(): XenstoreClient {
    const { runtime } = this.machine.platform;
    const [ours, theirs] = memoryTransportPair(runtime);
    this.machine.store.connect(theirs);
    return new XenstoreClient(ours, runtime);
  }

  get client(): XenstoreClient {
    return this.machine.client;
  }

  /** What was observed under a name, oldest first. */
  events(name: string): Readonly<Record<string, unknown>>[] {
    return this.observed.filter(({ event }) => event === name).map(({ facts }) => facts);
  }

  /** Resolves once the backend's state node says `state`. */
  async backendIs(state: XenbusState): Promise<void> {
    await this.nodeIs(`${this.back}/state`, String(state));
  }

  async frontendIs(state: XenbusState): Promise<void> {
    await this.nodeIs(`${this.front}/state`, String(state));
  }

  /** Resolves once a node says `value`; undefined: once it is absent. */
  async nodeIs(path: string, value: string | undefined): Promise<void> {
    let last: string | undefined;
    const held = await waitUntil(this.client, path, PATIENCE, async () => {
      last = await this.client.readOptional(path);
      return last === value;
    });
    if (!held) throw new Error(`${path} is ${last}, not ${value}`);
  }

  /** As the frontend: writes its state, and nodes before. */
  async frontend(state: XenbusState, nodes: Readonly<Record<string, string>> = {}): Promise<void> {
    for (const [key, value] of Object.entries(nodes)) await this.guest.client.write(`${this.front}/${key}`, value);
    await this.guest.client.write(`${this.front}/state`, String(state));
  }

  async close(): Promise<void> {
    await this.guest.close();
    await this.machine.close();
  }
}

/** Lets the event loop turn until a condition holds. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise<void>((resolve) => void setImmediate(resolve));
}
