import { ProtocolError, standardRuntime, type TransportHandlers } from '@pvkit/ring';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { XenstoreClient } from '../client.ts';
import { FakeEventChannels, FakePages } from '../testing/fake-ring.ts';
import { ServerFixture } from '../testing/server-fixture.ts';
import {
  XenstoreDomainInterface as offsets,
  RingTransport,
  XENSTORE_CONNECTED,
  XENSTORE_ERROR_PROTO,
  XENSTORE_ERROR_RINGIDX,
  XENSTORE_RECONNECT,
  XENSTORE_SERVER_FEATURE_ERROR,
} from './ring.ts';

const runtime = standardRuntime();

interface Side {
  readonly transport: RingTransport;
  readonly received: number[];
  readonly ended: (Error | undefined)[];
}

function ends(prepare: (pages: FakePages) => void = () => undefined) {
  const pages = new FakePages();
  prepare(pages);
  const events = new FakeEventChannels(runtime);
  const [domainPort, serverPort] = events.ends;
  const domain = new RingTransport({ role: 'domain', pages, events, port: domainPort, runtime });
  const server = new RingTransport({ role: 'server', pages, events, port: serverPort, runtime });
  return { pages, events, domain, server, domainPort, serverPort };
}

function listen(transport: RingTransport, more: Partial<TransportHandlers> = {}): Side {
  const received: number[] = [];
  const ended: (Error | undefined)[] = [];
  transport.start({
    data: (chunk) => void received.push(...chunk),
    closed: (reason) => void ended.push(reason),
    ...more,
  });
  return { transport, received, ended };
}

describe('struct xenstore_domain_interface', () => {
  it('has the offsets of xs_wire.h', () => {
    expect(offsets).toEqual({
      req: 0,
      rsp: 1024,
      req_cons: 2048,
      req_prod: 2052,
      rsp_cons: 2056,
      rsp_prod: 2060,
      server_features: 2064,
      connection: 2068,
      error: 2072,
    });
  });
});

