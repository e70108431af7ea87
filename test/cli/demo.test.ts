/** `pvkit demo`, which `npm start` runs. */
import { createHash, randomFillSync } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { without } from '../../packages/xenstore/src/testing/peers.ts';
import { debian, environmentOf, outputOf, pvkit, Running, temporaryDirectory } from './pvkit.ts';

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** Regular files and sockets below a directory, by name. */
const filesBelow = (directory: string): string[] =>
  readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map(({ name }) => name);

describe('pvkit demo --check', () => {
  it('makes an image, and the guest reads the same and writes what the image then holds', async () => {
    const directory = temporaryDirectory();
    const output = await demoOutput(['demo', '--check'], directory);
    const read = /guest read 64.0 MiB in .* SHA-256 (\w{64})\n/.exec(output)?.[1];
    expect(output).toContain(`SHA-256 ${read} ✓\n`);
    expect(output).toMatch(/guest wrote 1.0 MiB, flushed, read back; the image holds it ✓\n/);
    expect(output).toContain('guest put back what was there');
    expect(output).not.toContain('✗');
    expect(filesBelow(directory)).toEqual([]);
  });

  it.each([4 * 1024 * 1024, 512, 1024 * 1024 + 512])(
    'leaves an image of %i bytes that is given as it was',
    async (bytes) => {
      const directory = temporaryDirectory();
      const image = join(directory, 'given disk, with a comma.img');
      const before = randomFillSync(Buffer.alloc(bytes));
      writeFileSync(image, before);
      const output = await demoOutput(['demo', '--check', '--disk', image], directory);
      expect(output.match(new RegExp(`SHA-256 ${sha256(before)}`, 'g'))).toHaveLength(2);
      expect(output).toContain(`SHA-256 ${sha256(before)} ✓\n`);
      expect(readFileSync(image).equals(before)).toBe(true);
      expect(filesBelow(directory)).toEqual(['given disk, with a comma.img']);
    },
  );
});

/** What a demonstration prints that has to end well; its log tells of nothing but information. */
async function demoOutput(args: readonly string[], directory: string): Promise<string> {
  const { status, output, errors } = await pvkit(args, environmentOf(directory));
  const worst = errors.split('\n').filter((line) => line !== '' && JSON.parse(line).level > 30);
  expect({ status, worst }).toEqual({ status: 0, worst: [] });
  return output;
}

describe.skipIf(without('xenstore-utils', '/usr/bin/xenstore-ls'))('pvkit demo', () => {
  it('stays up with its tree in the store until SIGINT, then closes in order and leaves nothing', async () => {
    const directory = temporaryDirectory();
    const socket = join(directory, 'pvkit', 'xenstored.socket');
    const demo = Running.pvkit(['demo', '--log-level', 'debug'], environmentOf(directory));
    await demo.says('serving until Ctrl-C');
    expect(demo.output).toContain(`XENSTORED_PATH=${socket} xenstore-ls -f`);
    expect(statSync(socket).mode & 0o777).toBe(0o600);

    const tree = await outputOf(debian('xenstore-ls', ['-f'], environmentOf(directory, socket)));
    for (const line of [
      '/local/domain/0/name = "Domain-0"',
      '/local/domain/0/backend/vbd/1/51712/frontend = "/local/domain/1/device/vbd/51712"',
      '/local/domain/0/backend/vbd/1/51712/state = "4"',
      '/local/domain/0/backend/vbd/1/51712/sectors = "131072"',
      '/local/domain/1/name = "demo"',
      '/local/domain/1/device/vbd/51712/state = "4"',
      '/local/domain/1/device/vbd/51712/protocol = "x86_64-abi"',
    ])
      expect(tree).toContain(`${line}\n`);
    const permissions = await outputOf(debian('xenstore-ls', ['-f', '-p'], environmentOf(directory, socket)));
    expect(permissions).toMatch(/^\/local\/domain\/1\/device\/vbd\/51712 = "" +\(n1,r0\)$/m);
    expect(permissions).toMatch(/^\/local\/domain\/0\/backend\/vbd\/1\/51712 = "" +\(n0,r1\)$/m);

    expect(await demo.end('SIGINT')).toBe(0);
    const closed = demo.messages.filter((message) => /^closed |closing every device/.test(String(message)));
    expect(closed).toEqual([
      'SIGINT: closing every device in order',
      'closed the guest',
      'closed disk xvda',
      'closed the block backend',
      'closed the xenstore socket',
      'closed the log level',
      'closed the loopback machine',
      'closed the demonstration image',
    ]);
    // The frontend closed first, and the backend followed it.
    expect(demo.log).toContainEqual(
      expect.objectContaining({ msg: 'xenbus.backend-action', own: 'Connected', peer: 'Closing' }),
    );
    expect(existsSync(socket)).toBe(false);
    expect(filesBelow(directory)).toEqual([]);
  });

  it('ends soon when it is interrupted while the guest reads', async () => {
    const directory = temporaryDirectory();
    const image = join(directory, 'large.img');
    writeFileSync(image, '');
    truncateSync(image, 4 * 1024 ** 3); // takes seconds to read
    const demo = Running.pvkit(['demo', '--disk', image], environmentOf(directory));
    await demo.says('read through one ring');
    expect(await demo.end('SIGTERM')).toBe(1); // the check was not done
    expect(demo.log.filter(({ level }) => Number(level) > 30)).toEqual([]);
    expect(filesBelow(directory)).toEqual(['large.img']);
  });
});
