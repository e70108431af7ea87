/** Whatever is asked for wrongly ends with status 2 and one sentence on standard error that names it. */
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { environmentOf, pvkit, temporaryDirectory } from './pvkit.ts';

/** `{}` in arguments and expectation stands for the test's directory. */
interface Row {
  readonly args: readonly string[];
  readonly says: string;
  /** Text of `{}/pvkit.toml`. */
  readonly config?: string;
}

const host = (config: string, says: string): Row => ({ args: ['host', '--config', '{}/pvkit.toml'], config, says });
const disk = (spec: string, says: string): Row => ({ args: ['host', '--disk', spec], says });
const guest = (rest: string): string => `[[guest]]\nname = "a"\n${rest}\n`;

const ROWS: readonly Row[] = [
  // Commands and flags
  { args: [], says: 'a command is missing' },
  { args: ['xenstore'], says: 'a command is missing' },
  { args: ['frobnicate'], says: "'frobnicate'" },
  { args: ['demo', '--frobnicate'], says: "'--frobnicate'" },
  { args: ['demo', 'extra'], says: "'demo'" },
  { args: ['demo', '--disk'], says: "'--disk <image>'" },
  { args: ['xenstored', '--log-level', 'loud'], says: "'loud'" },
  { args: ['demo', '--log-level', 'loud'], says: "'loud'" },
  { args: ['host', '--log-level', 'loud'], says: "'loud'" },
  { args: ['log-level', 'loud'], says: "'loud'" },
  { args: ['host', '--instance', 'vmware'], says: "'vmware'" },
  { args: ['xenstore', 'watch', '--count', '0', '/a'], says: "'0'" },
  { args: ['xenstore', 'write', '/a'], says: 'pairs of a path and a value' },
  { args: ['xenstore', 'chmod', '/a', 'x0'], says: "'x0'" },
  { args: ['block-attach', 'guest', 'vdev=floppy,target=/a'], says: "'floppy'" },
  { args: ['block-detach', 'guest', 'floppy'], says: "'floppy'" },
  // Image paths
  { args: ['demo', '--disk', '{}/none.img'], says: "'{}/none.img'" },
  { args: ['demo', '--disk', '{}'], says: "'{}'" },
  { args: ['demo', '--disk', '/dev/null'], says: "'/dev/null' is not a regular file" },
  { args: ['demo', '--disk', '{}/empty.img'], says: "'{}/empty.img' has 0 bytes" },
  { args: ['demo', '--disk', '{}/odd.img'], says: "'{}/odd.img' has 1000 bytes" },
  { args: ['demo', '--disk', '{}/other.qcow2'], says: 'qcow2' },
  { args: ['host', '--disk', 'vdev=xvda,target={}/none.img'], says: "'{}/none.img'" },
  // Sockets
  { args: ['demo', '--socket', '{}/none/socket'], says: '{}/none' },
  { args: ['host', '--socket', '{}/none/socket'], says: '{}/none' },
  { args: ['xenstored', '--socket', '{}/none/socket'], says: '{}/none' },
  { args: ['xenstored', '--socket', '{}/empty.img'], says: '{}/empty.img' },
  { args: ['xenstored', '--socket', '{}/in-use'], says: '{}/in-use' },
  { args: ['xenstored', '--socket', `{}/${'long'.repeat(30)}`], says: 'longlong' },
  // Disks
  disk('', "'target' is missing"),
  disk('target=/a', "'vdev' is missing"),
  disk('vdev=xvda', "'target' is missing"),
  disk('vdev=xvda,vdev=xvdb,target=/a', "'vdev' is given twice"),
  disk('format=qcow2,vdev=xvda,target=/a', "'qcow2'"),
  disk('vdev=xvda,access=x,target=/a', "'x'"),
  disk('vdev=xvda,colour=red,target=/a', "'colour'"),
  disk('vdev=xvda,script=block-x,target=/a', "'script=block-x'"),
  disk('/a,raw,xvda,rw,more', "'more'"),
  // Configuration files
  { args: ['host', '--config', '{}/none.toml'], says: "'{}/none.toml'" },
  { args: ['host', '--config', '{}'], says: "'{}'" },
  host('log_level = \n', '{}/pvkit.toml:1'),
  host('\n\n= 3\n', '{}/pvkit.toml:3'),
  host('log_level = "loud"', 'log_level'),
  host('instance = 7', 'instance'),
  host('colour = "red"', 'colour'),
  host('socket = ""', 'socket'),
  host('guest = 3', 'guest'),
  host('[[guest]]\n', 'guest.0.name'),
  host('[[guest]]\nname = "a b"\n', 'guest.0.name'),
  host(guest('memory = 3'), 'memory'),
  host(guest('') + guest(''), "'a' is configured twice"),
  host(guest('disk = ["vdev=floppy,target=/a"]'), "'floppy'"),
  host(guest('disk = ["vdev=xvda,target=/a", "vdev=51712,target=/b"]'), "guest 'a' has two disks"),
  host(guest('disk = ["vdev=xvda,target=/none/of/it"]'), "'/none/of/it'"),
];

describe('is refused with status 2 and one sentence', () => {
  it.concurrent.each(
    ROWS.map((row) => [`pvkit ${row.args.join(' ')} ${row.config ?? ''}`.slice(0, 100), row] as const),
  )('%s', async (_name, { args, says, config }) => {
    const directory = temporaryDirectory();
    const fill = (text: string) => text.replaceAll('{}', directory);
    writeFileSync(join(directory, 'empty.img'), '');
    writeFileSync(join(directory, 'odd.img'), Buffer.alloc(1000));
    writeFileSync(join(directory, 'other.qcow2'), 'QFI\xfb', 'latin1');
    truncateSync(join(directory, 'other.qcow2'), 4096);
    if (config !== undefined) writeFileSync(join(directory, 'pvkit.toml'), config);
    if (args.includes('{}/in-use')) await occupy(join(directory, 'in-use'));

    const { status, output, errors } = await pvkit(args.map(fill), environmentOf(directory));
    expect(errors).toMatch(/^pvkit: [^\n]+\n$/);
    expect(errors).toContain(fill(says));
    expect({ status, output: output.replace(/^making .*\nmade .*\n/, '') }).toEqual({ status: 2, output: '' });
  });
});

/** Listens on a socket for the length of the test. */
async function occupy(path: string): Promise<void> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(path, resolve));
  onTestFinished(() => void server.close());
}

describe('what fails for another reason ends with status 1 and one sentence', () => {
  it.concurrent.each([
    { args: ['host', '--instance', 'xen'], says: /\/dev\/xen\/xenbus: ENOENT \(this machine is not a Xen domain\)/ },
    {
      args: ['xenstore', 'read', '/a', '--socket', '{}/none'],
      says: /\{\}\/none: ENOENT \(.*is xenstored running\?\)/,
    },
    { args: ['block-list', 'guest'], says: /\{\}\/pvkit\/xenstored\.socket: ENOENT/ },
  ])('pvkit $args', async ({ args, says }) => {
    const directory = temporaryDirectory();
    mkdirSync(join(directory, 'pvkit'));
    const finished = await pvkit(
      args.map((text) => text.replace('{}', directory)),
      environmentOf(directory),
    );
    expect(finished).toEqual({ status: 1, output: '', errors: expect.stringMatching(/^pvkit: [^\n]+\n$/) });
    expect(finished.errors.replaceAll(directory, '{}')).toMatch(says);
  });
});
