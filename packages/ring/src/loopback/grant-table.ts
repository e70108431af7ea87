/**
 * Version 1 grant tables with Xen's semantics (`xen/common/grant_table.c`): who may use a frame, how it is being used,
 * and the statuses that Xen gives when it refuses.
 */
import { GrantStatus } from '../errors.ts';
import type { GrantCopyBatch } from '../grant-copy.ts';
import { type Domid, type GrantReference, grantReference } from '../identity.ts';
import { copyBytes } from '../paged-memory.ts';
import type { GrantAccess } from '../platform.ts';
import * as L from './layout.ts';
import type { DomainOf, Machine } from './machine.ts';

const READ_PIN = 1;
const WRITE_PIN = 1 << 16;

export class GrantTable {
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
    this.#base = machine.layout.grants + owner.domid * machine.layout.limits.grantEntries * L.GRANT_WORDS;
  }

  /** The granting side: a free reference, or undefined when the table is full. @throws ErrnoError ESRCH. */
  grant(to: Domid, frame: number, access: GrantAccess): GrantReference | undefined {
    return this.#locked(() => {
      this.#machine.checkAlive(this.#owner, 'granting a page');
      const index = this.#unlink();
      if (index === undefined) return undefined;
      this.#set(index, to, frame, access);
      return grantReference(index);
    });
  }

  /** Fills one of the reserved entries 0 to 7, as a domain builder does. */
  grantReserved(index: number, to: Domid, frame: number): GrantReference {
    if (!(index >= 0 && index < L.RESERVED_GRANTS)) throw new RangeError(`grant ${index} is not reserved`);
    this.#locked(() => this.#set(index, to, frame, 'read-write'));
    return grantReference(index);
  }

  /** Takes access away; false while the grant is in use (the entry then stays as it is). */
  endAccess(reference: GrantReference): boolean {
    return this.#locked(() => {
      if (!this.#isAlive()) return true;
      if (this.#words[this.#entry(reference) + L.GRANT_PINS] !== 0) return false;
      this.#free(reference);
      return true;
    });
  }

  /** Takes access away now, or when the last use ends: nobody will call {@link endAccess} again. */
  abandon(reference: GrantReference): boolean {
    return this.#locked(() => {
      if (!this.#isAlive()) return true;
      const entry = this.#entry(reference);
      if (this.#words[entry + L.GRANT_PINS] === 0) {
        this.#free(reference);
        return true;
      }
      // Without GTF_permit_access no new use begins.
      this.#words[entry + L.GRANT_FLAGS] =
        (this.#words[entry + L.GRANT_FLAGS]! & ~L.GTF_permit_access) | L.GTF_abandoned;
      return false;
    });
  }

  /** The using side: begins a use by `user`. @returns the frame, or a negative status. */
  acquire(reference: number, user: Domid, write: boolean): number {
    return this.#locked(() => this.#acquire(reference, user, write));
  }

  /** Ends a use. The frame of a grant whose owner is gone is not its business any more. */
  release(reference: number, frame: number, write: boolean): void {
    const abandoned = this.#locked(() => this.#isAlive() && this.#release(reference, write));
    if (abandoned) this.#machine.releaseFrames(this.#owner, [frame]);
  }

  /** Copies between this table's frames and `user`'s memory (`GNTTABOP_copy`). */
  copy(batch: GrantCopyBatch, user: Domid): void {
    this.#machine.lock(this.#domain + L.DOMAIN_GRANT_LOCK);
    try {
      if (!this.#isAlive()) {
        batch.statuses.fill(GrantStatus.GNTST_bad_domain, 0, batch.count);
        return;
      }
      for (let index = 0; index < batch.count; index++) {
        const write = batch.toGrant[index] === 1;
        const frame = this.#usable(batch.references[index]!, user, write);
        if (frame < 0) {
          batch.statuses[index] = frame;
          continue;
        }
        const page = this.#machine.frame(frame).bytes;
        const offset = batch.offsets[index]!;
        const local = batch.locals[index]!;
        if (write) copyBytes(local, batch.localOffsets[index]!, page, offset, batch.lengths[index]!);
        else copyBytes(page, offset, local, batch.localOffsets[index]!, batch.lengths[index]!);
        batch.statuses[index] = GrantStatus.GNTST_okay;
      }
    } finally {
      this.#machine.unlock(this.#domain + L.DOMAIN_GRANT_LOCK);
    }
  }

  /** Keeps every grant as it is until {@link endUse}: for uses that end within a turn. */
  beginUse(): void {
    this.#machine.lock(this.#domain + L.DOMAIN_GRANT_LOCK);
  }

  /** Within a use: the frame of a reference, or a negative status. */
  usableFrame(reference: number, user: Domid, write: boolean): number {
    return this.#isAlive() ? this.#usable(reference, user, write) : GrantStatus.GNTST_bad_domain;
  }

  endUse(): void {
    this.#machine.unlock(this.#domain + L.DOMAIN_GRANT_LOCK);
  }

  /** Forgets every grant: the domain is gone. */
  reset(): void {
    this.#locked(() => {
      const touched = this.#words[this.#domain + L.DOMAIN_GRANTS_TOUCHED]!;
      this.#words.fill(0, this.#base, this.#base + Math.max(touched, L.RESERVED_GRANTS) * L.GRANT_WORDS);
      this.#words[this.#domain + L.DOMAIN_GRANTS_TOUCHED] = L.RESERVED_GRANTS;
      this.#words[this.#domain + L.DOMAIN_FREE_GRANTS] = 0;
    });
  }

  #entry(reference: number): number {
    return this.#base + reference * L.GRANT_WORDS;
  }

  #isAlive(): boolean {
    return this.#machine.isAlive(this.#owner.domid, this.#owner.generation);
  }

  #set(index: number, to: Domid, frame: number, access: GrantAccess): void {
    const entry = this.#entry(index);
    this.#words[entry + L.GRANT_FRAME] = frame;
    this.#words[entry + L.GRANT_PINS] = 0;
    const flags = L.GTF_permit_access | (access === 'read-only' ? L.GTF_readonly : 0);
    this.#words[entry + L.GRANT_FLAGS] = flags | (to << 16);
  }

  #unlink(): number | undefined {
    const head = this.#words[this.#domain + L.DOMAIN_FREE_GRANTS]!;
    if (head !== 0) {
      this.#words[this.#domain + L.DOMAIN_FREE_GRANTS] = this.#words[this.#entry(head - 1) + L.GRANT_FRAME]!;
      return head - 1;
    }
    const fresh = this.#words[this.#domain + L.DOMAIN_GRANTS_TOUCHED]!;
    if (fresh >= this.#machine.layout.limits.grantEntries) return undefined;
    this.#words[this.#domain + L.DOMAIN_GRANTS_TOUCHED] = fresh + 1;
    return fresh;
  }

  #free(reference: number): void {
    const entry = this.#entry(reference);
    this.#words[entry + L.GRANT_FLAGS] = 0;
    if (reference < L.RESERVED_GRANTS) return;
    this.#words[entry + L.GRANT_FRAME] = this.#words[this.#domain + L.DOMAIN_FREE_GRANTS]!;
    this.#words[this.#domain + L.DOMAIN_FREE_GRANTS] = reference + 1;
  }

  /** The frame when `user` may use the reference so, else the status that Xen gives. */
  #usable(reference: number, user: Domid, write: boolean): number {
    if (reference >= this.#words[this.#domain + L.DOMAIN_GRANTS_TOUCHED]!) return GrantStatus.GNTST_bad_gntref;
    const entry = this.#entry(reference);
    const flags = this.#words[entry + L.GRANT_FLAGS]!;
    if ((flags & L.GTF_permit_access) === 0 || flags >>> 16 !== user) return GrantStatus.GNTST_general_error;
    if (write && (flags & L.GTF_readonly) !== 0) return GrantStatus.GNTST_general_error;
    return this.#words[entry + L.GRANT_FRAME]!;
  }

  #acquire(reference: number, user: Domid, write: boolean): number {
    if (!this.#isAlive()) return GrantStatus.GNTST_bad_domain;
    const frame = this.#usable(reference, user, write);
    if (frame < 0) return frame;
    const entry = this.#entry(reference);
    this.#words[entry + L.GRANT_PINS]! += write ? WRITE_PIN : READ_PIN;
    this.#words[entry + L.GRANT_FLAGS]! |= L.GTF_reading | (write ? L.GTF_writing : 0);
    this.#machine.pinFrame(frame);
    return frame;
  }

  /** @returns whether that freed an abandoned entry. */
  #release(reference: number, write: boolean): boolean {
    const entry = this.#entry(reference);
    const pins = this.#words[entry + L.GRANT_PINS]! - (write ? WRITE_PIN : READ_PIN);
    this.#words[entry + L.GRANT_PINS] = pins;
    let flags = this.#words[entry + L.GRANT_FLAGS]!;
    if (pins >>> 16 === 0) flags &= ~L.GTF_writing;
    if (pins === 0) flags &= ~L.GTF_reading;
    this.#words[entry + L.GRANT_FLAGS] = flags;
    if (pins !== 0 || (flags & L.GTF_abandoned) === 0) return false;
    this.#free(reference);
    return true;
  }

  #locked<T>(action: () => T): T {
    this.#machine.lock(this.#domain + L.DOMAIN_GRANT_LOCK);
    try {
      return action();
    } finally {
      this.#machine.unlock(this.#domain + L.DOMAIN_GRANT_LOCK);
    }
  }
}
