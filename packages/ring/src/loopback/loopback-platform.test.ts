import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ErrnoError } from '../errors.ts';
import { domid, type EventPort, eventPort } from '../identity.ts';
import { type Runtime, standardRuntime } from '../runtime.ts';
import { LoopbackHypervisor } from './hypervisor.ts';
import { DEFAULT_LIMITS } from './layout.ts';
import { LoopbackPlatform } from './loopback-platform.ts';
import { Machine } from './machine.ts';

const LIMITS = { frames: 8, domains: 4, pagesPerDomain: 8, grantEntries: 16, maptrackEntries: 8, ports: 200 };
const HOST = domid(0);
const GUEST = domid(1);

let hypervisor: LoopbackHypervisor;
let host: LoopbackPlatform;
let guest: LoopbackPlatform;
beforeEach(() => {
  hypervisor = LoopbackHypervisor.create('events', LIMITS);
  host = hypervisor.openPlatform(hypervisor.createDomain());
  guest = hypervisor.openPlatform(hypervisor.createDomain());
});
afterEach(() => {
  host.close();
  guest.close();
});

function errnoOf(act: () => unknown): string | undefined {
  try {
    act();
  } catch (error) {
    if (error instanceof ErrnoError) return error.errno;
    throw error;
  }
  return undefined;
}

const nextTurn = () => new Promise<void>((resolve) => setImmediate(resolve));
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await nextTurn();
}

/** A channel between the two; both ends count their events and ask for the next at once unless told otherwise. */
function channel() {
  const guestPort = guest.allocateUnbound(HOST);
  const hostPort = host.bindInterdomain(GUEST, guestPort);
  return { guestPort, hostPort };
}

function count(platform: LoopbackPlatform, port: EventPort, unmask = true) {
  const counter = { events: 0 };
  platform.listen(port, () => {
    counter.events++;
    if (unmask) platform.unmask(port);
  });
  return counter;
}

/** Waits until everything that was notified on `platform` so far has been delivered. */
async function delivered(platform: LoopbackPlatform): Promise<void> {
  const local = platform.allocateUnbound(platform.identity.domid);
  const remote = platform.bindInterdomain(platform.identity.domid, local);
  const counter = count(platform, local);
  for (let round = 1; round <= 2; round++) {
    platform.notify(remote);
    await until(() => counter.events === round);
  }
  platform.close(remote);
  platform.close(local);
}

describe('binding', () => {
  it('hands out ports from 1, and the lowest free one again', () => {
    const ports = [1, 2, 3].map(() => guest.allocateUnbound(HOST));
    expect(ports).toEqual([1, 2, 3]);
    guest.close(eventPort(2));
    expect(guest.allocateUnbound(HOST)).toBe(2);
    expect(guest.usage().eventPorts).toBe(3);
  });

  it('refuses what is not there to be bound', () => {
    const { guestPort } = channel();
    expect(errnoOf(() => host.bindInterdomain(GUEST, guestPort))).toBe('EINVAL'); // bound already
    expect(errnoOf(() => host.bindInterdomain(GUEST, eventPort(9)))).toBe('EINVAL'); // free
    expect(errnoOf(() => host.bindInterdomain(GUEST, eventPort(200)))).toBe('EINVAL'); // beyond the table
    expect(errnoOf(() => host.bindInterdomain(domid(3), guestPort))).toBe('ESRCH');
    expect(errnoOf(() => host.bindInterdomain(domid(999), guestPort))).toBe('ESRCH');
    const forAnother = guest.allocateUnbound(domid(2));
    expect(errnoOf(() => host.bindInterdomain(GUEST, forAnother))).toBe('EINVAL');
    expect(host.usage().eventPorts).toBe(1);
  });

  it('names the limit of ports', () => {
    for (let port = 1; port < LIMITS.ports; port++) guest.allocateUnbound(HOST);
    expect(() => guest.allocateUnbound(HOST)).toThrow(
      /domain 1: allocating an event channel \(limit 199 ports\): ENOSPC/,
    );
    const port = host.allocateUnbound(GUEST);
    expect(errnoOf(() => guest.bindInterdomain(HOST, port))).toBe('ENOSPC');
    expect(errnoOf(() => host.bindInterdomain(HOST, port))).toBe('EINVAL');
    guest.close(eventPort(77));
    expect(guest.bindInterdomain(HOST, port)).toBe(77);
  });

  it('gives the binder an event at once, since one may have been sent before it came', async () => {
    const { hostPort, guestPort } = channel();
    const [atHost, atGuest] = [count(host, hostPort), count(guest, guestPort)];
    await delivered(host);
    await delivered(guest);
    expect([atHost.events, atGuest.events]).toEqual([1, 0]);
  });

  it('has one handler a port, and none for a port that is not ours', () => {
    const { guestPort } = channel();
    count(guest, guestPort);
    expect(errnoOf(() => count(guest, guestPort))).toBe('EBUSY');
    expect(errnoOf(() => count(guest, eventPort(50)))).toBe('EINVAL');
    expect(errnoOf(() => guest.notify(eventPort(50)))).toBe('EINVAL');
  });
});

