import { linkSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ConfigurationError, ErrnoError, type MessageTransport, standardRuntime } from '@pvkit/ring';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { XenstoreClient } from '../client.ts';
import { ServerFixture } from '../testing/server-fixture.ts';
import { connectUnix, listenUnix } from './unix.ts';

let directory = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'pvkit-unix-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const ignore = (transport: MessageTransport) => transport.start({ data: () => undefined, closed: () => undefined });

describe('listenUnix', () => {
  it('serves clients on a socket of mode 0600, and removes it at the end', async () => {
    const path = join(directory, 'socket');
    const { server } = new ServerFixture();
    const listener = await listenUnix(path, (transport) => server.connect(transport));
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const client = new XenstoreClient(await connectUnix(path), standardRuntime());
    await client.write('/a', 'v');
    // Listening ends; the connection does not.
    await listener.close();
    await listener.close();
    expect(await client.read('/a')).toBe('v');
    await expect.poll(() => statSync(path, { throwIfNoEntry: false })).toBeUndefined();
    server.close();
    expect(await client.closed).toMatchObject({ errno: 'ECONNRESET' });
  });

  it('refuses a path that somebody listens on, and replaces one that nobody does', async () => {
    const path = join(directory, 'socket');
    const first = await listenUnix(path, ignore);
    await expect(listenUnix(path, ignore)).rejects.toThrow(ConfigurationError);
    await expect(listenUnix(path, ignore)).rejects.toThrow(`${path} is in use`);
    await first.close();

    // A daemon that was killed leaves its file.
    const killed = createServer().listen(path);
    await new Promise((resolve) => killed.once('listening', resolve));
    const stale = join(directory, 'stale');
    linkSync(path, stale);
    await new Promise((resolve) => killed.close(resolve));
    const second = await listenUnix(stale, ignore);
    ignore(await connectUnix(stale));
    await second.close();
  });

  it.each([
    ['a file that is no socket', 'file', 'exists and is not a socket'],
    ['a directory that is not there', 'none/socket', 'there is no directory'],
    ['a directory that is none', 'file/socket', 'there is no directory'],
    ['a path too long for a socket', 'x'.repeat(108), 'at most 107 bytes'],
  ])('refuses %s, in one sentence', async (_, name, message) => {
    writeFileSync(join(directory, 'file'), '');
    const refused = listenUnix(join(directory, name), ignore);
    await expect(refused).rejects.toThrow(ConfigurationError);
    await expect(refused).rejects.toThrow(message);
  });
});

describe('connectUnix', () => {
  it('says what is wrong when there is no daemon', async () => {
    const error = await connectUnix(join(directory, 'none')).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(ErrnoError);
    expect(error).toMatchObject({ errno: 'ENOENT' });
    expect(String(error)).toContain('is xenstored running?');
  });
});

describe('the socket transport', () => {
  it('carries much, both ways, under back-pressure', async () => {
    const path = join(directory, 'socket');
    const { server } = new ServerFixture();
    await using _listener = await listenUnix(path, (transport) => server.connect(transport));
    await using client = new XenstoreClient(await connectUnix(path), standardRuntime());
    const value = 'x'.repeat(4000);
    const count = 2000;
    await Promise.all(Array.from({ length: count }, (_, i) => client.write(`/t/${i % 50}`, value)));
    const values = await Promise.all(Array.from({ length: count }, (_, i) => client.read(`/t/${i % 50}`)));
    expect(values.every((read) => read === value)).toBe(true);
  });

  it('tells the server when a client is gone', async () => {
    const path = join(directory, 'socket');
    const fixture = new ServerFixture();
    await using _listener = await listenUnix(path, (transport) => fixture.server.connect(transport));
    const client = new XenstoreClient(await connectUnix(path), standardRuntime());
    await client.watch('/a');
    expect(fixture.server.counters()).toMatchObject({ connections: 1, watches: 1 });
    await client.close();
    await expect.poll(() => fixture.server.counters()).toMatchObject({ connections: 0, watches: 0 });
  });
});
