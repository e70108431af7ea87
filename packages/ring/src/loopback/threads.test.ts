/** Two threads on one machine. The worker runs the sources as they are now, bundled here, not a build of earlier ones. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { buildSync } from 'esbuild';
import { expect, it } from 'vitest';
import { PvError } from '../errors.ts';
import { type Domid, domid, grantReference } from '../identity.ts';
import { PAGE_SIZE } from '../platform.ts';
import { FrontRing } from '../request-ring.ts';
import { type LoopbackHandle, LoopbackHypervisor } from './hypervisor.ts';

const NONE = { grantedPages: 0, quarantinedPages: 0, mappedPages: 0, eventPorts: 0 };

const PROGRAM = `
import { parentPort, workerData } from 'node:worker_threads';
import { BackRing, domid, eventPort, grantReference, PvError } from '../index.ts';
import { LoopbackHypervisor } from './index.ts';

const { handle, role } = workerData;
const hypervisor = LoopbackHypervisor.attach(handle);
const open = (id) => hypervisor.openPlatform(hypervisor.identify(domid(id)));

/** Answers every request with the sum of its words, until told to stop. */
function answer({ references, port, slotBytes, start }) {
  const platform = open(1);
  const pages = platform.map(domid(0), references.map(grantReference), 'read-write');
  const ring = BackRing.attach(pages, slotBytes, start);
  const local = platform.bindInterdomain(domid(0), eventPort(port));
  const request = new Int32Array(slotBytes / 4);
  const response = new Int32Array(2);
  platform.listen(local, () => {
    do {
      while (ring.take(request)) {
        response[0] = request[0];
        response[1] = request.reduce((sum, word) => (sum + word) | 0, 0);
        ring.put(response);
      }
      if (ring.push()) platform.notify(local);
    } while (ring.finalCheck());
    platform.unmask(local);
  });
  parentPort.on('message', () => {
    platform.close();
    parentPort.postMessage(platform.usage());
    parentPort.close();
  });
}

/** Shares and maps at random with the domain of another thread; sees only what that wrote, as long as it is mapped. */
function trade({ self, other, rounds }) {
  const platform = open(self);
  let seed = self;
  const random = (below) => (seed = Math.imul(seed ^ (seed >>> 15), 0x2c1b3c6d) + 0x9e3779b9 | 0) >>> 8 & 0xffff && (seed >>> 8) % below;
  const shares = [];
  const mappings = [];
  let mapped = 0;
  for (let round = 0; round < rounds; round++) {
    try {
      if (shares.length < 3) {
        const pages = platform.share(domid(other), 1 + random(3), 'read-write');
        for (let page = 0; page < pages.pageCount; page++) {
          if (pages.load32(page * 4096) !== 0) throw new Error('a page that is not zero');
          pages.store32(page * 4096, self);
        }
        shares.push(pages);
      } else shares.splice(random(3), 1)[0].endAccess();
      const pages = platform.map(domid(other), [grantReference(8 + random(8))], 'read-write');
      mappings.push(pages);
      mapped++;
    } catch (error) {
      if (!(error instanceof PvError)) throw error;
    }
    for (const pages of mappings) {
      const owner = pages.load32(0);
      if (owner !== 0 && owner !== other) throw new Error('a page of ' + owner);
    }
    if (mappings.length > 2) mappings.splice(random(3), 1)[0].unmap();
  }
  platform.close();
  parentPort.postMessage({ mapped, usage: platform.usage() });
}

