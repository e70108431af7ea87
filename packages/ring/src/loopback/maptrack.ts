/** A domain's mappings of other domains' frames, in shared memory so that its death undoes them (`maptrack`). */
import { GrantStatus } from '../errors.ts';
import type { Domid } from '../identity.ts';
import { GrantTable } from './grant-table.ts';
import * as L from './layout.ts';
import type { Machine } from './machine.ts';

export class Maptrack {
  readonly #machine: Machine;
  readonly #words: Int32Array;
  readonly #owner: Domid;
  readonly #base: number;
  readonly #domain: number;

  constructor(machine: Machine, owner: Domid) {
    this.#machine = machine;
    this.#words = machine.words;
    this.#owner = owner;
    this.#domain = machine.domain(owner);
    this.#base = machine.layout.maptrack + owner * machine.layout.limits.maptrackEntries * L.MAPTRACK_WORDS;
  }

  /** Maps one reference of `from`. @returns a handle (0 or more), or a negative status. */
  map(from: Domid, reference: number, write: boolean): number {
    const frame = new GrantTable(this.#machine, from).acquire(reference, this.#owner, write);
    if (frame < 0) return frame;
    const words = this.#words;
    this.#machine.lock(L.LOCK);
    let handle = words[this.#domain + L.DOMAIN_FREE_MAPTRACK]! - 1;
    if (handle >= 0) {
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
      words[entry + L.MAPTRACK_GENERATION] = this.#machine.generation(from);
      words[entry + L.MAPTRACK_DOMAIN] = from + 1;
    }
    this.#machine.unlock(L.LOCK);
    if (handle >= 0) return handle;
    new GrantTable(this.#machine, from).release(reference, write);
    this.#machine.unpinFrame(frame);
    return GrantStatus.GNTST_no_device_space;
  }

  frame(handle: number): number {
    return this.#words[this.#entry(handle) + L.MAPTRACK_FRAME]!;
  }

  unmap(handle: number): void {
    const words = this.#words;
    const entry = this.#entry(handle);
    this.#machine.lock(L.LOCK);
    const from = words[entry + L.MAPTRACK_DOMAIN]! - 1;
    if (from < 0) {
      this.#machine.unlock(L.LOCK);
      return; // undone by the domain's death
    }
    const write = words[entry + L.MAPTRACK_WRITABLE] === 1;
    words[entry + L.MAPTRACK_DOMAIN] = 0;
    words[entry + L.MAPTRACK_WRITABLE] = words[this.#domain + L.DOMAIN_FREE_MAPTRACK]!;
    words[this.#domain + L.DOMAIN_FREE_MAPTRACK] = handle + 1;
    this.#machine.unlock(L.LOCK);
    if (this.#machine.isAlive(from, words[entry + L.MAPTRACK_GENERATION]))
      new GrantTable(this.#machine, from as Domid).release(words[entry + L.MAPTRACK_REFERENCE]!, write);
    this.#machine.unpinFrame(words[entry + L.MAPTRACK_FRAME]!);
  }

  /** Undoes every mapping: the domain is gone. */
  reset(): void {
    for (let handle = 0; handle < this.#words[this.#domain + L.DOMAIN_MAPTRACK_TOUCHED]!; handle++) this.unmap(handle);
    this.#words[this.#domain + L.DOMAIN_MAPTRACK_TOUCHED] = 0;
    this.#words[this.#domain + L.DOMAIN_FREE_MAPTRACK] = 0;
  }

  #entry(handle: number): number {
    return this.#base + handle * L.MAPTRACK_WORDS;
  }
}
