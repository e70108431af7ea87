import fc from 'fast-check';
import { expect, it } from 'vitest';
import { GrantError, type GrantStatusName } from '../errors.ts';
import { type GrantReference, grantReference } from '../identity.ts';
import type { GrantAccess, GrantedPages, MappedPages } from '../platform.ts';
import { PAGE_SIZE } from '../platform.ts';
import { LoopbackHypervisor } from './hypervisor.ts';
import type { LoopbackPlatform } from './loopback-platform.ts';

const LIMITS = { frames: 16, domains: 3, pagesPerDomain: 8, grantEntries: 15, maptrackEntries: 6, ports: 2 };
const ENTRIES = LIMITS.grantEntries - 8;

/** A page as the model knows it: it lives while a domain owns it or a mapping holds it. */
interface ModelFrame {
  readonly tag: number;
  owned: boolean;
  mappings: number;
}
interface ModelEntry {
  readonly frame: ModelFrame;
  readonly to: number;
  readonly access: GrantAccess;
  uses: number;
  /** Its access was to be ended while it was mapped. */
  ended: boolean;
}
interface ModelDomain {
  platform: LoopbackPlatform;
  readonly entries: Map<GrantReference, ModelEntry>;
}
interface Share {
  readonly owner: LoopbackPlatform;
  readonly pages: GrantedPages;
}
interface Mapping {
  readonly user: LoopbackPlatform;
  readonly pages: MappedPages;
  readonly held: readonly ModelEntry[];
}

/** Drives a machine of three domains and a model of it, comparing every answer. */
class Model {
  readonly hypervisor = LoopbackHypervisor.create('model', LIMITS);
  readonly domains: ModelDomain[] = [];
  readonly frames = new Set<ModelFrame>();
  shares: Share[] = [];
  mappings: Mapping[] = [];
  #tags = 0;

  constructor() {
    for (let domid = 0; domid < LIMITS.domains; domid++)
      this.domains.push({ platform: this.#open(), entries: new Map() });
  }

  #open(): LoopbackPlatform {
    return this.hypervisor.openPlatform(this.hypervisor.createDomain());
  }

  share(owner: number, to: number, count: number, access: GrantAccess): void {
    const { platform, entries } = this.domains[owner]!;
    this.sweep(owner);
    const fits =
      entries.size + count <= Math.min(LIMITS.pagesPerDomain, ENTRIES) && this.frames.size + count <= LIMITS.frames;
    if (!fits) {
      expect(statusOf(() => platform.share(this.domains[to]!.platform.identity.domid, count, access))).toBe(
        'GNTST_no_space',
      );
      return;
    }
    const pages = platform.share(this.domains[to]!.platform.identity.domid, count, access);
    pages.references.forEach((reference, page) => {
      expect(entries.has(reference)).toBe(false);
      const frame: ModelFrame = { tag: ++this.#tags, owned: true, mappings: 0 };
      for (const offset of [0, PAGE_SIZE - 4]) {
        expect(pages.load32(page * PAGE_SIZE + offset)).toBe(0);
        pages.store32(page * PAGE_SIZE + offset, frame.tag);
      }
      this.frames.add(frame);
      entries.set(reference, { frame, to, access, uses: 0, ended: false });
    });
    this.shares.push({ owner: platform, pages });
  }

  map(user: number, from: number, picks: readonly number[], access: GrantAccess): void {
    const { platform } = this.domains[user]!;
    const { entries, platform: granting } = this.domains[from]!;
    const known = [...entries.keys()];
    const references = picks.map((pick) =>
      pick < 20 && known.length > 0 ? known[pick % known.length]! : grantReference(pick % LIMITS.grantEntries),
    );
    const held: ModelEntry[] = [];
    let room = LIMITS.maptrackEntries;
    for (const mapping of this.mappings) if (mapping.user === platform) room -= mapping.held.length;
    let expected: GrantStatusName[] = ['GNTST_okay'];
    for (const reference of references) {
      const entry = entries.get(reference);
      if (entry === undefined) expected = ['GNTST_bad_gntref', 'GNTST_general_error'];
      else if (entry.to !== user || (entry.access === 'read-only' && access === 'read-write'))
        expected = ['GNTST_general_error'];
      else if (held.length === room) expected = ['GNTST_no_device_space'];
      else {
        held.push(entry);
        continue;
      }
      break;
    }
    let pages: MappedPages | undefined;
    const status = statusOf(() => {
      pages = platform.map(granting.identity.domid, references, access);
    });
    expect(expected).toContain(status);
    if (pages === undefined) return;
    for (const entry of held) {
      entry.uses++;
      entry.frame.mappings++;
    }
    this.mappings.push({ user: platform, pages, held });
  }

  unmap(pick: number): void {
    const mapping = this.mappings[pick % this.mappings.length];
    if (mapping === undefined) return;
    mapping.pages.unmap();
    mapping.pages.unmap();
    this.#forgetMapping(mapping);
  }

  #forgetMapping(mapping: Mapping): void {
    this.mappings = this.mappings.filter((other) => other !== mapping);
    for (const entry of mapping.held) {
      entry.uses--;
      entry.frame.mappings--;
      this.#settle(entry.frame);
    }
  }

  #settle(frame: ModelFrame): void {
    if (!frame.owned && frame.mappings === 0) this.frames.delete(frame);
  }