/** Makes domains that do one thing after the other until someone destroys them, and at that moment one thing above all. */
function live({ lives }) {
  let used = 0;
  for (let life = 0; life < lives; life++) {
    const platform = hypervisor.openPlatform(hypervisor.createDomain());
    const { domid: self } = platform.identity;
    const granted = [grantReference(7 + self)];
    const ports = [];
    const shares = [];
    try {
      for (;;) {
        for (let times = 0; times < (life % 3 === 0 ? 100 : 1); times++) platform.map(domid(0), granted, 'read-only').unmap();
        for (let times = 0; times < (life % 3 === 1 ? 100 : 1); times++) {
          ports.push(platform.allocateUnbound(self));
          ports.push(platform.bindInterdomain(self, ports.at(-1)));
          if (ports.length > 8) for (const port of ports.splice(1, 6)) platform.close(port);
        }
        for (let times = 0; times < (life % 3 === 2 ? 100 : 1); times++) {
          shares.push(platform.share(domid(0), 2, 'read-write'));
          if (shares.length > 4) for (const pages of shares.splice(1, 3)) pages.endAccess();
        }
        used++;
      }
    } catch (error) {
      if (!(error instanceof PvError) || (error.errno !== 'ESRCH' && error.status !== 'GNTST_bad_domain')) throw error;
    }
    platform.close();
  }
  parentPort.postMessage({ used });
}

