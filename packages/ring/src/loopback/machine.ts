/**
 * The loopback machine: frames and domains in shared memory. Any thread that holds the two buffers sees the same
 * machine; each operation takes a short lock, as a hypercall would.
 */
import { ErrnoError, GrantError } from '../errors.ts';
import { type DomainIdentity, type Domid, domid as toDomid } from '../identity.ts';
import type { PageViews } from '../paged-memory.ts';
import { PAGE_SIZE } from '../platform.ts';
import { alignedSharedMemory } from './aligned-memory.ts';
import * as L from './layout.ts';

/** What another thread needs to use the same machine; may be posted to a worker. */
export interface MachineHandle {
  readonly memory: SharedArrayBuffer;
  readonly control: SharedArrayBuffer;
  readonly limits: L.LoopbackLimits;
}

/** A domain of one machine. Its domid alone may by now be another's. */
export type DomainOf = Pick<DomainIdentity, 'domid' | 'generation'>;

/**
 * Waits of a millisecond in which nobody lets go of a lock, before its holder is presumed dead (a terminated worker).
 * Counted, since a clock also runs while the whole process is stopped.
 */
const LOCK_PATIENCE = 1000;
/** A taken lock holds the name of the thread above these bits, and in them a number for each time it takes one. */
const LOCK_TIMES_BITS = 20;

export class Machine {
  readonly handle: MachineHandle;
  readonly layout: L.Layout;
  readonly words: Int32Array;
  readonly #views: (PageViews | undefined)[] = [];
  readonly #thread: number;
  #timesLocked = 0;

  constructor(handle: MachineHandle) {
    this.handle = handle;
    this.layout = L.layoutOf(handle.limits);
    this.words = new Int32Array(handle.control);
    this.#thread = (Atomics.add(this.words, L.THREADS, 1) + 1) & 0x7ff;
  }

  static create(limits: L.LoopbackLimits): Machine {
    const layout = L.layoutOf(limits);
    return new Machine({
      memory: alignedSharedMemory(limits.frames * PAGE_SIZE),
      control: new SharedArrayBuffer(layout.words * 4),
      limits,
    });
  }

  /** Views of a frame, made once a thread. */
  frame(index: number): PageViews {
    let views = this.#views[index];
    if (views === undefined) {
      views = {
        words: new Int32Array(this.handle.memory, index * PAGE_SIZE, PAGE_SIZE / 4),
        bytes: new Uint8Array(this.handle.memory, index * PAGE_SIZE, PAGE_SIZE),
      };
      this.#views[index] = views;
    }
    return views;
  }

  // -- locks ---------------------------------------------------------------------------------------------------------