  endAccess(pick: number): void {
    const share = this.shares[pick % this.shares.length];
    if (share === undefined) return;
    this.shares = this.shares.filter((other) => other !== share);
    const { entries } = this.domains[share.owner.identity.domid]!;
    let free = true;
    for (const reference of share.pages.references) {
      const entry = entries.get(reference)!;
      if (entry.uses === 0) this.#free(entries, reference);
      else {
        entry.ended = true;
        free = false;
      }
    }
    expect(share.pages.endAccess()).toBe(free);
    expect(share.pages.endAccess()).toBe(free);
  }

  #free(entries: Map<GrantReference, ModelEntry>, reference: GrantReference): void {
    const { frame } = entries.get(reference)!;
    entries.delete(reference);
    frame.owned = false;
    this.#settle(frame);
  }

  /** What every allocation and every look at the usage does first. */
  sweep(domain: number): void {
    const { platform, entries } = this.domains[domain]!;
    for (const [reference, entry] of entries) if (entry.ended && entry.uses === 0) this.#free(entries, reference);
    const ended = [...entries.values()].filter((entry) => entry.ended).length;
    let mappedPages = 0;
    for (const mapping of this.mappings) if (mapping.user === platform) mappedPages += mapping.held.length;
    expect(platform.usage()).toEqual({
      grantedPages: entries.size - ended,
      quarantinedPages: ended,
      mappedPages,
      eventPorts: 0,
    });
  }

  /** Destroys a domain and creates the next one, which gets the same domid, there being no other. */
  replace(domain: number, closeFirst: boolean): void {
    const { platform, entries } = this.domains[domain]!;
    if (closeFirst) platform.close();
    this.hypervisor.destroyDomain(platform.identity);
    this.hypervisor.destroyDomain(platform.identity);
    const late = this.mappings.filter(({ user }) => user === platform);
    for (const mapping of late) this.#forgetMapping(mapping);
    const dead = this.shares.filter(({ owner }) => owner === platform);
    this.shares = this.shares.filter(({ owner }) => owner !== platform);
    for (const reference of [...entries.keys()]) this.#free(entries, reference);
    this.domains[domain]!.platform = this.#open();
    expect(this.domains[domain]!.platform.identity.domid).toBe(domain);
    // What the dead one's thread still does must not touch the living.
    for (const { pages } of late) pages.unmap();
    for (const { pages } of dead) pages.endAccess();
    platform.close();
  }

  /** Every mapping must see the page that it was made of, whatever became of its owner. */
  checkContents(): void {
    for (const { pages, held } of this.mappings)
      held.forEach(({ frame }, page) => {
        expect(pages.load32(page * PAGE_SIZE)).toBe(frame.tag);
        expect(pages.load32((page + 1) * PAGE_SIZE - 4)).toBe(frame.tag);
      });
  }

  /** Ends everything; then every frame must be there to be had. */
  end(): void {
    while (this.mappings.length > 0) this.unmap(0);
    while (this.shares.length > 0) this.endAccess(0);
    for (const domain of this.domains.keys()) this.sweep(domain);
    expect(this.frames.size).toBe(0);
    this.share(0, 1, ENTRIES, 'read-write');
    this.share(1, 2, ENTRIES, 'read-write');
    this.share(2, 0, LIMITS.frames - 2 * ENTRIES, 'read-write');
    expect(this.frames.size).toBe(LIMITS.frames);
    this.share(2, 0, 1, 'read-write'); // refused
    for (const { platform } of this.domains) platform.close();
  }
}

function statusOf(act: () => unknown): GrantStatusName {
  try {
    act();
  } catch (error) {
    if (error instanceof GrantError) return error.status;
    throw error;
  }
  return 'GNTST_okay';
}

const domain = fc.nat(LIMITS.domains - 1);
const access = fc.constantFrom<GrantAccess>('read-write', 'read-only');
const step = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('share' as const),
      domain,
      to: domain,
      count: fc.integer({ min: 1, max: 4 }),
      access,
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('map' as const),
      domain,
      from: domain,
      picks: fc.array(fc.nat(22), { minLength: 1, maxLength: 3 }),
      access,
    }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('unmap' as const), pick: fc.nat(99) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('endAccess' as const), pick: fc.nat(99) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('sweep' as const), domain }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('replace' as const), domain, closeFirst: fc.boolean() }) },
);

it('three domains share, map, unmap, end and die as the model says, and every frame comes back', () => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 10, maxLength: 80 }), (steps) => {
      const model = new Model();
      for (const action of steps) {
        switch (action.kind) {
          case 'share':
            model.share(action.domain, action.to, action.count, action.access);
            break;
          case 'map':
            model.map(action.domain, action.from, action.picks, action.access);
            break;
          case 'unmap':
            model.unmap(action.pick);
            break;
          case 'endAccess':
            model.endAccess(action.pick);
            break;
          case 'sweep':
            model.sweep(action.domain);
            break;
          case 'replace':
            model.replace(action.domain, action.closeFirst);
            break;
        }
        model.checkContents();
      }
      model.end();
    }),
    { numRuns: 150 },
  );
});
