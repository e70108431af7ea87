/** Granted frames used where they are: the lock of the granting domain's table keeps them granted meanwhile. */
import { ErrnoError } from '../errors.ts';
import type { Domid, GrantReference } from '../identity.ts';
import { type InPlaceGrants, PAGE_SIZE } from '../platform.ts';
import { GrantTable } from './grant-table.ts';
import type { DomainOf, Machine } from './machine.ts';

export class LoopbackInPlaceGrants implements InPlaceGrants {
  readonly memory: Uint8Array;
  readonly #machine: Machine;
  readonly #user: DomainOf;
  /** The domain last used, with its table: a driver has one. */
  #peer: DomainOf | undefined;
  #table: GrantTable | undefined;
  #busy = false;

  constructor(machine: Machine, user: DomainOf) {
    this.memory = new Uint8Array(machine.handle.memory);
    this.#machine = machine;
    this.#user = user;
  }

  begin(from: Domid): void {
    if (this.#busy) throw new ErrnoError('EBUSY', 'use of granted pages in place', this.#user);
    this.#machine.checkAlive(this.#user, 'use of granted pages in place');
    const generation = this.#machine.generation(from);
    if (this.#peer?.domid !== from || this.#peer.generation !== generation) {
      this.#peer = { domid: from, generation };
      this.#table = new GrantTable(this.#machine, this.#peer);
    }
    this.#table?.beginUse();
    this.#busy = true;
  }

  offsetOf(reference: GrantReference, write: boolean): number {
    if (!this.#busy || this.#table === undefined)
      throw new ErrnoError('EINVAL', 'use of a granted page in place', this.#user);
    const frame = this.#table.usableFrame(reference, this.#user.domid, write);
    return frame < 0 ? frame : frame * PAGE_SIZE;
  }

  end(): void {
    if (!this.#busy) return;
    this.#busy = false;
    this.#table?.endUse();
  }
}
