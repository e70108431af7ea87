/** A domain's mappings of other domains' frames, in shared memory so that its death undoes them (`maptrack`). */
import { GrantStatus } from '../errors.ts';
import type { Domid } from '../identity.ts';
import { GrantTable } from './grant-table.ts';
import * as L from './layout.ts';
import type { DomainOf, Machine } from './machine.ts';

export class Maptrack {
  readonly #machine: Machine;
  readonly #words: Int32Array;
  readonly #owner: DomainOf;
  readonly #base: number;
  readonly #domain: number;

  constructor(machine: Machine, owner: DomainOf) {
    this.#machine = machine;
    this.#words = machine.words;
    this.#owner = owner;
    this.#domain = machine.domain(owner.domid);
    this.#base = machine.layout.maptrack + owner.domid * machine.layout.limits.maptrackEntries * L.MAPTRACK_WORDS;
  }

  /** Maps one reference of `from`. @returns a handle (0 or more), or a negative status. */
  map(from: Domid, reference: number, write: boolean): number {
    const generation = this.#machine.generation(from);
    const table = new GrantTable(this.#machine, { domid: from, generation });
    const frame = table.acquire(reference, this.#owner.domid, write);
    if (frame < 0) return frame;
    const words = this.#words;
    this.#machine.lock(L.LOCK);
    const alive = this.#machine.isAlive(this.#owner.domid, this.#owner.generation);
    let handle = words[this.#domain + L.DOMAIN_FREE_MAPTRACK]! - 1;
    if (!alive) {
      handle = -1; // its mappings have been undone, or are being: this one came too late
    } else if (handle >= 0) {
      words[this.#domain + L.DOMAIN_FREE_MAPTRACK] = words[this.#entry(handle) + L.MAPTRACK_WRITABLE]!;
    } else {
      handle = words[this.#domain + L.DOMAIN_MAPTRACK_TOUCHED]!;
      if (handle < this.#machine.layout.limits.maptrackEntries)
        words[this.#domain + L.DOMAIN_MAPTRACK_TOUCHED] = handle + 1;
      else handle = -1;
    }
    if (handle >= 0) {
      const entry = this.#entry(handle);
      words[entry + L.MAPTRACK_REFERENCE] = reference;
      words[entry + L.MAPTRACK_FRAME] = frame;
      words[entry + L.MAPTRACK_WRITABLE] = write ? 1 : 0;
      words[entry + L.MAPTRACK_GENERATION] = generation;
      words[entry + L.MAPTRACK_DOMAIN] = from + 1;
    }
    this.#machine.unlock(L.LOCK);
    if (handle >= 0) return handle;
    table.release(reference, frame, write);
    this.#machine.unpinFrame(frame);
    return alive ? GrantStatus.GNTST_no_device_space : GrantStatus.GNTST_bad_domain;
  }

  frame(handle: number): number {
    return this.#words[this.#entry(handle) + L.MAPTRACK_FRAME]!;
  }

  /** Ends a mapping; does nothing when the domain's death has ended it. */
  unmap(handle: number): void {
    this.#unmap(handle, () => this.#machine.isAlive(this.#owner.domid, this.#owner.generation));
  }

  #unmap(handle: number, mayUnmap: () => boolean): void {
    const words = this.#words;
    const entry = this.#entry(handle);
    this.#machine.lock(L.LOCK);
    const from = words[entry + L.MAPTRACK_DOMAIN]! - 1;
    if (from < 0 || !mayUnmap()) {
      this.#machine.unlock(L.LOCK);
      return;
    }
    // Everything is read under the lock: once on the free list, the entry may become another thread's.
    const write = words[entry + L.MAPTRACK_WRITABLE] === 1;
    const reference = words[entry + L.MAPTRACK_REFERENCE]!;
    const frame = words[entry + L.MAPTRACK_FRAME]!;
    const generation = words[entry + L.MAPTRACK_GENERATION]!;
    words[entry + L.MAPTRACK_DOMAIN] = 0;
    words[entry + L.MAPTRACK_WRITABLE] = words[this.#domain + L.DOMAIN_FREE_MAPTRACK]!;
    words[this.#domain + L.DOMAIN_FREE_MAPTRACK] = handle + 1;
    this.#machine.unlock(L.LOCK);
    new GrantTable(this.#machine, { domid: from as Domid, generation }).release(reference, frame, write);
    this.#machine.unpinFrame(frame);
  }

  /** Undoes every mapping: the domain is being destroyed. */
  reset(): void {
    const touched = this.#words[this.#domain + L.DOMAIN_MAPTRACK_TOUCHED]!;
    for (let handle = 0; handle < touched; handle++) this.#unmap(handle, () => true);
    this.#words[this.#domain + L.DOMAIN_MAPTRACK_TOUCHED] = 0;
    this.#words[this.#domain + L.DOMAIN_FREE_MAPTRACK] = 0;
  }

  #entry(handle: number): number {
    return this.#base + handle * L.MAPTRACK_WORDS;
  }
}
