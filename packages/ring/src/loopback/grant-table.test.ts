import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { GrantError, GrantStatus, type GrantStatusName } from '../errors.ts';
import { GrantCopyBatch } from '../grant-copy.ts';
import { type Domid, domid, type GrantReference, grantReference } from '../identity.ts';
import { type GrantAccess, PAGE_SIZE, type SharedPages } from '../platform.ts';
import { LoopbackHypervisor } from './hypervisor.ts';
import type { LoopbackPlatform } from './loopback-platform.ts';

const LIMITS = { frames: 16, domains: 4, pagesPerDomain: 12, grantEntries: 20, maptrackEntries: 8 };

let hypervisor: LoopbackHypervisor;
let guest: LoopbackPlatform;
let host: LoopbackPlatform;
let third: LoopbackPlatform;
beforeEach(() => {
  hypervisor = LoopbackHypervisor.create('grants', LIMITS);
  [host, guest, third] = [0, 1, 2].map(() => hypervisor.openPlatform(hypervisor.createDomain())) as [
    LoopbackPlatform,
    LoopbackPlatform,
    LoopbackPlatform,
  ];
});
afterEach(() => {
  for (const platform of [host, guest, third]) platform.close();
});

const HOST = domid(0);
const GUEST = domid(1);

function statusOf(act: () => unknown): GrantStatusName {
  try {
    act();
  } catch (error) {
    if (error instanceof GrantError) return error.status;
    throw error;
  }
  return 'GNTST_okay';
}

function bytesOf(pages: SharedPages): Uint8Array {
  const bytes = new Uint8Array(pages.pageCount * PAGE_SIZE);
  pages.read(0, bytes, 0, bytes.length);
  return bytes;
}

/** How many pages a domain can still get; leaves it without any. */
function pagesLeft(platform: LoopbackPlatform): number {
  let count = 0;
  while (statusOf(() => platform.share(HOST, 1, 'read-write')) === 'GNTST_okay') count++;
  return count;
}

describe('mapping', () => {
  it('shows both domains the same zeroed bytes', () => {
    const granted = guest.share(HOST, 3, 'read-write');
    const mapped = host.map(GUEST, granted.references, 'read-write');
    expect(bytesOf(mapped).every((byte) => byte === 0)).toBe(true);
    granted.store32(PAGE_SIZE, 0xdeadbeef);
    mapped.store32(2 * PAGE_SIZE + 4, 5);
    expect(mapped.load32(PAGE_SIZE)).toBe(0xdeadbeef);
    expect(granted.load32(2 * PAGE_SIZE + 4)).toBe(5);
    expect(granted.references.every((reference) => reference >= 8)).toBe(true);
    expect([host.usage().mappedPages, guest.usage().grantedPages]).toEqual([3, 3]);
    mapped.unmap();
    mapped.unmap();
    expect(granted.endAccess()).toBe(true);
    expect(granted.endAccess()).toBe(true);
    expect(() => mapped.load32(0)).toThrow(GrantError);
    expect(() => granted.load32(0)).toThrow(GrantError);
  });

  it('gives the statuses that Xen gives', () => {
    const { references } = guest.share(HOST, 1, 'read-only');
    const map = (by: LoopbackPlatform, from: Domid, list: readonly GrantReference[], access: GrantAccess) =>
      statusOf(() => by.map(from, list, access));
    expect(map(host, GUEST, [grantReference(9)], 'read-only')).toBe('GNTST_bad_gntref');
    expect(map(host, GUEST, [grantReference(0xffffffff)], 'read-only')).toBe('GNTST_bad_gntref');
    expect(map(host, GUEST, [grantReference(3)], 'read-only')).toBe('GNTST_general_error'); // never granted
    expect(map(third, GUEST, references, 'read-only')).toBe('GNTST_general_error'); // granted to another
    expect(map(host, GUEST, references, 'read-write')).toBe('GNTST_general_error');
    expect(map(host, domid(3), references, 'read-only')).toBe('GNTST_bad_domain'); // nobody
    expect(map(host, domid(0x7fef), references, 'read-only')).toBe('GNTST_bad_domain');
    expect(map(host, GUEST, references, 'read-only')).toBe('GNTST_okay');
    hypervisor.destroyDomain(guest.identity);
    expect(map(host, GUEST, references, 'read-only')).toBe('GNTST_bad_domain');
  });

  it('maps all or nothing', () => {
    const granted = guest.share(HOST, 2, 'read-write');
    const list = [...granted.references, grantReference(2)];
    expect(() => host.map(GUEST, list, 'read-write')).toThrow(
      /domain 1: mapping grant reference 2: GNTST_general_error/,
    );
    expect(host.usage().mappedPages).toBe(0);
    expect(granted.endAccess()).toBe(true); // nothing was left pinned
    expect(guest.usage()).toEqual({ grantedPages: 0, quarantinedPages: 0, mappedPages: 0, eventPorts: 0 });
  });

  it('names the limit of mappings and leaves nothing behind at it', () => {
    const granted = guest.share(HOST, 9, 'read-write');
    expect(() => host.map(GUEST, granted.references, 'read-write')).toThrow(/limit 8 mappings.*GNTST_no_device_space/);
    const mapped = host.map(GUEST, granted.references.slice(0, 8), 'read-write');
    mapped.unmap();
    expect(granted.endAccess()).toBe(true);
  });

  it('counts every use of a page', () => {
    const granted = guest.share(HOST, 1, 'read-write');
    const [reference] = granted.references as [GrantReference];
    const mapped = host.map(GUEST, [reference, reference, reference], 'read-write');
    const again = host.map(GUEST, [reference], 'read-only');
    mapped.unmap();
    expect(granted.endAccess()).toBe(false);
    expect(guest.usage().quarantinedPages).toBe(1);
    again.unmap();
    expect(guest.usage().quarantinedPages).toBe(0);
  });
});

