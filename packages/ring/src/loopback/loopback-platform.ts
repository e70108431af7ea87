/** The ports of `@pvkit/ring` for one domain of a loopback machine, as one thread sees them. */
import { ErrnoError, GrantError, GrantStatus, grantStatusName } from '../errors.ts';
import type { GrantCopyBatch } from '../grant-copy.ts';
import { type DomainIdentity, type Domid, type EventPort, type GrantReference, isEventPort } from '../identity.ts';
import { PagedMemory } from '../paged-memory.ts';
import type {
  EventChannels,
  GrantAccess,
  GrantedPages,
  Grants,
  InPlaceGrants,
  MappedPages,
  Platform,
  PlatformUsage,
  SharedPages,
} from '../platform.ts';
import type { Runtime, Timer } from '../runtime.ts';
import { AlignedArena } from './aligned-memory.ts';
import { attach, detach } from './attachment.ts';
import { GrantTable } from './grant-table.ts';
import { LoopbackInPlaceGrants } from './in-place.ts';
import * as L from './layout.ts';
import type { DomainOf, Machine } from './machine.ts';
import { Maptrack } from './maptrack.ts';
import { LoopbackGrantedPages, LoopbackMappedPages } from './pages.ts';
import { PortTable } from './port-table.ts';

/** Handlers run in one turn of the event loop before others get theirs. */
const EVENTS_PER_TURN = 64;
/** An otherwise idle process stays while a platform is open: it may be woken by another thread at any time. */
const KEEP_ALIVE_MS = 2 ** 30;

export class LoopbackPlatform implements Platform, Grants, EventChannels {
  readonly identity: DomainIdentity;
  readonly runtime: Runtime;
  readonly grants: Grants = this;
  readonly events: EventChannels = this;
  readonly inPlace: InPlaceGrants;
  /** A few times what waking another thread costs. */
  readonly pollMilliseconds = 0.2;
  #arena: AlignedArena | undefined;
  readonly #machine: Machine;
  readonly #words: Int32Array;
  readonly #ports: PortTable;
  readonly #table: GrantTable;
  readonly #maptrack: Maptrack;
  readonly #attachment: number;
  readonly #attachmentIndex: number;
  readonly #listeners = new Map<number, () => void>();
  readonly #openPorts = new Set<EventPort>();
  readonly #granted = new Set<LoopbackGrantedPages>();
  readonly #mapped = new Set<LoopbackMappedPages>();
  /** What another domain still used when its access was ended. */
  #quarantine: { readonly reference: GrantReference; readonly frame: number }[] = [];
  /** Events taken over for delivery: one bit per word of {@link #ready} that has a bit set, one there per port. */
  #groups = 0;
  readonly #ready: Int32Array;
  #attached = true;
  #closed = false;
  readonly #keepAlive: Timer;

  constructor(machine: Machine, identity: DomainIdentity, runtime: Runtime) {
    this.identity = identity;
    this.runtime = runtime;
    this.#machine = machine;
    this.#words = machine.words;
    this.#ports = new PortTable(machine, identity);
    this.#table = new GrantTable(machine, identity);
    this.#maptrack = new Maptrack(machine, identity);
    this.inPlace = new LoopbackInPlaceGrants(machine, identity);
    this.#attachmentIndex = attach(machine, identity);
    this.#attachment = machine.layout.attachments + this.#attachmentIndex * machine.layout.attachmentWords;
    this.#ready = new Int32Array(machine.layout.attachmentWords - L.ATTACHMENT_READY);
    this.#keepAlive = runtime.timer(KEEP_ALIVE_MS, () => {});
    this.#sleep();
  }

  // -- grants --------------------------------------------------------------------------------------------------------

  share(to: Domid, pageCount: number, access: GrantAccess): GrantedPages {
    this.#checkOpen();
    if (!Number.isInteger(pageCount) || pageCount < 1) throw new RangeError(`${pageCount} is not a number of pages`);
    this.#sweep();
    const { domid } = this.identity;
    const frames = this.#machine.allocateFrames(this.identity, pageCount);
    const references: GrantReference[] = [];
    for (const frame of frames) {
      const reference = this.#table.grant(to, frame, access);
      if (reference === undefined) {
        // The other side may have guessed and mapped some already.
        this.#endAccess(frames, references);
        this.#machine.releaseFrames(this.identity, frames.slice(references.length));
        const { grantEntries } = this.#machine.layout.limits;
        throw new GrantError('GNTST_no_space', `granting ${pageCount} pages (limit ${grantEntries} entries)`, {
          domid,
        });
      }
      references.push(reference);
    }
    return this.#adopt(frames, references);
  }

