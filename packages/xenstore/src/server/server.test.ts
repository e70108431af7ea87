import type { MessageTransport, TransportHandlers } from '@pvkit/ring';
import { describe, expect, it } from 'vitest';
import { Store } from '../store/store.ts';
import { ServerFixture } from '../testing/server-fixture.ts';
import { XENSTORE_ERROR_PROTO } from '../transport/ring.ts';
import * as wire from '../wire.ts';
import { type PacketParser, PacketWriter, XsdSockmsgType } from '../wire.ts';

const { XS_READ, XS_ERROR, XS_WRITE, XS_WATCH, XS_WATCH_EVENT } = XsdSockmsgType;

/** A transport whose other side the test plays: it takes bytes only when told. */
class SlowTransport implements MessageTransport {
  sent: Uint8Array[] = [];
  paused = false;
  closed = false;
  errors: number[] = [];
  handlers: TransportHandlers | undefined;

  get bufferedBytes(): number {
    return this.sent.reduce((sum, chunk) => sum + chunk.length, 0);
  }
  send(message: Uint8Array): void {
    this.sent.push(message.slice());
  }
  start(handlers: TransportHandlers): void {
    this.handlers = handlers;
  }
  pause(): void {
    this.paused = true;
  }
  resume(): void {
    this.paused = false;
  }
  setError(error: number): void {
    this.errors.push(error);
  }
  close(): void {
    this.closed = true;
  }

  /** Takes what was sent, as messages. */
  take(): { type: number; payload: string }[] {
    const parser: PacketParser = new wire.PacketParser();
    const messages: { type: number; payload: string }[] = [];
    for (const chunk of this.sent.splice(0)) {
      parser.push(chunk);
      while (parser.next() === 'packet') {
        const { type, bytes, start, end } = parser.packet;
        messages.push({ type, payload: wire.readLatin1(bytes, start, end) });
      }
    }
    this.handlers?.drained?.();
    return messages;
  }

  receive(...requests: [type: number, payload: string][]): void {
    const writer = new PacketWriter();
    for (const [i, [type, payload]] of requests.entries()) {
      writer.begin(type, i, 0);
      writer.text(payload);
      writer.end();
    }
    this.handlers?.data(writer.bytes);
  }
}

function slowConnection(domid: number, fixture = new ServerFixture()) {
  const transport = new SlowTransport();
  fixture.server.connect(transport, { domid, privileged: domid === 0 });
  return { fixture, transport };
}

const repeat = <T>(count: number, value: T): T[] => Array.from({ length: count }, () => value);

describe('unknown and malformed packets', () => {
  it.each([15, 16, 20, 27, 0xffff, 0xffff_ffff])('operation %i is ENOSYS', async (type) => {
    const client = new ServerFixture().raw();
    expect(await client.requestByNumber(type, 0, 'x\0')).toMatchObject({ type: XS_ERROR, payload: 'ENOSYS\0' });
  });

  it('a payload above the limit ends that connection alone, and says so in the ring', async () => {
    const { fixture, transport } = slowConnection(1);
    const other = fixture.raw();
    const header = new Uint8Array(16);
    header[12] = 1;
    header[13] = 0x10;
    transport.handlers?.data(header);
    expect(transport.closed).toBe(true);
    expect(transport.errors).toEqual([XENSTORE_ERROR_PROTO]);
    expect(fixture.observed).toContainEqual({
      event: 'xenstored.disconnected',
      facts: { domid: 1, reason: 'sent a payload above the limit' },
    });
    expect(await other.request('WRITE', 0, '/t\0v')).toBe('OK\0');
  });

  it('replies carry the req_id and tx_id of their request', async () => {
    const client = new ServerFixture().raw();
    const reply = await client.requestByNumber(XS_READ, 77, '/t\0');
    expect(reply).toMatchObject({ type: XS_ERROR, txId: 77, payload: 'ENOENT\0' });
  });
});