describe('ending access', () => {
  it('quarantines what is still mapped until it is let go', () => {
    const granted = guest.share(HOST, 2, 'read-write');
    granted.store32(0, 7);
    const mapped = host.map(GUEST, [granted.references[0]!], 'read-write');
    expect(granted.endAccess()).toBe(false);
    expect(granted.endAccess()).toBe(false);
    expect(guest.usage()).toMatchObject({ grantedPages: 0, quarantinedPages: 1 });
    expect(mapped.load32(0)).toBe(7);
    const others = guest.share(HOST, 11, 'read-write'); // all but the quarantined one
    expect(others.references).not.toContain(granted.references[0]);
    expect(bytesOf(others).every((byte) => byte === 0)).toBe(true);
    expect(statusOf(() => guest.share(HOST, 1, 'read-write'))).toBe('GNTST_no_space');
    mapped.unmap();
    const last = guest.share(HOST, 1, 'read-write'); // sweeps
    expect(guest.usage().quarantinedPages).toBe(0);
    expect(last.load32(0)).toBe(0);
  });

  it('leaves a reference useless', () => {
    const granted = guest.share(HOST, 1, 'read-write');
    granted.endAccess();
    expect(statusOf(() => host.map(GUEST, granted.references, 'read-only'))).toBe('GNTST_general_error');
  });

  it('frees what a closed platform could not take back once it is unmapped', () => {
    const other = hypervisor.openPlatform(guest.identity);
    const granted = other.share(HOST, 10, 'read-write');
    const ended = other.share(HOST, 1, 'read-write');
    const mapped = host.map(GUEST, [...granted.references.slice(0, 3), ...ended.references], 'read-write');
    expect(ended.endAccess()).toBe(false);
    other.close();
    expect(statusOf(() => host.map(GUEST, granted.references.slice(0, 1), 'read-only'))).toBe('GNTST_general_error');
    mapped.unmap();
    expect(pagesLeft(guest)).toBe(12);
  });

  it('zeroes pages before others get them', () => {
    const granted = guest.share(HOST, 12, 'read-write');
    granted.write(0, new Uint8Array(12 * PAGE_SIZE).fill(0x55), 0, 12 * PAGE_SIZE);
    granted.endAccess();
    const next = third.share(HOST, 12, 'read-write');
    expect(bytesOf(next).every((byte) => byte === 0)).toBe(true);
  });
});