describe('events', () => {
  it('arrive in a later turn, and become one while the port is masked', async () => {
    const { hostPort, guestPort } = channel();
    const counter = count(guest, guestPort, false);
    host.notify(hostPort);
    expect(counter.events).toBe(0);
    await until(() => counter.events === 1);
    for (let n = 0; n < 5; n++) host.notify(hostPort);
    await delivered(guest);
    expect(counter.events).toBe(1); // masked since before the handler ran
    guest.unmask(guestPort);
    await until(() => counter.events === 2);
    guest.unmask(guestPort);
    await delivered(guest);
    expect(counter.events).toBe(2);
  });

  it('that come while the handler runs are not lost', async () => {
    const { hostPort, guestPort } = channel();
    let events = 0;
    guest.listen(guestPort, () => {
      if (++events === 1) host.notify(hostPort);
      guest.unmask(guestPort);
    });
    host.notify(hostPort);
    await until(() => events === 2);
    await delivered(guest);
    expect(events).toBe(2);
  });

  it('wait for a listener', async () => {
    const { hostPort, guestPort } = channel();
    host.notify(hostPort);
    host.notify(hostPort);
    await delivered(guest);
    const counter = count(guest, guestPort);
    await until(() => counter.events === 1);
    await delivered(guest);
    expect(counter.events).toBe(1);
  });

  it('go between the ends of one domain as well', async () => {
    const a = guest.allocateUnbound(GUEST);
    const b = guest.bindInterdomain(GUEST, a);
    const counter = count(guest, a);
    guest.notify(b);
    await until(() => counter.events === 1);
  });

  it('reach every port of a busy domain, in turns that let others run', async () => {
    const channels = Array.from({ length: LIMITS.ports - 1 }, () => channel());
    const seen = new Map<EventPort, number>();
    let thisTurn = 0;
    let most = 0;
    let running = true;
    const turns = () => {
      thisTurn = 0;
      if (running) setImmediate(turns);
    };
    turns();
    for (const { guestPort, hostPort } of channels)
      guest.listen(guestPort, () => {
        most = Math.max(most, ++thisTurn);
        seen.set(guestPort, (seen.get(guestPort) ?? 0) + 1);
        // Always busy: there is an event for it again before the next turn.
        guest.unmask(guestPort);
        host.notify(hostPort);
      });
    for (const { hostPort } of channels) host.notify(hostPort);
    await until(() => seen.size === channels.length);
    expect(most).toBeGreaterThan(1);
    expect(most).toBeLessThanOrEqual(128); // two deliveries of 64 may meet between two looks at it
    // None runs away from the others.
    const before = new Map(seen);
    await until(() => channels.every(({ guestPort }) => seen.get(guestPort)! >= before.get(guestPort)! + 3));
    const counts = [...seen.values()];
    expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(2);
    running = false;
  });

  it('work with the highest port that there can be', async () => {
    const wide = LoopbackHypervisor.create('wide', { ...LIMITS, ports: 1024 });
    const [a, b] = [0, 1].map(() => wide.openPlatform(wide.createDomain())) as [LoopbackPlatform, LoopbackPlatform];
    let last = eventPort(1);
    for (let port = 1; port < 1024; port++) last = a.allocateUnbound(GUEST);
    expect(last).toBe(1023);
    const remote = b.bindInterdomain(HOST, last);
    const counters = [count(a, last), count(a, eventPort(31))];
    const lower = b.bindInterdomain(HOST, eventPort(31));
    b.notify(remote);
    b.notify(lower);
    await until(() => counters.every(({ events }) => events === 1));
    a.close();
    b.close();
  });
});