({ answer, trade, live })[role](workerData);
parentPort.postMessage('ready');
`;

const [program] = buildSync({
  stdin: { contents: PROGRAM, resolveDir: import.meta.dirname, loader: 'ts' },
  bundle: true,
  platform: 'node',
  format: 'cjs',
  write: false,
  logLevel: 'warning',
}).outputFiles;

function start(handle: LoopbackHandle, role: string, data: Record<string, unknown> = {}) {
  const worker = new Worker(program!.text, { eval: true, workerData: { handle, role, ...data } });
  const messages: unknown[] = [];
  worker.on('message', (message) => messages.push(message));
  const exited = once(worker, 'exit'); // rejects when the worker throws
  return { worker, messages, exited };
}

const nextTurn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** Every frame of the machine must be there to be had, and be there once. */
function expectAllFrames(hypervisor: LoopbackHypervisor, domain: Domid, frames: number): void {
  const platform = hypervisor.openPlatform(hypervisor.identify(domain)!);
  const pages = platform.share(domain, frames, 'read-write');
  for (let page = 0; page < frames; page++) pages.store32(page * PAGE_SIZE, page + 1);
  for (let page = 0; page < frames; page++) expect(pages.load32(page * PAGE_SIZE)).toBe(page + 1);
  expect(() => platform.share(domain, 1, 'read-write')).toThrow(PvError);
  platform.close();
}

it.each([
  { pageCount: 1, slotBytes: 16 },
  { pageCount: 2, slotBytes: 112 },
])('exchange 200,000 requests of $slotBytes bytes and lose none', async ({ pageCount, slotBytes }) => {
  const REQUESTS = 200_000;
  const START = 0xffff_0000; // the indices go round on the way
  const hypervisor = LoopbackHypervisor.create('ring', {
    frames: 16,
    domains: 2,
    grantEntries: 32,
    pagesPerDomain: 16,
  });
  const platform = hypervisor.openPlatform(hypervisor.createDomain());
  const guest = hypervisor.createDomain();
  const pages = platform.share(guest.domid, pageCount, 'read-write');
  const port = platform.allocateUnbound(guest.domid);
  const ring = FrontRing.create(pages, slotBytes, START);
  const { worker, messages, exited } = start(hypervisor.handle, 'answer', {
    references: pages.references,
    port,
    slotBytes,
    start: START,
  });

  const request = new Int32Array(slotBytes / 4);
  const response = new Int32Array(2);
  const sums: number[] = [];
  let sent = 0;
  let answered = 0;
  let wrong = 0;
  let notifications = 0;
  const finished = new Promise<void>((resolve) => {
    const run = () => {
      do {
        for (; ring.take(response); answered++)
          if (response[0] !== answered || response[1] !== sums[answered % ring.size]) wrong++;
        while (ring.free > 0 && sent < REQUESTS) {
          let sum = 0;
          for (let word = 1; word < request.length; word++) {
            request[word] = Math.imul(sent + word, 0x9e3779b1);
            sum = (sum + request[word]!) | 0;
          }
          request[0] = sent;
          sums[sent % ring.size] = (sum + sent) | 0;
          ring.put(request);
          sent++;
        }
        if (ring.push()) {
          notifications++;
          platform.notify(port);
        }
      } while (ring.finalCheck());
      if (answered === REQUESTS) resolve();
    };
    platform.listen(port, () => {
      run();
      platform.unmask(port);
    });
    run();
  });
  await Promise.race([
    finished,
    exited.then(() => {
      throw new Error('the worker ended early');
    }),
  ]);
  expect([answered, wrong, ring.inFlight]).toEqual([REQUESTS, 0, 0]);
  expect(notifications).toBeGreaterThan(0);
  worker.postMessage('stop');
  await exited;
  expect(messages.at(-1)).toEqual(NONE);
  expect(pages.endAccess()).toBe(true);
  platform.close();
  expect(platform.usage()).toEqual(NONE);
  expectAllFrames(hypervisor, domid(0), 16);
});

it('share with and map each other at once, and every frame comes back once', async () => {
  const FRAMES = 24;
  const hypervisor = LoopbackHypervisor.create('trade', { frames: FRAMES, domains: 3, pagesPerDomain: FRAMES });
  for (let n = 0; n < 3; n++) hypervisor.createDomain();
  const rounds = 20_000;
  const workers = [
    start(hypervisor.handle, 'trade', { self: 1, other: 2, rounds }),
    start(hypervisor.handle, 'trade', { self: 2, other: 1, rounds }),
  ];
  await Promise.all(workers.map(({ exited }) => exited));
  for (const { messages } of workers) {
    expect(messages[0]).toMatchObject({ usage: NONE });
    expect((messages[0] as { mapped: number }).mapped).toBeGreaterThan(0);
  }
  expectAllFrames(hypervisor, domid(0), FRAMES);
});

it('may have their domain destroyed at any moment, which leaves nothing of it', async () => {
  const FRAMES = 64;
  const LIVES = 90;
  const hypervisor = LoopbackHypervisor.create('lives', {
    frames: FRAMES,
    domains: 4,
    pagesPerDomain: FRAMES,
    ports: 32,
  });
  const platform = hypervisor.openPlatform(hypervisor.createDomain());
  const granted = [1, 2, 3].map((id) => platform.share(domid(id), 1, 'read-only'));
  const { messages, exited } = start(hypervisor.handle, 'live', { lives: LIVES });
  let ended = false;
  const end = () => {
    ended = true;
  };
  exited.then(end, end);
  let destroyed = 0;
  for (let turn = 0; !ended; turn++) {
    const victim = hypervisor.identify(domid(1 + (turn % 3)));
    if (victim !== undefined) {
      for (let spin = 0; spin < destroyed * 200; spin++) hypervisor.isAlive(victim); // a different moment each time
      // What it shares is in use as it dies.
      let held: { unmap(): void } | undefined;
      try {
        held = platform.map(victim.domid, [grantReference(8)], 'read-write');
      } catch (error) {
        expect(error).toBeInstanceOf(PvError);
      }
      hypervisor.destroyDomain(victim);
      held?.unmap();
      destroyed++;
    }
    await nextTurn();
  }
  await exited;
  expect(destroyed).toBe(LIVES);
  expect((messages[0] as { used: number }).used).toBeGreaterThan(0);
  for (const pages of granted) expect(pages.endAccess()).toBe(true); // no mapping of the dead is left
  // Every port of every domid is free again.
  for (let n = 1; n < 4; n++) {
    const heir = hypervisor.openPlatform(hypervisor.createDomain());
    for (let port = 1; port < 32; port++) expect(heir.allocateUnbound(domid(0))).toBe(port);
    heir.close();
  }
  platform.close();
  expectAllFrames(hypervisor, domid(0), FRAMES);
});