  lock(word: number): void {
    const { words } = this;
    this.#timesLocked = (this.#timesLocked + 2) & ((1 << LOCK_TIMES_BITS) - 1);
    const mine = (this.#thread << LOCK_TIMES_BITS) | this.#timesLocked | 1;
    let holder = Atomics.compareExchange(words, word, 0, mine);
    let waits = 0;
    while (holder !== 0) {
      waits = Atomics.wait(words, word, holder, 1) === 'timed-out' ? waits + 1 : 0;
      // The tables are consistent word by word, so whoever takes a dead thread's lock goes on; but only one may.
      if (waits > LOCK_PATIENCE && Atomics.compareExchange(words, word, holder, mine) === holder) return;
      holder = Atomics.compareExchange(words, word, 0, mine);
    }
  }

  unlock(word: number): void {
    const holder = Atomics.load(this.words, word);
    if (holder >>> LOCK_TIMES_BITS !== this.#thread) return; // we were presumed dead
    if (Atomics.compareExchange(this.words, word, holder, 0) === holder) Atomics.notify(this.words, word, 1);
  }

  // -- domains -------------------------------------------------------------------------------------------------------

  domain(domid: number): number {
    return this.layout.domains + domid * L.DOMAIN_WORDS;
  }

  isAlive(domid: number, generation: number): boolean {
    return generation !== 0 && this.generation(domid) === generation;
  }

  /** Generation of the living domain that has `domid` now, or 0 when there is none. */
  generation(domid: number): number {
    if (domid >= this.layout.limits.domains) return 0;
    const domain = this.domain(domid);
    if (Atomics.load(this.words, domain + L.DOMAIN_STATE) !== L.DOMAIN_ALIVE) return 0;
    return this.words[domain + L.DOMAIN_GENERATION]!;
  }

  /** @throws ErrnoError ESRCH unless the domain lives; what follows under the same lock is then undone by its death. */
  checkAlive({ domid, generation }: DomainOf, action: string): void {
    if (!this.isAlive(domid, generation)) throw new ErrnoError('ESRCH', action, { domid }, 'the domain is gone');
  }

  /** Takes the next free domid after the last one given out, as Xen's toolstack does. @throws ErrnoError ENOSPC. */
  createDomain(): Domid {
    const { words } = this;
    this.lock(L.LOCK);
    try {
      const { domains } = this.layout.limits;
      for (let tried = 0; tried < domains; tried++) {
        const candidate = (words[L.NEXT_DOMID]! + tried) % domains;
        const domain = this.domain(candidate);
        if (words[domain + L.DOMAIN_STATE] !== L.DOMAIN_ABSENT) continue;
        words[L.NEXT_DOMID] = (candidate + 1) % domains;
        // All but the lock, which a thread that knew the domid's last domain may be holding.
        words.fill(0, domain, domain + L.DOMAIN_GRANT_LOCK);
        words.fill(0, domain + L.DOMAIN_GRANT_LOCK + 1, domain + L.DOMAIN_WORDS);
        words[domain + L.DOMAIN_GENERATION] = ++words[L.GENERATIONS]!;
        words[domain + L.DOMAIN_GRANTS_TOUCHED] = L.RESERVED_GRANTS;
        Atomics.store(words, domain + L.DOMAIN_STATE, L.DOMAIN_ALIVE);
        return toDomid(candidate);
      }
    } finally {
      this.unlock(L.LOCK);
    }
    throw new ErrnoError('ENOSPC', `creating a domain (this machine holds ${this.layout.limits.domains})`);
  }

  /** Begins the destruction of a domain; false when it is gone already, or another thread is at it. */
  beginRemoval({ domid, generation }: DomainOf): boolean {
    this.lock(L.LOCK);
    const alive = this.isAlive(domid, generation);
    if (alive) Atomics.store(this.words, this.domain(domid) + L.DOMAIN_STATE, L.DOMAIN_DYING);
    this.unlock(L.LOCK);
    return alive;
  }

  /** Ends it: frees the frames and the domid. Frames that others have mapped live until the last unmap. */
  removeDomain(domid: Domid): void {
    const { words, layout } = this;
    this.lock(L.LOCK);
    try {
      Atomics.store(words, this.domain(domid) + L.DOMAIN_STATE, L.DOMAIN_ABSENT);
      // Downwards here and in releaseFrames, so that the list gives them out upwards, in one piece.
      for (let frame = words[L.FRAMES_TOUCHED]! - 1; frame >= 0; frame--) {
        const record = layout.frames + frame * L.FRAME_WORDS;
        if (words[record + L.FRAME_OWNER] !== domid + 1) continue;
        words[record + L.FRAME_OWNER] = 0;
        if (Atomics.load(words, record + L.FRAME_PINS) === 0) this.#link(frame);
      }
    } finally {
      this.unlock(L.LOCK);
    }
  }

  // -- frames --------------------------------------------------------------------------------------------------------

  /** Gives a domain `count` zeroed frames. @throws GrantError GNTST_no_space beyond its or the machine's pages. */
  allocateFrames(owner: DomainOf, count: number): number[] {
    const { words, layout } = this;
    const { domid } = owner;
    const domain = this.domain(domid);
    const taken: number[] = [];
    this.lock(L.LOCK);
    try {
      this.checkAlive(owner, `allocating ${count} pages`);
      if (words[domain + L.DOMAIN_PAGES]! + count > layout.limits.pagesPerDomain)
        throw new GrantError('GNTST_no_space', `allocating ${count} pages (limit ${layout.limits.pagesPerDomain})`, {
          domid,
        });
      // Several pages come in one piece where that is possible without a search.
      const fresh = !this.#freeInOnePiece(count) && words[L.FRAMES_TOUCHED]! + count <= layout.limits.frames;
      for (let index = 0; index < count; index++) {
        const frame = fresh ? words[L.FRAMES_TOUCHED]!++ : this.#unlink();
        if (frame === undefined) {
          for (const undo of taken) this.#link(undo);
          throw new GrantError(
            'GNTST_no_space',
            `allocating ${count} pages: no free frame is left of the machine's ${layout.limits.frames}`,
            { domid },
          );
        }
        taken.push(frame);
      }
      for (const frame of taken) words[layout.frames + frame * L.FRAME_WORDS + L.FRAME_OWNER] = domid + 1;
      words[domain + L.DOMAIN_PAGES]! += count;
    } finally {
      this.unlock(L.LOCK);
    }
    return taken;
  }

  releaseFrames({ domid, generation }: DomainOf, frames: readonly number[]): void {
    const { words, layout } = this;
    this.lock(L.LOCK);
    try {
      if (!this.isAlive(domid, generation)) return; // they went, or go, with their domain
      for (let index = frames.length - 1; index >= 0; index--) {
        const frame = frames[index]!;
        const record = layout.frames + frame * L.FRAME_WORDS;
        if (words[record + L.FRAME_OWNER] !== domid + 1) continue;
        words[record + L.FRAME_OWNER] = 0;
        words[this.domain(domid) + L.DOMAIN_PAGES]! -= 1;
        if (Atomics.load(words, record + L.FRAME_PINS) === 0) this.#link(frame);
      }
    } finally {
      this.unlock(L.LOCK);
    }
  }

  pinFrame(frame: number): void {
    Atomics.add(this.words, this.layout.frames + frame * L.FRAME_WORDS + L.FRAME_PINS, 1);
  }

  unpinFrame(frame: number): void {
    const record = this.layout.frames + frame * L.FRAME_WORDS;
    // Under the lock, or an owner that lets go at the same time would see no pins either and free the frame too.
    this.lock(L.LOCK);
    const last = Atomics.sub(this.words, record + L.FRAME_PINS, 1) === 1;
    if (last && this.words[record + L.FRAME_OWNER] === 0) this.#link(frame);
    this.unlock(L.LOCK);
  }

  /** Whether the next `count` frames of the list follow one another. */
  #freeInOnePiece(count: number): boolean {
    const { words, layout } = this;
    const head = words[L.FREE_FRAMES]!;
    let frame = head;
    for (let index = 1; index < count && frame !== 0; index++) {
      const next = words[layout.frames + (frame - 1) * L.FRAME_WORDS + L.FRAME_NEXT]!;
      if (next !== frame + 1) return false;
      frame = next;
    }
    return head !== 0 && frame === head + count - 1;
  }

  #unlink(): number | undefined {
    const { words, layout } = this;
    const head = words[L.FREE_FRAMES]!;
    if (head !== 0) {
      const frame = head - 1;
      words[L.FREE_FRAMES] = words[layout.frames + frame * L.FRAME_WORDS + L.FRAME_NEXT]!;
      this.frame(frame).words.fill(0);
      return frame;
    }
    const fresh = words[L.FRAMES_TOUCHED]!;
    if (fresh === layout.limits.frames) return undefined;
    words[L.FRAMES_TOUCHED] = fresh + 1;
    return fresh;
  }

  #link(frame: number): void {
    const { words, layout } = this;
    words[layout.frames + frame * L.FRAME_WORDS + L.FRAME_NEXT] = words[L.FREE_FRAMES]!;
    words[L.FREE_FRAMES] = frame + 1;
  }
}