describe('a handler that throws', () => {
  it('surfaces in a turn of its own, and the other ports get their events', async () => {
    const machine = Machine.create({ ...DEFAULT_LIMITS, ...LIMITS });
    const surfaced: unknown[] = [];
    const runtime: Runtime = {
      ...standardRuntime(),
      nextTurn: (callback) =>
        setImmediate(() => {
          try {
            callback();
          } catch (error) {
            surfaced.push(error);
          }
        }),
    };
    const identity = { instance: hypervisor.instance, domid: machine.createDomain(), generation: 1 };
    const platform = new LoopbackPlatform(machine, identity, runtime);
    const pairs = Array.from({ length: 3 }, () => {
      const port = platform.allocateUnbound(identity.domid);
      return { port, remote: platform.bindInterdomain(identity.domid, port) };
    });
    let others = 0;
    const failure = new Error('a bug of ours');
    pairs.forEach(({ port, remote }, index) => {
      platform.listen(port, () => {
        if (index === 1) throw failure;
        others++;
      });
      platform.notify(remote);
    });
    await until(() => others === 2 && surfaced.length === 1);
    expect(surfaced).toEqual([failure]);
    platform.close();
  });
});

describe('closing a port', () => {
  it('ends its events, and notifying its other end does nothing', async () => {
    const { hostPort, guestPort } = channel();
    const counter = count(guest, guestPort);
    host.notify(hostPort); // under way when it closes
    guest.close(guestPort);
    guest.close(guestPort);
    host.notify(hostPort);
    await delivered(guest);
    expect(counter.events).toBe(0);
    expect(errnoOf(() => guest.notify(guestPort))).toBe('EINVAL');
    guest.unmask(guestPort);
    expect(guest.usage().eventPorts).toBe(0);
  });

  it('leaves the other end unbound, to be bound anew', async () => {
    const { hostPort, guestPort } = channel();
    const counter = count(guest, guestPort);
    host.close(hostPort);
    guest.notify(guestPort);
    const again = host.bindInterdomain(GUEST, guestPort);
    const atHost = count(host, again);
    host.notify(again);
    guest.notify(guestPort);
    await until(() => counter.events === 1 && atHost.events === 1);
  });

  it('gives its successor none of its events', async () => {
    const { hostPort, guestPort } = channel();
    count(guest, guestPort);
    host.notify(hostPort);
    guest.close(guestPort);
    host.close(hostPort);
    const next = guest.allocateUnbound(HOST);
    expect(next).toBe(guestPort);
    const counter = count(guest, next);
    await delivered(guest);
    expect(counter.events).toBe(0);
    // And the successor still gets its own.
    host.notify(host.bindInterdomain(GUEST, next));
    await until(() => counter.events === 1);
  });

  it('by its own handler is allowed', async () => {
    const { hostPort, guestPort } = channel();
    let events = 0;
    guest.listen(guestPort, () => {
      events++;
      guest.close(guestPort);
      guest.unmask(guestPort);
    });
    host.notify(hostPort);
    await until(() => events === 1);
    host.notify(hostPort);
    await delivered(guest);
    expect(events).toBe(1);
  });
});

