/** Debian's own xenstore tools against the server on a unix socket. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { without } from '../testing/peers.ts';
import { ServerFixture } from '../testing/server-fixture.ts';
import { listenUnix, type UnixListener } from '../transport/unix.ts';

const TEST_XENSTORE = '/usr/lib/xen-4.17/bin/test-xenstore';

let directory = '';
let listener: UnixListener | undefined;
let fixture = new ServerFixture();

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'pvkit-tools-'));
  listener = await listenUnix(join(directory, 'socket'), (transport) => fixture.server.connect(transport));
});
beforeEach(() => {
  fixture.server.close();
  fixture = new ServerFixture();
});
afterAll(async () => {
  fixture.server.close();
  await listener?.close();
  rmSync(directory, { recursive: true, force: true });
});

function tool(name: string, aptPackage: string): string {
  const path = name.startsWith('/') ? name : `/usr/bin/${name}`;
  if (!existsSync(path)) throw new Error(`${path} is missing: apt-get install ${aptPackage}`);
  return path;
}

const environment = () => ({ ...process.env, XENSTORED_PATH: join(directory, 'socket') });

interface Finished {
  readonly status: number;
  readonly output: string;
  readonly errors: string;
}

function run(name: string, args: readonly string[], aptPackage = 'xenstore-utils'): Promise<Finished> {
  return new Promise((resolve) => {
    execFile(tool(name, aptPackage), args, { env: environment() }, (error, output, errors) => {
      resolve({ status: typeof error?.code === 'number' ? error.code : error === null ? 0 : -1, output, errors });
    });
  });
}

async function outputOf(name: string, ...args: string[]): Promise<string> {
  const { status, output, errors } = await run(name, args);
  if (status !== 0) throw new Error(`${name} ${args.join(' ')} ended with ${status}: ${errors}`);
  return output;
}

/** Collects what a process prints. */
function linesOf(process: ChildProcess): string[] {
  const lines: string[] = [];
  let rest = '';
  process.stdout?.setEncoding('utf8').on('data', (text: string) => {
    const parts = (rest + text).split('\n');
    rest = parts.pop() ?? '';
    lines.push(...parts);
  });
  return lines;
}

describe.skipIf(without('xen-utils-4.17', TEST_XENSTORE))('xen-utils', () => {
  it('test-xenstore passes', async () => {
    const { status, output, errors } = await run(TEST_XENSTORE, ['-i', '50'], 'xen-utils-4.17');
    expect(`${output}${errors}`).not.toMatch(/fail/i);
    expect(output).toMatch(/^read 1 /);
    expect(output).toMatch(/\nta err +: avg: /);
    expect(status).toBe(0);
    expect(fixture.count('xenstored.internal-error')).toBe(0);
    expect(fixture.server.store.check()).toEqual([]);
  });
});

describe.skipIf(without('xenstore-utils', '/usr/bin/xenstore-read'))('xenstore-utils', () => {
  it('xenstore-write, -read, -list and -exists', async () => {
    await outputOf('xenstore-write', '/t/a', 'one', '/t/b', 'two');
    expect(await outputOf('xenstore-read', '/t/a', '/t/b')).toBe('one\ntwo\n');
    expect(await outputOf('xenstore-read', '-p', '/t/a')).toBe('/t/a: one\n');
    expect(await outputOf('xenstore-list', '/t')).toBe('a\nb\n');
    expect(await outputOf('xenstore-list', '-p', '/t')).toBe('/t/a\n/t/b\n');
    expect((await run('xenstore-exists', ['/t/a'])).status).toBe(0);
    expect((await run('xenstore-exists', ['/t/none'])).status).toBe(1);
    const missing = await run('xenstore-read', ['/t/none']);
    expect(missing.status).toBe(1);
    expect(missing.errors).toContain("couldn't read path /t/none");
  });

  it('xenstore-ls, plain, with full paths and with permissions', async () => {
    await outputOf('xenstore-write', '/t/a', 'one', '/t/a/deeper', 'two');
    await outputOf('xenstore-chmod', '/t/a', 'n0', 'r3');
    expect(await outputOf('xenstore-ls')).toBe(
      ['tool = ""', ' xenstored = ""', 't = ""', ' a = "one"', '  deeper = "two"', ''].join('\n'),
    );
    expect(await outputOf('xenstore-ls', '/t')).toBe('a = "one"\n deeper = "two"\n');
    expect(await outputOf('xenstore-ls', '-f', '/t')).toBe('/t/a = "one"\n/t/a/deeper = "two"\n');
    expect(await outputOf('xenstore-ls', '-f', '-p', '/t')).toBe(
      '/t/a = "one"   (n0,r3)\n/t/a/deeper = "two"   (n0)\n',
    );
    expect(await outputOf('xenstore-ls', '-p', '/t')).toMatch(/^a = "one" .*\(n0,r3\)\n deeper = "two" .*\(n0\)\n$/);
  });

  it('xenstore-ls of a directory that comes in parts', async () => {
    const names = Array.from({ length: 1000 }, (_, i) => `node-${i}`);
    const client = fixture.client();
    await Promise.all(names.map((name) => client.write(`/t/${name}`, 'v')));
    expect(await outputOf('xenstore-ls', '/t')).toBe(names.map((name) => `${name} = "v"\n`).join(''));
  });

  it('xenstore-chmod, of one node and of a tree', async () => {
    await outputOf('xenstore-write', '/t/a/b', 'v');
    await outputOf('xenstore-chmod', '-r', '/t', 'n0', 'b5');
    expect(await outputOf('xenstore-ls', '-f', '-p', '/t')).toBe('/t/a = ""   (n0,b5)\n/t/a/b = "v"   (n0,b5)\n');
    await outputOf('xenstore-chmod', '/t/a', 'r0');
    expect(await fixture.client().getPermissions('/t/a')).toEqual({ owner: 0, others: 'read', grants: [] });
    expect((await run('xenstore-chmod', ['/t/none', 'r0'])).status).not.toBe(0);
  });

  it('xenstore-rm, and -t to tidy empty parents', async () => {
    await outputOf('xenstore-write', '/t/a/b/c', 'v', '/t/x', 'v');
    await outputOf('xenstore-rm', '/t/x');
    await outputOf('xenstore-rm', '-t', '/t/a/b/c');
    expect((await run('xenstore-exists', ['/t'])).status).toBe(1);
  });

  it('xenstore-watch sees the changes of others', async () => {
    const watching = spawn(tool('xenstore-watch', 'xenstore-utils'), ['-n', '4', '/t'], { env: environment() });
    const ended = new Promise<number | null>((resolve) => watching.once('close', resolve));
    const lines = linesOf(watching);
    await expect.poll(() => lines).toEqual(['/t']);
    await outputOf('xenstore-write', '/t/a', 'v');
    await expect.poll(() => lines).toEqual(['/t', '/t/a']);
    await outputOf('xenstore-chmod', '/t/a', 'r0');
    await expect.poll(() => lines).toHaveLength(3);
    await outputOf('xenstore-rm', '/t');
    expect(await ended).toBe(0);
    expect(lines).toEqual(['/t', '/t/a', '/t/a', '/t']);
    await expect.poll(() => fixture.server.counters().watches).toBe(0);
  });
});
