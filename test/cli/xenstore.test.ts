/** `pvkit xenstored` and `pvkit xenstore`, each beside Debian's own tools on the same store. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { without } from '../../packages/xenstore/src/testing/peers.ts';
import { debian, environmentOf, outputOf, pvkit, Running, temporaryDirectory } from './pvkit.ts';

/** Every byte but NUL, which no argument can have, in text that is one byte a character on the way. */
const AWKWARD = `quote" backslash\\ tab\t newline\n return\r bell\x07 backspace\x08 escape\x1b delete\x7f é`;

let env: NodeJS.ProcessEnv = {};
let socket = '';
let daemon: Running;

beforeEach(async () => {
  const directory = temporaryDirectory();
  socket = join(directory, 'socket');
  env = environmentOf(directory, socket);
  daemon = Running.pvkit(['xenstored', '--socket', socket], environmentOf(directory));
  await daemon.says(`xenstore on ${socket}`);
});

const ours = (...args: string[]): Promise<string> => outputOf(pvkit(['xenstore', ...args], env));
const theirs = (tool: string, ...args: string[]): Promise<string> => outputOf(debian(tool, args, env));

describe.skipIf(without('xenstore-utils', '/usr/bin/xenstore-read'))('pvkit xenstore', () => {
  it('reads what xenstore-write wrote, and the reverse, byte for byte', async () => {
    await theirs('xenstore-write', '-R', '/t/theirs', AWKWARD, '/t/empty', ''); // without -R it reads escapes
    await ours('write', '/t/ours', AWKWARD, '/t/none', '');
    const paths = ['/t/theirs', '/t/ours', '/t/empty', '/t/none'];
    const text = await theirs('xenstore-read', ...paths);
    expect(await ours('read', ...paths)).toBe(text);
    const [first, second] = text.split('\n');
    expect(second).toBe(first);
  });

  it('lists as xenstore-ls -f -p and xenstore-list do', async () => {
    await ours('write', '/t/a', 'one', '/t/a/b/c', AWKWARD, '/t/ab', 'two', '/u', 'three');
    await theirs('xenstore-chmod', '/t/a', 'n3', 'r0', 'b5');
    await ours('chmod', '/u', 'r7');
    // Debian's pads to the terminal's width, and has its own order.
    const lines = (text: string) => text.trimEnd().replace(/ +\(/g, ' (').split('\n').sort();
    expect(lines(await ours('ls'))).toEqual(lines(await theirs('xenstore-ls', '-f', '-p')));
    expect(lines(await ours('ls', '/t'))).toEqual(lines(await theirs('xenstore-ls', '-f', '-p', '/t')));
    expect(await ours('ls', '/t/a')).toMatch(/^\/t\/a\/b = "" +\(n0\)\n\/t\/a\/b\/c = "quote/);
    expect(await ours('ls', '/u')).toBe('');
    expect(lines(await ours('list', '/t'))).toEqual(lines(await theirs('xenstore-list', '/t')));
    expect(await ours('list', '/t')).toBe('a\nab\n');
  });

  it('removes', async () => {
    await theirs('xenstore-write', '/t/a/b', 'x', '/t/c', 'x', '/t/d', 'x');
    await ours('rm', '/t/a', '/t/c');
    expect(await theirs('xenstore-list', '/t')).toBe('d\n');
    await theirs('xenstore-rm', '/t/d');
    expect(await ours('list', '/t')).toBe('');
  });

  it('sets permissions that xenstore-ls shows', async () => {
    await ours('write', '/t/a', 'x');
    await ours('chmod', '/t/a', 'b1', 'r2', 'w3', 'n4');
    expect(await theirs('xenstore-ls', '-f', '-p', '/t')).toMatch(/^\/t\/a = "x" +\(b1,r2,w3,n4\)\n$/);
  });

  it.each([
    { args: ['read', '/none'], tool: ['xenstore-read', '/none'] },
    { args: ['list', '/none'], tool: ['xenstore-list', '/none'] },
    { args: ['ls', '/none'], tool: ['xenstore-ls', '/none'] },
    { args: ['chmod', '/none', 'r0'], tool: ['xenstore-chmod', '/none', 'r0'] },
    { args: ['read', '/a//b'], tool: ['xenstore-read', '/a//b'] },
    { args: ['write', '/a b', 'x'], tool: ['xenstore-write', '/a b', 'x'] },
    { args: ['write', '/a/', 'x'], tool: ['xenstore-write', '/a/', 'x'] },
    { args: ['rm', '/'], tool: ['xenstore-rm', '/'] },
    { args: ['rm', '/none'], tool: undefined }, // which xenstore-rm takes for done
  ])('fails with status 1 and one sentence that names the path: $args', async ({ args, tool }) => {
    const finished = await pvkit(['xenstore', ...args], env);
    expect(finished).toEqual({ status: 1, output: '', errors: expect.stringMatching(/^pvkit: [^\n]+\n$/) });
    expect(finished.errors).toContain(args[1]);
    if (tool !== undefined) expect((await debian(tool[0]!, tool.slice(1), env)).status).toBe(1);
  });

  it('writes all or nothing', async () => {
    const { status } = await pvkit(['xenstore', 'write', '/t/a', 'x', '/t/b//c', 'x'], env);
    expect(status).toBe(1);
    expect(await theirs('xenstore-ls', '-f')).not.toMatch(/^\/t\b/m);
  });

  it('watches, and ends after as many events as it was asked for', async () => {
    const watching = Running.pvkit(['xenstore', 'watch', '--count', '4', '/t', '/u'], env);
    await watching.says('/t\n');
    await watching.says('/u\n');
    await theirs('xenstore-write', '/t/a', 'x');
    await watching.says('/t/a\n');
    await theirs('xenstore-rm', '/t/a');
    expect(await watching.ended).toBe(0);
    expect(watching.output).toBe('/t\n/u\n/t/a\n/t/a\n');
  });

  it('watches until it is interrupted, or until the store is gone', async () => {
    const interrupted = Running.pvkit(['xenstore', 'watch', '/t'], env);
    const left = Running.pvkit(['xenstore', 'watch', '/t'], env);
    await interrupted.says('/t\n');
    await left.says('/t\n');
    expect(await interrupted.end('SIGINT')).toBe(0);
    expect(await daemon.end('SIGTERM')).toBe(0);
    expect(await left.ended).toBe(1);
    expect(left.errors).toMatch(/^pvkit: xenstore connection: ECONNRESET[^\n]*\n$/);
  });

  it("has its writes seen by Debian's xenstore-watch", async () => {
    const watching = new Running('/usr/bin/xenstore-watch', ['-n', '3', '/t'], env);
    await watching.says('/t\n');
    await ours('write', '/t/a', 'x', '/t/b', 'x');
    expect(await watching.ended).toBe(0);
    expect(watching.output).toBe('/t\n/t/a\n/t/b\n');
  });
});

describe('pvkit xenstored', () => {
  it('removes its socket at the end, and what a killed one left behind is replaced', async () => {
    expect(await daemon.end('SIGKILL')).toBeNull();
    expect(existsSync(socket)).toBe(true);
    const next = Running.pvkit(['xenstored', '--socket', socket], env);
    await next.says(`xenstore on ${socket}`);
    expect(await theirs('xenstore-list', '/')).toBe('tool\n');
    expect(await next.end('SIGTERM')).toBe(0);
    expect(existsSync(socket)).toBe(false);
  });

  it('does not take the socket of one that runs', async () => {
    const { status, errors } = await pvkit(['xenstored', '--socket', socket], env);
    expect(status).toBe(2);
    expect(errors).toMatch(/^pvkit: [^\n]+\n$/);
    expect(errors).toContain(socket);
    expect(await theirs('xenstore-list', '/')).toBe('tool\n');
  });
});