describe('the view of granted pages', () => {
  it('is of the same bytes, where they lie in one piece, until the access ends', () => {
    const granted = guest.share(HOST, 3, 'read-write');
    const bytes = granted.unsafeBytes?.();
    expect(bytes?.length).toBe(3 * PAGE_SIZE);
    granted.store32(2 * PAGE_SIZE, 0x01020304);
    expect([...bytes!.subarray(2 * PAGE_SIZE, 2 * PAGE_SIZE + 4)]).toEqual([4, 3, 2, 1]);
    granted.endAccess();
    expect(granted.unsafeBytes?.()).toBeUndefined();
  });

  it('is not there for pages that lie apart', () => {
    const singles = Array.from({ length: 12 }, () => guest.share(HOST, 1, 'read-write'));
    third.share(HOST, 4, 'read-write');
    for (const index of [1, 5]) singles[index]!.endAccess();
    const apart = guest.share(HOST, 2, 'read-write');
    expect(apart.unsafeBytes?.()).toBeUndefined();
  });
});

describe('limits', () => {
  it('names each in its refusal, and an unfinished share leaves nothing', () => {
    expect(() => guest.share(HOST, 13, 'read-write')).toThrow(
      /domain 1: allocating 13 pages \(limit 12\).*GNTST_no_space/,
    );
    host.share(GUEST, 10, 'read-write');
    expect(() => guest.share(HOST, 7, 'read-write')).toThrow(
      /no free frame is left of the machine's 16: GNTST_no_space/,
    );
    expect(pagesLeft(guest)).toBe(6);
  });

  it('gives back pages and references when the grant table is full', () => {
    const small = LoopbackHypervisor.create('small', { ...LIMITS, grantEntries: 12 });
    const platform = small.openPlatform(small.createDomain());
    expect(() => platform.share(GUEST, 5, 'read-write')).toThrow(/limit 12 entries.*GNTST_no_space/);
    expect(platform.usage()).toEqual({ grantedPages: 0, quarantinedPages: 0, mappedPages: 0, eventPorts: 0 });
    expect(platform.share(GUEST, 4, 'read-write').pageCount).toBe(4);
    platform.close();
  });

  it.each([0, -1, 1.5, Number.NaN])('shares no %d pages', (count) => {
    expect(() => guest.share(HOST, count, 'read-write')).toThrow(RangeError);
    expect(pagesLeft(guest)).toBe(12);
  });

  it.each([
    { ports: 1 },
    { ports: 1025 },
    { domains: 0 },
    { domains: 0x7ff1 },
    { maptrackEntries: 65_536 },
    { grantEntries: 7 },
  ])('refuses a machine of %j', (limits) => {
    expect(() => LoopbackHypervisor.create('x', limits)).toThrow(RangeError);
  });
});

describe('the death of the granting domain', () => {
  it('leaves mapped frames to who mapped them, and frees the others', () => {
    const granted = guest.share(HOST, 12, 'read-write');
    granted.store32(0, 1);
    granted.store32(PAGE_SIZE, 2);
    const mapped = host.map(GUEST, granted.references.slice(0, 2), 'read-write');
    hypervisor.destroyDomain(guest.identity);
    const successor = hypervisor.openPlatform(hypervisor.createDomain());
    expect(successor.identity.domid).toBe(3);
    const pages = successor.share(HOST, 12, 'read-write');
    pages.write(0, new Uint8Array(12 * PAGE_SIZE).fill(0xff), 0, 12 * PAGE_SIZE);
    expect([mapped.load32(0), mapped.load32(PAGE_SIZE)]).toEqual([1, 2]);
    expect(pagesLeft(third)).toBe(2); // 16 - 12 - 2 that are mapped
    third.close();
    mapped.unmap();
    expect(pagesLeft(host)).toBe(4);
    successor.close();
  });

  it('does not let an old mapping touch the grants of the next domain with that domid', () => {
    const granted = guest.share(HOST, 1, 'read-write');
    const mapped = host.map(GUEST, granted.references, 'read-write');
    const old = guest.identity;
    for (const { identity } of [guest, third]) hypervisor.destroyDomain(identity);
    hypervisor.createDomain(); // 3
    hypervisor.createDomain();
    const heir = hypervisor.openPlatform(hypervisor.identify(domid(1))!);
    expect(heir.identity.domid).toBe(old.domid);
    const inherited = heir.share(HOST, 1, 'read-write');
    expect(inherited.references).toEqual(granted.references);
    const held = host.map(GUEST, inherited.references, 'read-write');
    mapped.unmap();
    expect(granted.endAccess()).toBe(true);
    guest.close();
    expect(inherited.endAccess()).toBe(false); // still mapped by `held` alone
    held.unmap();
    expect(heir.usage().quarantinedPages).toBe(0);
    heir.close();
  });
});

