/**
 * A hypervisor in this process: domains, grant tables and event channels in shared memory, for tests, development and
 * laptops without Xen. Threads that share one {@link LoopbackHandle} share one machine.
 */
import type { DomainIdentity, Domid, EventPort, InstanceName } from '../identity.ts';
import { instanceName } from '../identity.ts';
import { type Observer, type Runtime, standardRuntime } from '../runtime.ts';
import { wakeDomain } from './attachment.ts';
import { GrantTable } from './grant-table.ts';
import {
  DEFAULT_LIMITS,
  DOMAIN_STORE_FRAME,
  DOMAIN_STORE_PORT,
  type LoopbackLimits,
  NO_ATTACHMENT,
  RESERVED_XENSTORE,
} from './layout.ts';
import { LoopbackPlatform } from './loopback-platform.ts';
import { Machine, type MachineHandle } from './machine.ts';
import { Maptrack } from './maptrack.ts';
import { PortTable } from './port-table.ts';

/** What a worker thread needs to reach the same machine; structured-cloneable. */
export interface LoopbackHandle {
  readonly instance: string;
  readonly machine: MachineHandle;
}

export class LoopbackHypervisor {
  readonly instance: InstanceName;
  readonly #machine: Machine;
  readonly #runtime: Runtime;

  private constructor(instance: InstanceName, machine: Machine, observe: Observer | undefined) {
    this.instance = instance;
    this.#machine = machine;
    this.#runtime = standardRuntime(observe);
  }

  /** A new machine without any domain. `name` makes its instance name, `loopback:<name>`. */
  static create(name: string, limits: Partial<LoopbackLimits> = {}, observe?: Observer): LoopbackHypervisor {
    const machine = Machine.create({ ...DEFAULT_LIMITS, ...limits });
    return new LoopbackHypervisor(instanceName(`loopback:${name}`), machine, observe);
  }

  /** The machine that another thread created. */
  static attach(handle: LoopbackHandle, observe?: Observer): LoopbackHypervisor {
    return new LoopbackHypervisor(instanceName(handle.instance), new Machine(handle.machine), observe);
  }

  get handle(): LoopbackHandle {
    return { instance: this.instance, machine: this.#machine.handle };
  }

  /** Creates a domain with no memory yet; the first is domain 0. @throws ErrnoError ENOSPC. */
  createDomain(): DomainIdentity {
    const domid = this.#machine.createDomain();
    return { instance: this.instance, domid, generation: this.#machine.generation(domid) };
  }

  /**
   * Builds the xenstore ring of a domain: a page that it grants to `store` by the reserved reference 1, and a port that
   * `store` may bind. The domain finds them with {@link LoopbackPlatform.openStoreRing}.
   */
  buildStoreRing(domain: DomainIdentity, store: Domid): { readonly gfn: number; readonly port: EventPort } {
    const [gfn] = this.#machine.allocateFrames(domain, 1) as [number];
    new GrantTable(this.#machine, domain).grantReserved(RESERVED_XENSTORE, store, gfn);
    const port = new PortTable(this.#machine, domain).allocateUnbound(store, NO_ATTACHMENT);
    const record = this.#machine.domain(domain.domid);
    this.#machine.words[record + DOMAIN_STORE_FRAME] = gfn;
    Atomics.store(this.#machine.words, record + DOMAIN_STORE_PORT, port);
    return { gfn, port };
  }

  /**
   * Destroys a domain, whatever its threads are doing: its ports close, its mappings are undone, its grants end.
   * Frames of it that others have mapped stay valid until they unmap them. Does nothing when it is gone already.
   *
   * Unlike a real domain's processors, a thread of it that still runs is not stopped and can reach, through pages that
   * it holds, frames that are another's by then; a thread that may do so has to be ended before.
   */
  destroyDomain(domain: DomainIdentity): void {
    if (!this.#machine.beginRemoval(domain)) return;
    new PortTable(this.#machine, domain).reset();
    new Maptrack(this.#machine, domain).reset();
    new GrantTable(this.#machine, domain).reset();
    this.#machine.removeDomain(domain.domid);
    wakeDomain(this.#machine, domain);
  }

  isAlive({ domid, generation }: DomainIdentity): boolean {
    return this.#machine.isAlive(domid, generation);
  }

  /** The identity of the domain that has `domid` now, if any. */
  identify(domid: Domid): DomainIdentity | undefined {
    const generation = this.#machine.generation(domid);
    return generation === 0 ? undefined : { instance: this.instance, domid, generation };
  }

  /** Opens the ports of a domain for this thread. Several may be open; each has its own event channels and mappings. */
  openPlatform(identity: DomainIdentity): LoopbackPlatform {
    return new LoopbackPlatform(this.#machine, identity, this.#runtime);
  }
}