describe('a client that does not take its replies', () => {
  it('is read from until 20 are outstanding, when it is a domain', () => {
    const { transport, fixture } = slowConnection(1);
    transport.receive(...repeat<[number, string]>(50, [XS_READ, '/t\0']));
    expect(transport.paused).toBe(true);
    expect(fixture.observed).toContainEqual({
      event: 'xenstored.stalled',
      facts: { domid: 1, quota: 'outstanding', limit: 20 },
    });
    expect(transport.take()).toHaveLength(20);
    expect(transport.take()).toHaveLength(20);
    expect(transport.take()).toHaveLength(10);
    expect(transport.paused).toBe(false);
    transport.receive([XS_READ, '/t\0']);
    expect(transport.take()).toHaveLength(1);
  });

  it('is read from until its output is large, when it is the control domain', () => {
    const { transport } = slowConnection(0);
    transport.receive([XS_WRITE, `/t\0${'x'.repeat(4000)}`]);
    transport.receive(...repeat<[number, string]>(300, [XS_READ, '/t\0']));
    expect(transport.paused).toBe(true);
    let replies = 0;
    let largest = 0;
    for (let taken = -1; taken !== 0; replies += taken) {
      largest = Math.max(largest, transport.bufferedBytes);
      taken = transport.take().length;
    }
    expect(replies).toBe(301);
    expect(largest).toBeLessThan(512 * 1024);
    expect(transport.paused).toBe(false);
  });

  it('gets one event for many equal ones that wait, but every one of a special path', () => {
    const { fixture, transport } = slowConnection(1);
    fixture.server.store.setPermissions({ domid: 0, privileged: true, target: undefined }, undefined, '/', {
      owner: 0,
      others: 'read',
      grants: [],
    });
    transport.receive([XS_WATCH, '/a\0tok\0'], [XS_WATCH, '@x\0tok\0']);
    // The first output is on its way and not taken: what follows waits in the server.
    const writer = slowConnection(0, fixture).transport;
    for (let i = 0; i < 10; i++) {
      writer.receive([XS_WRITE, '/a\0v']);
      writer.receive([XS_WRITE, '/a/b\0v']);
      writer.take();
    }
    const events = (messages: { type: number; payload: string }[]) =>
      messages.filter(({ type }) => type === XS_WATCH_EVENT).map(({ payload }) => payload);
    expect(events(transport.take())).toEqual(['/a\0tok\0', '@x\0tok\0']);
    expect(events(transport.take())).toEqual(['/a\0tok\0', '/a/b\0tok\0']);
    expect(events(transport.take())).toEqual([]);
  });

  it('loses events beyond the memory of a domain, named', () => {
    const fixture = new ServerFixture({ quotas: { memory: 1000 } });
    const { transport } = slowConnection(1, fixture);
    const writer = slowConnection(0, fixture).transport;
    writer.receive([XsdSockmsgType.XS_SET_PERMS, '/\0r0\0']);
    transport.receive([XS_WATCH, '/a\0tok\0']);
    for (let i = 0; i < 100; i++) {
      writer.receive([XS_WRITE, `/a/${i}\0v`]);
      writer.take();
    }
    expect(fixture.refusals()[0]).toMatchObject({ domid: 1, quota: 'memory', limit: 1000 });
    let bytes = 0;
    for (let waiting = transport.bufferedBytes; waiting > 0; waiting = transport.bufferedBytes) {
      bytes += waiting;
      transport.take();
    }
    expect(bytes).toBeLessThan(1100);
  });
});

describe('an internal error', () => {
  it('becomes EIO, is observed, and the server goes on', async () => {
    const fixture = new ServerFixture();
    const client = fixture.raw();
    const failing = new Error('broken');
    Object.defineProperty(fixture.server.store, 'read', {
      value: () => {
        throw failing;
      },
    });
    expect(await client.request('READ', 0, '/t\0')).toBe('EIO\0');
    expect(fixture.observed).toContainEqual({
      event: 'xenstored.internal-error',
      facts: { domid: 0, operation: 'READ', error: failing },
    });
    expect(await client.request('WRITE', 0, '/t\0v')).toBe('OK\0');
  });
});