describe('the ring transport', () => {
  it('carries any bytes both ways, whatever the indices start at', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(0, 1, 1000, 0xffff_fff0, 0xffff_ffff),
        fc.constantFrom(0, 1023, 0xffff_fc00),
        fc.array(fc.uint8Array({ maxLength: 3000, size: 'max' }), { maxLength: 4 }),
        fc.array(fc.uint8Array({ maxLength: 3000, size: 'max' }), { maxLength: 4 }),
        async (requestsFrom, responsesFrom, requests, responses) => {
          const { pages, domain, server } = ends((pages) => {
            for (const offset of [offsets.req_cons, offsets.req_prod]) pages.store32(offset, requestsFrom);
            for (const offset of [offsets.rsp_cons, offsets.rsp_prod]) pages.store32(offset, responsesFrom);
          });
          const [atDomain, atServer] = [listen(domain), listen(server)];
          for (const message of requests) domain.send(message);
          for (const message of responses) server.send(message);
          const wanted = [requests, responses].map((list) => list.flatMap((message) => [...message]));
          await expect.poll(() => atServer.received.length).toBe(wanted[0]?.length);
          await expect.poll(() => atDomain.received.length).toBe(wanted[1]?.length);
          expect(atServer.received).toEqual(wanted[0]);
          expect(atDomain.received).toEqual(wanted[1]);
          expect(pages.load32(offsets.req_prod)).toBe((requestsFrom + atServer.received.length) >>> 0);
          expect([domain.bufferedBytes, server.bufferedBytes]).toEqual([0, 0]);
        },
      ),
      { numRuns: 25 },
    );
  });

  it('notifies after producing and after consuming', async () => {
    const { events, domain, server, domainPort, serverPort } = ends();
    listen(domain);
    const atServer = listen(server);
    await expect.poll(() => events.notified.get(serverPort)).toBe(1);
    const before = [events.notified.get(domainPort) ?? 0, events.notified.get(serverPort) ?? 0];
    domain.send(Uint8Array.of(1, 2, 3));
    await expect.poll(() => atServer.received).toEqual([1, 2, 3]);
    expect((events.notified.get(domainPort) ?? 0) - (before[0] ?? 0)).toBe(1);
    expect((events.notified.get(serverPort) ?? 0) - (before[1] ?? 0)).toBe(1);
  });

  it('never reads its own indices back', async () => {
    const { pages, domain, server } = ends();
    const atDomain = listen(domain);
    const atServer = listen(server);
    domain.send(Uint8Array.of(1));
    await expect.poll(() => atServer.received).toEqual([1]);
    // The other side overwrites what is the server's.
    pages.store32(offsets.req_cons, 0);
    domain.send(Uint8Array.of(2));
    await expect.poll(() => atServer.received).toEqual([1, 2]);
    expect(pages.load32(offsets.req_cons)).toBe(2);
    pages.store32(offsets.rsp_prod, 1000);
    server.send(Uint8Array.of(9));
    expect(pages.load32(offsets.rsp_prod)).toBe(1);
    await expect.poll(() => atDomain.received).toEqual([9]);
    expect(atServer.ended).toEqual([]);
  });

  it.each([
    ['req_prod', 1025],
    ['req_prod', 0xffff_ffff],
  ] as const)('gives up when %s is %i beyond, and says so in the page', async (name, value) => {
    const { pages, events, server, serverPort, domainPort } = ends();
    const { ended, received } = listen(server);
    pages.store32(offsets[name], value);
    events.notify(domainPort);
    await expect.poll(() => ended.length).toBe(1);
    expect(ended[0]).toBeInstanceOf(ProtocolError);
    expect(received).toEqual([]);
    expect(pages.load32(offsets.error)).toBe(XENSTORE_ERROR_RINGIDX);
    expect(events.isClosed(serverPort)).toBe(true);
    server.send(Uint8Array.of(1));
    server.close();
  });

  it('gives up when the consumer runs ahead of what was produced', async () => {
    const { pages, domain } = ends();
    const { ended } = listen(domain);
    pages.store32(offsets.req_cons, 1);
    domain.send(Uint8Array.of(1));
    await expect.poll(() => ended.length).toBe(1);
    expect(String(ended[0])).toContain('consumer index out of range');
    // Only the server writes the error word.
    expect(pages.load32(offsets.error)).toBe(0);
  });

  it('holds back while paused, tells when it has drained', async () => {
    const { domain, server } = ends();
    let drained = 0;
    listen(domain, { drained: () => drained++ });
    const atServer = listen(server);
    server.pause();
    domain.send(new Uint8Array(5000).fill(7));
    await expect.poll(() => domain.bufferedBytes).toBe(5000 - 1024);
    expect([drained, atServer.received.length]).toEqual([0, 0]);
    server.resume();
    await expect.poll(() => drained).toBe(1);
    await expect.poll(() => atServer.received.length).toBe(5000);
  });

  it('closes its port and gives the page back once', () => {
    const { pages, events } = ends();
    const [port] = events.ends;
    let released = 0;
    const transport = new RingTransport({ role: 'domain', pages, events, port, runtime, release: () => released++ });
    transport.close();
    transport.close();
    transport.send(Uint8Array.of(1));
    expect([released, events.isClosed(port), transport.bufferedBytes]).toEqual([1, true, 0]);
  });

  it('as a server offers its features and answers a domain that waits for one', () => {
    const { pages } = ends((pages) => {
      pages.store32(offsets.connection, XENSTORE_RECONNECT);
      pages.store32(offsets.error, XENSTORE_ERROR_PROTO);
    });
    expect(pages.load32(offsets.server_features)).toBe(XENSTORE_SERVER_FEATURE_ERROR);
    expect(pages.load32(offsets.connection)).toBe(XENSTORE_CONNECTED);
    expect(pages.load32(offsets.error)).toBe(0);
  });

  it('carries a whole xenstore conversation', async () => {
    const { pages, domain, server } = ends();
    const fixture = new ServerFixture();
    await fixture.client().setPermissions('/', { owner: 0, others: 'both', grants: [] });
    fixture.server.connect(server, { domid: 1, privileged: false });
    const client = new XenstoreClient(domain, runtime);
    await Promise.all(Array.from({ length: 100 }, (_, i) => client.write(`/t/${i}`, 'v'.repeat(1500))));
    expect(await client.directory('/t')).toHaveLength(100);
    const watch = await client.watch('/t');
    expect(await watch.next()).toMatchObject({ value: { path: '/t' } });
    // A packet above the limit: the domain learns why its ring is dead.
    const header = new Uint8Array(16);
    header[13] = 0x20;
    domain.send(header);
    await expect.poll(() => pages.load32(offsets.error)).toBe(XENSTORE_ERROR_PROTO);
    expect(fixture.server.counters()).toMatchObject({ watches: 0 });
  });
});