describe('a platform', () => {
  it('counts what it holds, and holds nothing once closed', async () => {
    const { guestPort } = channel();
    const counter = count(guest, guestPort);
    const granted = guest.share(HOST, 2, 'read-write');
    const theirs = host.share(GUEST, 1, 'read-only');
    const mapped = guest.map(HOST, theirs.references, 'read-only');
    const held = host.map(GUEST, granted.references.slice(0, 1), 'read-write');
    expect(guest.usage()).toEqual({ grantedPages: 2, quarantinedPages: 0, mappedPages: 1, eventPorts: 1 });
    expect(granted.endAccess()).toBe(false);
    expect(guest.usage()).toEqual({ grantedPages: 0, quarantinedPages: 1, mappedPages: 1, eventPorts: 1 });
    guest.close();
    guest.close();
    expect(guest.usage()).toEqual({ grantedPages: 0, quarantinedPages: 0, mappedPages: 0, eventPorts: 0 });
    expect(() => mapped.load32(0)).toThrow(/GNTST_bad_handle/);
    expect(theirs.endAccess()).toBe(true);
    held.unmap();
    for (const use of [
      () => guest.share(HOST, 1, 'read-only'),
      () => guest.map(HOST, theirs.references, 'read-only'),
      () => guest.allocateUnbound(HOST),
      () => guest.openStoreRing(),
    ])
      expect(errnoOf(use)).toBe('ESRCH');
    await delivered(host);
    expect(counter.events).toBe(0);
  });

  it('is one of several of its domain, each with its own events', async () => {
    const second = hypervisor.openPlatform(guest.identity);
    const { hostPort } = channel();
    const guestPort = second.allocateUnbound(HOST);
    const remote = host.bindInterdomain(GUEST, guestPort);
    const counter = count(second, guestPort);
    host.notify(hostPort);
    host.notify(remote);
    await until(() => counter.events === 1);
    expect(errnoOf(() => guest.notify(guestPort))).toBe('EINVAL');
    second.close();
    expect(errnoOf(() => host.bindInterdomain(GUEST, guestPort))).toBe('EINVAL'); // went with its platform
    host.notify(remote);
    expect(guest.usage().eventPorts).toBe(1);
  });

  it('gives away its place in the machine: closed ones and those of dead domains do not use it up', () => {
    for (let n = 0; n < 100; n++) hypervisor.openPlatform(guest.identity).close();
    const open: LoopbackPlatform[] = [];
    expect(() => {
      for (;;) open.push(hypervisor.openPlatform(guest.identity));
    }).toThrow(/opening a platform \(this machine allows 22\): ENOSPC/);
    hypervisor.destroyDomain(guest.identity);
    const identity = hypervisor.createDomain();
    const heirs = open.map(() => hypervisor.openPlatform(identity));
    for (const platform of open) platform.close(); // their places are others' now
    expect(errnoOf(() => heirs.push(hypervisor.openPlatform(identity), hypervisor.openPlatform(identity)))).toBe(
      'ENOSPC',
    );
    for (const platform of heirs) platform.close();
  });

  it('makes buffers of the length that was asked for', () => {
    expect(host.allocateBuffer(5000)).toEqual(new Uint8Array(5000));
  });
});

describe('a domain that was destroyed', () => {
  it('is gone for its own threads and for others', async () => {
    const { hostPort, guestPort } = channel();
    const counter = count(guest, guestPort);
    host.notify(hostPort);
    hypervisor.destroyDomain(guest.identity);
    hypervisor.destroyDomain(guest.identity);
    expect(errnoOf(() => guest.allocateUnbound(HOST))).toBe('ESRCH');
    expect(errnoOf(() => guest.bindInterdomain(HOST, hostPort))).toBe('ESRCH');
    guest.notify(guestPort);
    guest.unmask(guestPort);
    host.notify(hostPort);
    await delivered(host);
    expect(counter.events).toBe(0);
    guest.close();
    expect(guest.usage()).toEqual({ grantedPages: 0, quarantinedPages: 0, mappedPages: 0, eventPorts: 0 });
  });

  it('leaves no port to the next with its domid, and takes none from it', async () => {
    const old = guest;
    const { guestPort, hostPort } = channel();
    count(old, guestPort);
    hypervisor.destroyDomain(old.identity);
    for (let n = 0; n < 3; n++) hypervisor.createDomain();
    const identity = hypervisor.identify(GUEST);
    expect(identity).toEqual({ instance: 'loopback:events', domid: 1, generation: 5 });
    guest = hypervisor.openPlatform(identity!);
    const port = guest.allocateUnbound(HOST);
    expect(port).toBe(guestPort);
    const counter = count(guest, port);
    host.notify(host.bindInterdomain(GUEST, port));
    old.close(guestPort);
    old.unmask(guestPort);
    await until(() => counter.events === 1);
    old.close();
    expect(errnoOf(() => host.bindInterdomain(GUEST, port))).toBe('EINVAL'); // still bound
    host.notify(hostPort); // its other end has closed
    await delivered(guest);
    expect(counter.events).toBe(1);
  });
});