describe('domains', () => {
  it('fire @releaseDomain once at shutdown, again after RESUME, and at release', async () => {
    const fixture = new ServerFixture({ withHost: true });
    fixture.existing.add(7);
    const client = fixture.raw();
    await client.request('INTRODUCE', 0, '7\x001\x001\0');
    await client.request('WATCH', 0, '@releaseDomain\0tok\0');
    await client.nextEvent();
    const events = async () => {
      await client.request('GET_DOMAIN_PATH', 0, '0\0');
      return client.events.splice(0).length;
    };
    fixture.server.domainShutdown(7);
    fixture.server.domainShutdown(7);
    expect(await events()).toBe(1);
    await client.request('RESUME', 0, '7\0');
    fixture.server.domainShutdown(7);
    expect(await events()).toBe(1);
    fixture.server.release(7);
    expect(await events()).toBe(1);
    fixture.server.domainShutdown(7);
    expect(await events()).toBe(0);
  });

  it('that were never introduced leave nothing either when they are destroyed', async () => {
    const fixture = new ServerFixture();
    const [client, guest] = [fixture.raw(), fixture.raw('D3')];
    await client.request('WRITE', 0, '/t\0v');
    await client.request('SET_PERMS', 0, '/t\0n3\0');
    expect(await guest.request('WRITE', 0, '/t/a\0v')).toBe('OK\0');
    fixture.server.domainDestroyed(3);
    await guest.closed;
    expect(await client.request('READ', 0, '/t\0')).toBe('ENOENT\0');
    expect(fixture.server.quotas.accounts().has(3)).toBe(false);
  });

  it('stay introduced when their ring breaks, and can be introduced again', async () => {
    const fixture = new ServerFixture({ withHost: true });
    fixture.existing.add(7);
    const client = fixture.raw();
    await client.request('INTRODUCE', 0, '7\x001\x001\0');
    fixture.domainEnds.get(7)?.close();
    await expect.poll(() => fixture.count('xenstored.disconnected')).toBe(1);
    expect(await client.request('IS_DOMAIN_INTRODUCED', 0, '7\0')).toBe('T\0');
    expect(await client.request('SET_TARGET', 0, '7\x000\0')).toBe('EINVAL\0');
    expect(await client.request('INTRODUCE', 0, '7\x001\x001\0')).toBe('OK\0');
    expect(await fixture.raw('D7').request('GET_DOMAIN_PATH', 0, '7\0')).toBe('/local/domain/7\0');
    fixture.server.close();
    expect(fixture.server.counters()).toMatchObject({ connections: 0, domains: 0 });
  });
});

describe('CONTROL', () => {
  it('checks, prints, lists its commands and switches the observing of requests', async () => {
    const fixture = new ServerFixture();
    const client = fixture.raw();
    expect(await client.request('CONTROL', 0, 'check\0')).toBe('OK\0');
    expect(await client.request('CONTROL', 0, 'help\0')).toMatch(/^check .*\nhelp .*\nlog .*\nprint .*\nquota .*\n\0$/);
    expect(await client.request('CONTROL', 0, 'print\0hello\0')).toBe('OK\0');
    expect(fixture.observed).toContainEqual({ event: 'xenstored.print', facts: { text: 'hello' } });
    expect(await client.request('CONTROL', 0, 'log\0on\0')).toBe('OK\0');
    await client.request('READ', 0, '/none\0');
    expect(fixture.observed).toContainEqual({
      event: 'xenstored.request',
      facts: { domid: 0, operation: 'READ', txId: 0, error: 'ENOENT' },
    });
    expect(await client.request('CONTROL', 0, 'log\0')).toBe('requests: on\n\0');
    expect(await client.request('CONTROL', 0, 'log\0off\0')).toBe('OK\0');
    expect(await client.request('CONTROL', 0, 'quota\0')).toMatch(/^Quota settings:\nnodes +: +1000\n/);
    expect(await client.request('CONTROL', 0, 'quota\x000\0')).toMatch(/^Domain 0:\nnodes +: +5\n/);
    expect(await client.request('CONTROL', 0, 'quota\x009\0')).toBe('ENOENT\0');
  });

  it('check finds what does not agree', () => {
    const store = new Store();
    store.quotas.account(0).nodes++;
    expect(store.check()).toEqual(['domain 0: 6 nodes counted, 5 found']);
  });
});
