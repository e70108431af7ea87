/** What one thread does while another destroys its domain, step by step; `threads.test.ts` has them truly at once. */
import { beforeEach, describe, expect, it } from 'vitest';
import { GrantStatus } from '../errors.ts';
import { domid, eventPort, grantReference } from '../identity.ts';
import { GrantTable } from './grant-table.ts';
import * as L from './layout.ts';
import { type DomainOf, Machine } from './machine.ts';
import { Maptrack } from './maptrack.ts';
import { PortTable } from './port-table.ts';

const LIMITS = { frames: 4, domains: 2, pagesPerDomain: 4, grantEntries: 16, maptrackEntries: 4, ports: 4 };
const HOST = domid(0);
const GUEST = domid(1);

let machine: Machine;
let host: DomainOf;
let guest: DomainOf;
const create = (): DomainOf => {
  const id = machine.createDomain();
  return { domid: id, generation: machine.generation(id) };
};
beforeEach(() => {
  machine = Machine.create(LIMITS);
  host = create();
  guest = create();
});

/** All of a domain's resets, in the order of its destruction. */
function destroy(domain: DomainOf): void {
  new PortTable(machine, domain).reset();
  new Maptrack(machine, domain).reset();
  new GrantTable(machine, domain).reset();
  machine.removeDomain(domain.domid);
}

describe('a domain that is being destroyed', () => {
  it('is destroyed by one thread only, and keeps its domid until the end', () => {
    expect(machine.beginRemoval(guest)).toBe(true);
    expect(machine.beginRemoval(guest)).toBe(false);
    expect(machine.isAlive(guest.domid, guest.generation)).toBe(false);
    expect(() => machine.createDomain()).toThrow(/ENOSPC/);
    destroy(guest);
    expect(machine.createDomain()).toBe(GUEST);
  });

  it('gets nothing any more, nor does anyone of it', () => {
    const frames = machine.allocateFrames(host, 1);
    const reference = new GrantTable(machine, host).grant(GUEST, frames[0]!, 'read-write')!;
    const ours = machine.allocateFrames(guest, 1);
    const table = new GrantTable(machine, guest);
    const given = table.grant(HOST, ours[0]!, 'read-write')!;
    const ports = new PortTable(machine, guest);
    const port = ports.allocateUnbound(HOST, 0);
    machine.beginRemoval(guest);
    const gone = expect.objectContaining({ errno: 'ESRCH' });
    expect(() => ports.allocateUnbound(HOST, 0)).toThrow(gone);
    expect(() => new PortTable(machine, host).bindInterdomain(GUEST, port, 0)).toThrow(gone);
    expect(() => machine.allocateFrames(guest, 1)).toThrow(gone);
    expect(() => table.grant(HOST, ours[0]!, 'read-write')).toThrow(gone);
    expect(new Maptrack(machine, guest).map(HOST, reference, true)).toBe(GrantStatus.GNTST_bad_domain);
    expect(new GrantTable(machine, host).endAccess(reference)).toBe(true); // that left no use of it
    expect(new Maptrack(machine, host).map(GUEST, given, true)).toBe(GrantStatus.GNTST_bad_domain);
    expect(table.endAccess(given)).toBe(true);
    expect(table.abandon(given)).toBe(true);
  });

  it('cannot reach the domain that has its domid next', () => {
    const frames = machine.allocateFrames(guest, LIMITS.frames);
    machine.beginRemoval(guest);
    destroy(guest);
    const heir = create();
    expect(heir.domid).toBe(guest.domid);
    const its = machine.allocateFrames(heir, LIMITS.frames);
    expect([...its].sort()).toEqual([...frames].sort());
    const port = new PortTable(machine, heir).allocateUnbound(HOST, 0);
    machine.releaseFrames(guest, frames);
    new PortTable(machine, guest).close(port);
    expect(() => machine.allocateFrames(host, 1)).toThrow(/GNTST_no_space/);
    expect(new PortTable(machine, host).bindInterdomain(GUEST, port, 0)).toBe(1);
  });
});

describe('a frame', () => {
  it('is freed once, whoever lets go of it last', () => {
    for (const ownerFirst of [true, false]) {
      const [frame] = machine.allocateFrames(guest, 1) as [number];
      machine.pinFrame(frame);
      machine.pinFrame(frame);
      if (ownerFirst) machine.releaseFrames(guest, [frame]);
      machine.unpinFrame(frame);
      machine.unpinFrame(frame);
      if (!ownerFirst) machine.releaseFrames(guest, [frame]);
      const all = machine.allocateFrames(host, LIMITS.frames);
      expect(new Set(all).size).toBe(LIMITS.frames);
      machine.releaseFrames(host, all);
    }
  });
});

describe('a port', () => {
  it('keeps its event for the attachment that adopts it', () => {
    const guestPorts = new PortTable(machine, guest);
    const hostPorts = new PortTable(machine, host);
    const port = guestPorts.allocateUnbound(HOST, L.NO_ATTACHMENT);
    const remote = hostPorts.bindInterdomain(GUEST, port, 0);
    hostPorts.notify(remote);
    const last = machine.layout.attachmentCount - 1;
    guestPorts.adopt(port, last);
    guestPorts.unmask(port);
    const ready = machine.layout.attachments + last * machine.layout.attachmentWords + L.ATTACHMENT_READY;
    expect(machine.words[ready]).toBe(1 << port);
    expect(guestPorts.begin(port)).toBe(true);
    expect(guestPorts.begin(port)).toBe(false); // masked
    guestPorts.unmask(port);
    expect(guestPorts.begin(port)).toBe(false); // and without another event
  });

  it('is refused where there is none', () => {
    const ports = new PortTable(machine, host);
    expect(() => ports.bindInterdomain(GUEST, eventPort(1), 0)).toThrow(/EINVAL/);
    expect(() => ports.bindInterdomain(GUEST, eventPort(4), 0)).toThrow(/EINVAL/);
  });
});

describe('reserved grants', () => {
  it('are filled in by number and never handed out', () => {
    const table = new GrantTable(machine, guest);
    const [frame] = machine.allocateFrames(guest, 1) as [number];
    for (const index of [-1, 8, Number.NaN]) expect(() => table.grantReserved(index, HOST, frame)).toThrow(RangeError);
    const reference = table.grantReserved(1, HOST, frame);
    expect(reference).toBe(1);
    expect(table.acquire(1, HOST, true)).toBe(frame);
    expect(table.endAccess(reference)).toBe(false);
    table.release(1, frame, true);
    expect(table.endAccess(reference)).toBe(true);
    expect(table.grant(HOST, frame, 'read-only')).toBe(grantReference(8));
  });
});