  /** The domain's end of its xenstore ring, as the domain builder left it. @throws ErrnoError ENODEV without one. */
  openStoreRing(): { readonly pages: SharedPages; readonly port: EventPort } {
    this.#checkOpen();
    const record = this.#machine.domain(this.identity.domid);
    const port = Atomics.load(this.#words, record + L.DOMAIN_STORE_PORT);
    if (!isEventPort(port)) throw new ErrnoError('ENODEV', 'opening the xenstore ring', this.identity);
    this.#ports.adopt(port, this.#attachmentIndex);
    this.#openPorts.add(port);
    return {
      pages: new PagedMemory(this.runtime, [this.#machine.frame(this.#words[record + L.DOMAIN_STORE_FRAME]!)]),
      port,
    };
  }

  #adopt(frames: readonly number[], references: readonly GrantReference[]): GrantedPages {
    const pages = new LoopbackGrantedPages(
      this.runtime,
      this.#machine,
      frames,
      references,
      () => this.#granted.delete(pages) && this.#endAccess(frames, references),
    );
    this.#granted.add(pages);
    return pages;
  }

  #endAccess(frames: readonly number[], references: readonly GrantReference[]): boolean {
    if (!this.#alive()) return true;
    const before = this.#quarantine.length;
    const free: number[] = [];
    references.forEach((reference, index) => {
      const frame = frames[index]!;
      if (this.#table.endAccess(reference)) free.push(frame);
      else this.#quarantine.push({ reference, frame });
    });
    this.#machine.releaseFrames(this.identity, free);
    return this.#quarantine.length === before;
  }

  /** Frees of the quarantine what the other side has let go. */
  #sweep(): void {
    if (this.#quarantine.length === 0) return;
    const free: number[] = [];
    this.#quarantine = this.#quarantine.filter(({ reference, frame }) => {
      if (!this.#table.endAccess(reference)) return true;
      free.push(frame);
      return false;
    });
    this.#machine.releaseFrames(this.identity, free);
  }

  map(from: Domid, references: readonly GrantReference[], access: GrantAccess): MappedPages {
    this.#checkOpen();
    const context = { instance: this.identity.instance, domid: from };
    if (this.#machine.generation(from) === 0)
      throw new GrantError('GNTST_bad_domain', `mapping ${references.length} grants`, context);
    const handles: number[] = [];
    for (const reference of references) {
      const handle = this.#maptrack.map(from, reference, access === 'read-write');
      if (handle < 0) {
        for (const undo of handles) this.#maptrack.unmap(undo);
        throw new GrantError(grantStatusName(handle), this.#describeMap(reference, handle), context);
      }
      handles.push(handle);
    }
    const frames = handles.map((handle) => this.#maptrack.frame(handle));
    const pages = new LoopbackMappedPages(this.runtime, this.#machine, frames, access, () => {
      if (!this.#mapped.delete(pages) || !this.#alive()) return;
      for (const handle of handles) this.#maptrack.unmap(handle);
    });
    this.#mapped.add(pages);
    return pages;
  }

  #describeMap(reference: GrantReference, status: number): string {
    const { maptrackEntries } = this.#machine.layout.limits;
    const limit = status === GrantStatus.GNTST_no_device_space ? ` (limit ${maptrackEntries} mappings)` : '';
    return `mapping grant reference ${reference}${limit}`;
  }

  copy(batch: GrantCopyBatch): void {
    this.#checkOpen();
    this.#tableOf(batch.domid).copy(batch, this.identity.domid);
  }

  /** The table last copied from: a driver copies from one domain. */
  #peerTable: { readonly peer: DomainOf; readonly table: GrantTable } | undefined;
  #tableOf(domid: Domid): GrantTable {
    const generation = this.#machine.generation(domid);
    if (this.#peerTable?.peer.domid !== domid || this.#peerTable.peer.generation !== generation) {
      const peer = { domid, generation };
      this.#peerTable = { peer, table: new GrantTable(this.#machine, peer) };
    }
    return this.#peerTable.table;
  }

  allocateBuffer(byteLength: number): Uint8Array {
    this.#arena ??= new AlignedArena();
    return this.#arena.allocate(byteLength);
  }

  // -- event channels ------------------------------------------------------------------------------------------------

  allocateUnbound(remote: Domid): EventPort {
    this.#checkOpen();
    const port = this.#ports.allocateUnbound(remote, this.#attachmentIndex);
    this.#openPorts.add(port);
    return port;
  }

  bindInterdomain(remote: Domid, remotePort: EventPort): EventPort {
    this.#checkOpen();
    const port = this.#ports.bindInterdomain(remote, remotePort, this.#attachmentIndex);
    this.#openPorts.add(port);
    return port;
  }

  listen(port: EventPort, handler: () => void): void {
    this.#checkPort(port);
    if (this.#listeners.has(port)) throw new ErrnoError('EBUSY', `listening to port ${port}`, this.identity);
    this.#listeners.set(port, handler);
    this.#ports.unmask(port); // delivers an event that came before there was a listener
  }

  unmask(port: EventPort): void {
    if (this.#openPorts.has(port) && this.#alive()) this.#ports.unmask(port);
  }

  notify(port: EventPort): void {
    this.#checkPort(port);
    if (this.#alive()) this.#ports.notify(port);
  }

  /** Closes `which`, a port; or the whole platform. */
  close(which?: EventPort): void {
    if (which === undefined) this.#closeAll();
    else if (this.#openPorts.delete(which)) {
      this.#listeners.delete(which);
      if (this.#alive()) this.#ports.close(which);
    }
  }

  // -- delivery ------------------------------------------------------------------------------------------------------

  readonly #dispatch = (): void => {
    // What has been taken over is delivered before more is, so that busy ports cannot starve others.
    if (this.#groups === 0 && this.#alive()) this.#collect();
    for (let budget = EVENTS_PER_TURN; this.#groups !== 0; budget--) {
      if (!this.#alive()) break;
      if (budget === 0) {
        this.runtime.nextTurn(this.#dispatch);
        return;
      }
      const port = this.#nextReady();
      const handler = this.#listeners.get(port);
      // Without a listener the event stays pending until there is one.
      if (handler !== undefined && this.#ports.begin(port)) this.#run(handler);
    }
    if (this.#alive()) this.#sleep();
    else this.#detach();
  };

  /** Takes over the ports that have events. */
  #collect(): void {
    this.#groups = Atomics.exchange(this.#words, this.#attachment + L.ATTACHMENT_SELECTOR, 0);
    for (let groups = this.#groups; groups !== 0; ) {
      const group = 31 - Math.clz32(groups);
      groups &= ~(1 << group);
      this.#ready[group] = Atomics.exchange(this.#words, this.#attachment + L.ATTACHMENT_READY + group, 0);
      if (this.#ready[group] === 0) this.#groups &= ~(1 << group);
    }
  }

  /** Takes a port from what was taken over, which must not be empty. */
  #nextReady(): number {
    const group = 31 - Math.clz32(this.#groups);
    const bit = 31 - Math.clz32(this.#ready[group]!);
    this.#ready[group]! &= ~(1 << bit);
    if (this.#ready[group] === 0) this.#groups &= ~(1 << group);
    return group * 32 + bit;
  }

  /** A handler that throws is a bug of ours: it surfaces as an uncaught error, and the other ports get their events. */
  #run(handler: () => void): void {
    try {
      handler();
    } catch (error) {
      this.runtime.nextTurn(() => {
        throw error;
      });
    }
  }

  /** Arranges for `#dispatch` to run when there is something to deliver. */
  #sleep(): void {
    const words = this.#words;
    const wakeWord = this.#attachment + L.ATTACHMENT_WAKE;
    const seen = Atomics.load(words, wakeWord);
    Atomics.store(words, this.#attachment + L.ATTACHMENT_ASLEEP, 1);
    if (Atomics.load(words, this.#attachment + L.ATTACHMENT_SELECTOR) === 0) {
      const result = waitAsync(words, wakeWord, seen);
      if (result.async) {
        void result.value.then(this.#dispatch);
        return;
      }
    }
    Atomics.store(words, this.#attachment + L.ATTACHMENT_ASLEEP, 0);
    this.runtime.nextTurn(this.#dispatch);
  }

  // -- life ----------------------------------------------------------------------------------------------------------

  usage(): PlatformUsage {
    if (this.#alive()) this.#sweep();
    let grantedPages = 0;
    for (const pages of this.#granted) grantedPages += pages.pageCount;
    let mappedPages = 0;
    for (const pages of this.#mapped) mappedPages += pages.pageCount;
    const quarantinedPages = this.#alive() ? this.#quarantine.length : 0;
    return { grantedPages, quarantinedPages, mappedPages, eventPorts: this.#openPorts.size };
  }

  #closeAll(): void {
    if (this.#closed) return;
    for (const port of [...this.#openPorts]) this.close(port);
    for (const pages of [...this.#mapped]) pages.unmap();
    for (const pages of [...this.#granted]) pages.endAccess();
    for (const { reference, frame } of this.#quarantine)
      if (this.#table.abandon(reference)) this.#machine.releaseFrames(this.identity, [frame]);
    this.#closed = true;
    this.#keepAlive.cancel();
    this.#detach();
  }

  #detach(): void {
    if (!this.#attached) return;
    this.#attached = false;
    detach(this.#machine, this.#attachmentIndex, this.identity);
  }

  #alive(): boolean {
    return !this.#closed && this.#machine.isAlive(this.identity.domid, this.identity.generation);
  }

  #checkOpen(): void {
    if (!this.#alive()) throw new ErrnoError('ESRCH', 'use of a platform whose domain is gone', this.identity);
  }

  #checkPort(port: EventPort): void {
    if (!this.#openPorts.has(port))
      throw new ErrnoError('EINVAL', `use of port ${port}, which is not open`, this.identity);
  }
}

interface WaitAsyncResult {
  readonly async: boolean;
  readonly value: PromiseLike<string>;
}
/** ECMAScript 2024's, in every engine that Node 20 and later have. */
const { waitAsync } = Atomics as typeof Atomics & {
  waitAsync(words: Int32Array, index: number, value: number): WaitAsyncResult;
};
