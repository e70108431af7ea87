/**
 * The loopback machine: frames and domains in shared memory. Any thread that holds the two buffers sees the same
 * machine; each operation takes a short lock, as a hypercall would.
 */
import { ErrnoError, GrantError } from '../errors.ts';
import { type Domid, domid as toDomid } from '../identity.ts';
import type { PageViews } from '../paged-memory.ts';
import { PAGE_SIZE } from '../platform.ts';
import * as L from './layout.ts';

/** What another thread needs to use the same machine; may be posted to a worker. */
export interface MachineHandle {
  readonly memory: SharedArrayBuffer;
  readonly control: SharedArrayBuffer;
  readonly limits: L.LoopbackLimits;
}

/** How long a lock may stay taken before its holder is presumed dead (a terminated worker). */
const LOCK_PATIENCE_MS = 1000;

export class Machine {
  readonly handle: MachineHandle;
  readonly layout: L.Layout;
  readonly words: Int32Array;
  readonly #views: (PageViews | undefined)[] = [];

  constructor(handle: MachineHandle) {
    this.handle = handle;
    this.layout = L.layoutOf(handle.limits);
    this.words = new Int32Array(handle.control);
  }

  static create(limits: L.LoopbackLimits): Machine {
    const layout = L.layoutOf(limits);
    return new Machine({
      memory: new SharedArrayBuffer(limits.frames * PAGE_SIZE),
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
    if (Atomics.compareExchange(this.words, word, 0, 1) === 0) return;
    const deadline = Date.now() + LOCK_PATIENCE_MS;
    while (Atomics.compareExchange(this.words, word, 0, 1) !== 0) {
      Atomics.wait(this.words, word, 1, 1);
      if (Date.now() > deadline) return; // its thread died inside: the tables are consistent word by word, so go on
    }
  }

  unlock(word: number): void {
    Atomics.store(this.words, word, 0);
    Atomics.notify(this.words, word, 1);
  }

  // -- domains -------------------------------------------------------------------------------------------------------

  domain(domid: number): number {
    return this.layout.domains + domid * L.DOMAIN_WORDS;
  }

  isAlive(domid: number, generation?: number): boolean {
    if (domid >= this.layout.limits.domains) return false;
    const domain = this.domain(domid);
    return (
      Atomics.load(this.words, domain + L.DOMAIN_STATE) === L.DOMAIN_ALIVE &&
      (generation === undefined || this.words[domain + L.DOMAIN_GENERATION] === generation)
    );
  }

  generation(domid: number): number {
    return this.words[this.domain(domid) + L.DOMAIN_GENERATION]!;
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
        words.fill(0, domain, domain + L.DOMAIN_WORDS);
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

  /** Marks a domain as gone and frees its frames; frames that others have mapped live until the last unmap. */
  removeDomain(domid: Domid): void {
    const { words, layout } = this;
    this.lock(L.LOCK);
    try {
      Atomics.store(words, this.domain(domid) + L.DOMAIN_STATE, L.DOMAIN_ABSENT);
      for (let frame = 0; frame < words[L.FRAMES_TOUCHED]!; frame++) {
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
  allocateFrames(domid: Domid, count: number): number[] {
    const { words, layout } = this;
    const domain = this.domain(domid);
    const taken: number[] = [];
    this.lock(L.LOCK);
    try {
      if (words[domain + L.DOMAIN_PAGES]! + count > layout.limits.pagesPerDomain)
        throw new GrantError('GNTST_no_space', `allocating ${count} pages (limit ${layout.limits.pagesPerDomain})`, {
          domid,
        });
      for (let index = 0; index < count; index++) {
        const frame = this.#unlink();
        if (frame === undefined) {
          for (const undo of taken) this.#link(undo);
          throw new GrantError('GNTST_no_space', `allocating ${count} pages: the machine has no free frame`, { domid });
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

  releaseFrames(domid: Domid, frames: readonly number[]): void {
    const { words, layout } = this;
    this.lock(L.LOCK);
    try {
      for (const frame of frames) {
        const record = layout.frames + frame * L.FRAME_WORDS;
        if (words[record + L.FRAME_OWNER] !== domid + 1) continue; // went with its domain
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
    if (Atomics.sub(this.words, record + L.FRAME_PINS, 1) !== 1 || this.words[record + L.FRAME_OWNER] !== 0) return;
    this.lock(L.LOCK);
    if (this.words[record + L.FRAME_OWNER] === 0) this.#link(frame);
    this.unlock(L.LOCK);
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