describe('the death of the mapping domain', () => {
  it('undoes its mappings', () => {
    const granted = guest.share(HOST, 2, 'read-write');
    const mapped = host.map(GUEST, granted.references, 'read-write');
    hypervisor.destroyDomain(host.identity);
    expect(granted.endAccess()).toBe(true);
    mapped.unmap(); // nothing is left to undo
    expect(pagesLeft(guest)).toBe(12);
  });
});

describe('copying', () => {
  it('goes both ways, at any offset', () => {
    const granted = guest.share(HOST, 2, 'read-write');
    const batch = new GrantCopyBatch(GUEST, 4);
    const local = Uint8Array.from({ length: 100 }, (_, index) => index + 1);
    const back = new Uint8Array(60);
    batch.addToGrant(granted.references[1]!, PAGE_SIZE - 50, local, 25, 50);
    batch.addFromGrant(granted.references[1]!, PAGE_SIZE - 40, back, 7, 40);
    batch.addFromGrant(granted.references[1]!, PAGE_SIZE - 3, back, 57, 3);
    host.copy(batch);
    expect([...batch.statuses.subarray(0, 3)]).toEqual([0, 0, 0]);
    const page = bytesOf(granted);
    expect(page.subarray(0, 2 * PAGE_SIZE - 50).every((byte) => byte === 0)).toBe(true);
    expect([...page.subarray(2 * PAGE_SIZE - 50)]).toEqual([...local.subarray(25, 75)]);
    expect([...back]).toEqual([
      ...new Array(7).fill(0),
      ...local.subarray(35, 75),
      ...new Array(10).fill(0),
      73,
      74,
      75,
    ]);
    expect(granted.endAccess()).toBe(true);
  });

  it('gives each operation its own status and does the others', () => {
    const writable = guest.share(HOST, 1, 'read-write');
    const readOnly = guest.share(HOST, 1, 'read-only');
    const others = guest.share(domid(2), 1, 'read-write');
    const batch = new GrantCopyBatch(GUEST, 8);
    const local = new Uint8Array(PAGE_SIZE).fill(3);
    batch.addToGrant(grantReference(99), 0, local, 0, 8);
    batch.addToGrant(grantReference(2), 0, local, 0, 8);
    batch.addToGrant(others.references[0]!, 0, local, 0, 8);
    batch.addToGrant(readOnly.references[0]!, 0, local, 0, 8);
    batch.addFromGrant(readOnly.references[0]!, 0, local, 0, 8);
    batch.addToGrant(writable.references[0]!, 0, local, 0, PAGE_SIZE);
    host.copy(batch);
    const { GNTST_bad_gntref, GNTST_general_error, GNTST_okay, GNTST_bad_domain } = GrantStatus;
    expect([...batch.statuses.subarray(0, 6)]).toEqual([
      GNTST_bad_gntref,
      GNTST_general_error,
      GNTST_general_error,
      GNTST_general_error,
      GNTST_okay,
      GNTST_okay,
    ]);
    expect([others.load32(0), readOnly.load32(0), writable.load32(PAGE_SIZE - 4)]).toEqual([0, 0, 0x03030303]);
    expect(local[0]).toBe(0);
    hypervisor.destroyDomain(guest.identity);
    host.copy(batch);
    expect([...batch.statuses.subarray(0, 6)]).toEqual(new Array(6).fill(GNTST_bad_domain));
  });

  it('does not reach the next domain with that domid by what it knew of the last', () => {
    const { references } = guest.share(HOST, 1, 'read-write');
    const batch = new GrantCopyBatch(GUEST, 1);
    batch.addToGrant(references[0]!, 0, new Uint8Array(8).fill(1), 0, 8);
    host.copy(batch);
    expect(batch.statuses[0]).toBe(GrantStatus.GNTST_okay);
    for (const { identity } of [guest, third]) hypervisor.destroyDomain(identity);
    for (let n = 0; n < 2; n++) hypervisor.createDomain();
    host.copy(batch);
    expect(batch.statuses[0]).toBe(GrantStatus.GNTST_bad_gntref);
  });
});
