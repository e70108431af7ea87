import { type MessageTransport, ProtocolError, type TransportHandlers } from '@pvkit/ring';
import { describe, expect, it } from 'vitest';
import { XenstoreClient } from './client.ts';
import { XenstoreError } from './errors.ts';
import { permissions } from './permissions.ts';
import { ServerFixture } from './testing/server-fixture.ts';
import { PENDING_PATHS_MAX, type XenstoreWatch } from './watch.ts';
import { type Packet, PacketParser, PacketWriter, payloadStrings, XsdSockmsgType } from './wire.ts';

const errno = async (promise: Promise<unknown>): Promise<string> => {
  try {
    await promise;
  } catch (error) {
    if (error instanceof XenstoreError) return error.errno;
    throw error;
  }
  return 'no error';
};

async function next(watch: XenstoreWatch): Promise<string> {
  const result = await watch.next();
  if (result.done) throw new Error('the watch has ended');
  return result.value.path;
}

/** A transport whose other side the test plays. */
class PlayedTransport implements MessageTransport {
  readonly bufferedBytes = 0;
  handlers: TransportHandlers | undefined;
  readonly #parser = new PacketParser();
  readonly #onRequest: (request: Packet, transport: PlayedTransport) => void;

  constructor(onRequest: (request: Packet, transport: PlayedTransport) => void) {
    this.#onRequest = onRequest;
  }
  send(message: Uint8Array): void {
    this.#parser.push(message);
    while (this.#parser.next() === 'packet') this.#onRequest({ ...this.#parser.packet }, this);
  }
  reply(type: number, { reqId, txId }: Packet, payload: string): void {
    const writer = new PacketWriter();
    writer.begin(type, reqId, txId);
    writer.text(payload);
    writer.end();
    this.handlers?.data(writer.bytes);
  }
  start(handlers: TransportHandlers): void {
    this.handlers = handlers;
  }
  pause(): void {}
  resume(): void {}
  close(): void {}
}

/** A client of a server that answers each request by `answer`. */
function clientOf(
  answer: (request: Packet, reply: (type: number, payload: string) => void, transport: PlayedTransport) => void,
): XenstoreClient {
  const transport = new PlayedTransport((request, played) =>
    answer(request, (type, payload) => played.reply(type, request, payload), played),
  );
  return new XenstoreClient(transport, new ServerFixture().runtime);
}

describe('nodes', () => {
  it('are written, read, listed and removed', async () => {
    const client = new ServerFixture().client();
    await client.write('/t/a', 'grüße');
    expect(await client.read('/t/a')).toBe('grüße');
    await client.write('/t/b', Uint8Array.of(0, 255, 0));
    expect(await client.readBytes('/t/b')).toEqual(Uint8Array.of(0, 255, 0));
    await client.mkdir('/t/c');
    expect(await client.directory('/t')).toEqual(['a', 'b', 'c']);
    expect(await client.directory('/t/a')).toEqual([]);
    await client.remove('/t/a');
    expect(await client.exists('/t/a')).toBe(false);
    expect(await client.exists('/t/b')).toBe(true);
    expect(await client.readOptional('/t/a')).toBeUndefined();
    expect(await client.directoryOptional('/none')).toBeUndefined();
    expect(await client.getDomainPath(3)).toBe('/local/domain/3');
    expect(await client.isDomainIntroduced(3)).toBe(false);
  });

  it('have permissions', async () => {
    const client = new ServerFixture().client();
    await client.write('/t', '');
    expect(await client.getPermissions('/t')).toEqual(permissions(0));
    const value = permissions(3, [{ domid: 4, access: 'read' }]);
    await client.setPermissions('/t', value);
    expect(await client.getPermissions('/t')).toEqual(value);
    await client.setPermissions('@releaseDomain', value);
    expect(await client.getPermissions('@releaseDomain')).toEqual(value);
  });

  it('are listed in parts when there are many', async () => {
    const client = new ServerFixture().client();
    const names = Array.from({ length: 2000 }, (_, i) => `node-${i}`);
    await Promise.all(names.map((name) => client.mkdir(`/t/${name}`)));
    expect(await client.directory('/t')).toEqual(names);
  });

  it('give errors that name operation, path and errno', async () => {
    const client = new ServerFixture().client();
    const error = await client.read('/none').catch((error: unknown) => error);
    expect(error).toBeInstanceOf(XenstoreError);
    expect(error).toMatchObject({ errno: 'ENOENT', operation: 'READ', path: '/none', code: 'ERR_PV_ERRNO' });
    expect(String(error)).toBe('XenstoreError: xenstore READ /none: ENOENT');
  });

  it('refuse what could not be sent', async () => {
    const client = new ServerFixture().client();
    for (const path of ['', '/a/', '/a\0b', '/ä', '@releaseDomain'])
      expect(await errno(client.read(path))).toBe('EINVAL');
    expect(await errno(client.write('/a', 'x'.repeat(4094)))).toBe('E2BIG');
    await client.write('/a', 'x'.repeat(4093));
    expect(await errno(client.control('print', 'a\0b'))).toBe('EINVAL');
  });
});

describe('requests', () => {
  it('are pipelined and matched by req_id, whatever the order of the replies', async () => {
    const sent: { reqId: number; path: string | undefined }[] = [];
    const transport = new PlayedTransport((request) => {
      sent.push({ reqId: request.reqId, path: payloadStrings(request)[0] });
    });
    const client = new XenstoreClient(transport, new ServerFixture().runtime);
    const reads = ['/a', '/b', '/c'].map((path) => client.read(path));
    expect(sent.map(({ path }) => path)).toEqual(['/a', '/b', '/c']);
    const writer = new PacketWriter();
    for (const { reqId, path } of sent.toReversed()) {
      writer.begin(XsdSockmsgType.XS_READ, reqId, 0);
      writer.text(`value of ${path}`);
      writer.end();
    }
    // A reply that nobody asked for is no more than observed.
    writer.begin(XsdSockmsgType.XS_READ, 99, 0);
    writer.end();
    transport.handlers?.data(writer.bytes);
    expect(await Promise.all(reads)).toEqual(['value of /a', 'value of /b', 'value of /c']);
    expect(client.isClosed).toBe(false);
  });

  it('do not believe what a broken server answers', async () => {
    for (const answer of ['0\0', 'x\0', '', '4294967296\0']) {
      const client = clientOf((request, reply) => reply(request.type, answer));
      await expect(client.transaction((tx) => tx.write('/a', 'v'))).rejects.toThrow(ProtocolError);
    }
    const confused = clientOf((request, reply) => reply(request.type + 1, ''));
    await expect(confused.read('/a')).rejects.toThrow('READ was answered by GET_PERMS');
    const odd = clientOf((_, reply) => reply(XsdSockmsgType.XS_ERROR, 'EWHATEVER\0'));
    expect(await errno(odd.read('/a'))).toBe('EIO');
    const parts = clientOf((request, reply) =>
      request.type === XsdSockmsgType.XS_DIRECTORY
        ? reply(XsdSockmsgType.XS_ERROR, 'E2BIG\0')
        : reply(request.type, '1\0'),
    );
    expect(await errno(parts.directory('/a'))).toBe('EIO');
    const permissionless = clientOf((request, reply) => reply(request.type, 'q0\0'));
    expect(await errno(permissionless.getPermissions('/a'))).toBe('EIO');
    const flooding = clientOf((_, __, transport) => {
      const header = new Uint8Array(16);
      header[13] = 0x20;
      transport.handlers?.data(header);
    });
    expect(await errno(flooding.read('/a'))).toBe('ECONNRESET');
  });

  it('fail when the connection is lost, and when the client is closed', async () => {
    const fixture = new ServerFixture();
    const client = fixture.client();
    await client.write('/a', 'v');
    const reading = errno(client.read('/a'));
    fixture.server.close();
    expect(await reading).toBe('ECONNRESET');
    expect(await client.closed).toMatchObject({ errno: 'ECONNRESET' });
    expect(await errno(client.read('/a'))).toBe('ENOTCONN');

    const other = new ServerFixture().client();
    const outstanding = errno(other.read('/a'));
    await other.close();
    await other.close();
    expect(await outstanding).toBe('ECONNRESET');
    expect(await other.closed).toBeUndefined();
  });
});

describe('watches', () => {
  it('come as an iterator, first at once, each path pending once', async () => {
    const fixture = new ServerFixture();
    const [client, other] = [fixture.client(), fixture.client()];
    const watch = await client.watch('/t');
    expect(await next(watch)).toBe('/t');
    for (let i = 0; i < 5; i++) {
      await other.write('/t/a', `${i}`);
      await other.write('/t/b', `${i}`);
    }
    await client.read('/t/a');
    expect([await next(watch), await next(watch)]).toEqual(['/t/a', '/t/b']);
    const waiting = next(watch);
    await other.remove('/t');
    expect(await waiting).toBe('/t');
  });

  it('end a for await loop and forget the watch', async () => {
    const fixture = new ServerFixture();
    const client = fixture.client();
    for await (const event of await client.watch('/t', { token: 'mine' })) {
      expect(event).toEqual({ path: '/t', token: 'mine' });
      break;
    }
    expect(fixture.server.counters().watches).toBe(0);
    await using again = await client.watch('/t', { token: 'mine' });
    expect(await errno(client.watch('/t', { token: 'mine' }))).toBe('EEXIST');
    expect(fixture.server.counters().watches).toBe(1);
    const waiting = (async () => {
      await again.next();
      return again.next();
    })();
    await again.close();
    await again.close();
    expect(await waiting).toEqual({ done: true, value: undefined });
  });

  it('close without complaint when the server has forgotten them, or is gone', async () => {
    const fixture = new ServerFixture();
    const client = fixture.client();
    const first = await client.watch('/a');
    const second = await client.watch('/b');
    await client.resetWatches();
    await first.close();
    fixture.server.close();
    await client.closed;
    await second.close();
  });

  it('fail when the connection is lost, and end when the client is closed', async () => {
    const fixture = new ServerFixture();
    const lost = await fixture.client().watch('/a');
    await next(lost);
    const waiting = errno(lost.next());
    fixture.server.close();
    expect(await waiting).toBe('ECONNRESET');
    expect(await errno(lost.next())).toBe('ECONNRESET');

    const client = new ServerFixture().client();
    const ended = await client.watch('/a');
    await next(ended);
    const last = ended.next();
    await client.close();
    expect(await last).toEqual({ done: true, value: undefined });
  });

  it('keep a bounded number of pending paths, then point at the watched one', async () => {
    const fixture = new ServerFixture();
    const client = fixture.client();
    const watch = await client.watch('/t');
    const paths = Array.from({ length: PENDING_PATHS_MAX + 10 }, (_, i) => `/t/${i}`);
    await Promise.all(paths.map((path) => client.mkdir(path)));
    const seen = new Set<string>();
    await client.read('/t');
    void client.write('/t/end', '');
    for await (const { path } of watch) {
      seen.add(path);
      if (path === '/t/end') break;
    }
    expect(seen.has('/t')).toBe(true);
    expect(seen.size).toBeLessThan(100);
  });

  it('share a token on nested paths', async () => {
    const client = new ServerFixture().client();
    const outer = await client.watch('/t', { token: 'same' });
    const inner = await client.watch('/t/a', { token: 'same' });
    await next(outer);
    await next(inner);
    await client.write('/t/a/b', 'v');
    expect(await next(inner)).toBe('/t/a/b');
    const outerSaw: string[] = [await next(outer)];
    while (outerSaw.at(-1) !== '/t/a/b') outerSaw.push(await next(outer));
  });

  it('may be relative, special, or limited in depth', async () => {
    const fixture = new ServerFixture();
    const client = fixture.client();
    const relative = await client.watch('device');
    expect(await next(relative)).toBe('device');
    await client.write('/local/domain/0/device/x', '');
    expect(await next(relative)).toBe('device/x');
    expect(await next(await client.watch('@releaseDomain'))).toBe('@releaseDomain');
    const shallow = await client.watch('/t', { depth: 1 });
    await next(shallow);
    await client.write('/t/a/b', '');
    await client.write('/t/a', '');
    expect(await next(shallow)).toBe('/t/a');
    expect(await errno(client.watch('/t/', {}))).toBe('EINVAL');
    expect(await errno(client.watch('/t', { token: 'a\0b' }))).toBe('EINVAL');
  });

  it('call back, and survive a callback that throws', async () => {
    const fixture = new ServerFixture();
    const client = fixture.client();
    const looked: string[] = [];
    const handle = await client.watchCallback('/t', (path) => {
      looked.push(path);
      if (looked.length === 2) throw new Error('broken');
    });
    await client.write('/t/a', '');
    await client.write('/t/b', '');
    expect(looked).toEqual(['/t', '/t/a', '/t/b']);
    expect(fixture.count('xenstore.watch-callback-failed')).toBe(1);
    await handle.close();
    await handle.close();
    await client.write('/t/c', '');
    expect(looked).toHaveLength(3);
    expect(fixture.server.counters().watches).toBe(0);
  });
});

describe('transactions', () => {
  it('commit, and abort when the body throws', async () => {
    const client = new ServerFixture().client();
    const result = await client.transaction(async (tx) => {
      await tx.write('/t/a', '1');
      expect(await client.exists('/t/a')).toBe(false);
      return tx.read('/t/a');
    });
    expect(result).toBe('1');
    expect(await client.read('/t/a')).toBe('1');
    const failing = client.transaction(async (tx) => {
      await tx.write('/t/a', '2');
      throw new Error('changed my mind');
    });
    await expect(failing).rejects.toThrow('changed my mind');
    expect(await client.read('/t/a')).toBe('1');
  });

  it('run again after a conflict, so that no increment is lost', async () => {
    const fixture = new ServerFixture();
    const clients = [fixture.client(), fixture.client(), fixture.client()];
    await clients[0]?.write('/counter', '0');
    const increment = (client: XenstoreClient) =>
      client.transaction(async (tx) => tx.write('/counter', String(Number(await tx.read('/counter')) + 1)));
    for (let round = 0; round < 5; round++) await Promise.all(clients.map(increment));
    expect(await clients[0]?.read('/counter')).toBe('15');
  });

  it('give up after a number of attempts', async () => {
    const fixture = new ServerFixture();
    const [client, other] = [fixture.client(), fixture.client()];
    let runs = 0;
    const hopeless = client.transaction(
      async (tx) => {
        runs++;
        await tx.readOptional('/a');
        await other.write('/a', `${runs}`);
      },
      { attempts: 3 },
    );
    expect(await errno(hopeless)).toBe('EAGAIN');
    expect(runs).toBe(3);
  });
});
