import { expect, it } from 'vitest';
import { domid, grantReference, sameDomain } from '../identity.ts';
import { LoopbackHypervisor } from './hypervisor.ts';
import * as L from './layout.ts';
import { Machine } from './machine.ts';

const LIMITS = { frames: 8, domains: 3, pagesPerDomain: 8, grantEntries: 16, maptrackEntries: 8, ports: 8 };
const NONE = { grantedPages: 0, quarantinedPages: 0, mappedPages: 0, eventPorts: 0 };

it('gives out domids in turn, each life of one its own generation', () => {
  const hypervisor = LoopbackHypervisor.create('lives', LIMITS);
  const domains = [0, 1, 2].map(() => hypervisor.createDomain());
  expect(domains.map((domain) => domain.domid)).toEqual([0, 1, 2]);
  expect(() => hypervisor.createDomain()).toThrow(/creating a domain \(this machine holds 3\): ENOSPC/);
  expect(hypervisor.identify(domid(1))).toEqual(domains[1]);
  hypervisor.destroyDomain(domains[1]!);
  expect(hypervisor.isAlive(domains[1]!)).toBe(false);
  expect(hypervisor.identify(domid(1))).toBeUndefined();
  expect(hypervisor.identify(domid(3))).toBeUndefined();
  expect(hypervisor.identify(domid(0x7fef))).toBeUndefined();
  const heir = hypervisor.createDomain();
  expect(heir.domid).toBe(1);
  expect(sameDomain(heir, domains[1]!)).toBe(false);
  hypervisor.destroyDomain(domains[1]!); // long gone: must not touch its heir
  expect([hypervisor.isAlive(heir), hypervisor.isAlive(domains[1]!)]).toEqual([true, false]);
});

it('takes the name of its instance, and refuses one that is none', () => {
  expect(LoopbackHypervisor.create('a', LIMITS).instance).toBe('loopback:a');
  expect(() => LoopbackHypervisor.create('a b', LIMITS)).toThrow(/not an instance name/);
});

it('is the same machine for whoever attaches to it', () => {
  const first = LoopbackHypervisor.create('shared', LIMITS);
  const identity = first.createDomain();
  const second = LoopbackHypervisor.attach(first.handle);
  expect(second.identify(identity.domid)).toEqual(identity);
  second.destroyDomain(identity);
  expect(first.isAlive(identity)).toBe(false);
});

it('leaves a domain its xenstore ring', async () => {
  const hypervisor = LoopbackHypervisor.create('store', LIMITS);
  const [store, guest] = [0, 1].map(() => hypervisor.openPlatform(hypervisor.createDomain()));
  expect(() => guest!.openStoreRing()).toThrow(/domain 1: opening the xenstore ring: ENODEV/);
  const { port } = hypervisor.buildStoreRing(guest!.identity, store!.identity.domid);
  const remote = store!.bindInterdomain(guest!.identity.domid, port);
  const page = store!.map(guest!.identity.domid, [grantReference(1)], 'read-write');
  store!.notify(remote); // before the domain runs

  const ring = guest!.openStoreRing();
  expect(ring.port).toBe(port);
  expect(ring.pages.pageCount).toBe(1);
  const seen = new Promise<void>((resolve) => guest!.listen(ring.port, resolve));
  await seen;
  ring.pages.store32(2048, 77);
  expect(page.load32(2048)).toBe(77);
  page.unmap();
  store!.close();
  guest!.close();
  expect([store!.usage(), guest!.usage()]).toEqual([NONE, NONE]);
  expect(() => hypervisor.buildStoreRing({ ...guest!.identity, generation: 99 }, domid(0))).toThrow(/ESRCH/);
});

it('goes on after a thread died within a lock, and lets that thread not unlock another', () => {
  const dead = Machine.create({ ...L.DEFAULT_LIMITS, ...LIMITS });
  const machine = new Machine(dead.handle);
  dead.lock(L.LOCK);
  const started = performance.now();
  machine.lock(L.LOCK);
  expect(performance.now() - started).toBeGreaterThan(500);
  dead.unlock(L.LOCK);
  expect(machine.words[L.LOCK]).not.toBe(0);
  machine.unlock(L.LOCK);
  expect(machine.words[L.LOCK]).toBe(0);
  dead.lock(L.LOCK);
  dead.unlock(L.LOCK);
  expect(machine.words[L.LOCK]).toBe(0);
});
