/** `pvkit host` on a loopback machine, and the commands that change it while it runs. */
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { without } from '../../packages/xenstore/src/testing/peers.ts';
import { debian, environmentOf, outputOf, pvkit, Running, temporaryDirectory } from './pvkit.ts';

let directory = '';
let socket = '';
let env: NodeJS.ProcessEnv = {};
let host: Running;

const image = (name: string): string => join(directory, `${name}.img`);

/** Two guests, `first` with two disks (one read-only), `second` with one. */
beforeEach(async () => {
  directory = temporaryDirectory();
  socket = join(directory, 'store');
  env = environmentOf(directory, socket);
  for (const name of ['a', 'b', 'c', 'd']) writeFileSync(image(name), Buffer.alloc(1024 * 1024, name));
  const config = join(directory, 'pvkit.toml');
  writeFileSync(
    config,
    `socket = "${socket}"
instance = "loopback"

[[guest]]
name = "first"
disk = ["format=raw,vdev=xvda,access=rw,target=${image('a')}", "${image('b')},raw,xvdb,r"]

[[guest]]
name = "second"
disk = ["vdev=xvda,target=${image('c')}"]
`,
  );
  host = Running.pvkit(['host', '--config', config], env);
  await connected('first', 51712);
  await connected('first', 51728);
  await connected('second', 51712);
});

const connected = (guest: string, devid: number): Promise<void> =>
  host.says(new RegExp(`"path":"device/vbd/${devid}".*"msg":"guest ${guest}: connected"`));

describe.skipIf(without('xenstore-utils', '/usr/bin/xenstore-read'))('pvkit host', () => {
  it('serves the disks of its configuration file, and closes in order on SIGTERM', async () => {
    expect(await outputOf(pvkit(['block-list', 'first'], env))).toBe(
      [
        'Vdev   BE  state        target',
        `51712  0   Connected    ${image('a')}`,
        `51728  0   Connected    ${image('b')}`,
        '',
      ].join('\n'),
    );
    expect(await outputOf(pvkit(['block-list', '2'], env))).toContain(`51712  0   Connected    ${image('c')}\n`);
    const read = ['mode', 'sectors', 'info'].map((key) => `/local/domain/0/backend/vbd/1/51728/${key}`);
    expect(await outputOf(debian('xenstore-read', read, env))).toBe('r\n2048\n4\n');

    expect(await host.end('SIGTERM')).toBe(0);
    expect(host.messages).toContain('SIGTERM: closing every device in order');
    // A last line for each device, wherever its closing has come to by then.
    const status = host.messages.filter((message) => /^loopback:host\/\d\/vbd\/.* errors 0/.test(String(message)));
    expect(status).toHaveLength(3);
    expect(host.log.filter(({ level }) => Number(level) > 30)).toEqual([]);
    expect(existsSync(socket)).toBe(false);
  });

  it('takes a disk more and gives one up while it runs', async () => {
    expect(await outputOf(pvkit(['block-attach', 'second', `vdev=xvdd,access=ro,target=${image('d')}`], env))).toBe('');
    await connected('second', 51760);
    expect(await outputOf(pvkit(['block-list', 'second'], env))).toContain(`51760  0   Connected    ${image('d')}\n`);

    const twice = await pvkit(['block-attach', 'second', `vdev=xvdd,target=${image('d')}`], env);
    expect(twice).toMatchObject({ status: 1, errors: expect.stringMatching(/^pvkit: .*vbd\/51760: .*EEXIST.*\n$/) });

    expect(await outputOf(pvkit(['block-detach', 'second', 'xvdd'], env))).toBe('');
    await host.says(/"path":"device\/vbd\/51760".*"msg":"guest second: disconnected"/);
    expect(await outputOf(pvkit(['block-list', 'second'], env))).not.toContain('51760');
    expect(await outputOf(debian('xenstore-list', ['/local/domain/0/backend/vbd/2'], env))).toBe('51712\n');

    // The same place again: nothing of the first was left.
    expect(await outputOf(pvkit(['block-attach', '2', `vdev=xvdd,target=${image('d')}`], env))).toBe('');
    await outputOf(pvkit(['block-detach', '2', '51760'], env));
    expect(await host.end('SIGTERM')).toBe(0);
  });

  it('refuses what it cannot do with one sentence, and leaves nothing of it in the store', async () => {
    const before = await outputOf(debian('xenstore-ls', ['-f', '/local'], env));
    for (const { args, says } of [
      { args: ['block-attach', 'first', 'vdev=xvdc,target=/none/of/it'], says: "'/none/of/it'" },
      { args: ['block-attach', 'nobody', 'vdev=xvdc,target=/a'], says: "'nobody'" },
      { args: ['block-attach', 'first', 'vdev=xvdc,target=/a', '--backend', '77'], says: "'77'" },
      { args: ['block-detach', 'first', 'xvdc'], says: 'xvdc' },
      { args: ['block-list', '3'], says: "'3'" },
    ]) {
      const { status, errors } = await pvkit(args, env);
      expect({ args, status, errors }).toEqual({ args, status: 2, errors: expect.stringMatching(/^pvkit: [^\n]+\n$/) });
      expect(errors).toContain(says);
    }
    const after = await outputOf(debian('xenstore-ls', ['-f', '/local'], env));
    const added = after.split('\n').filter((line) => !before.includes(line));
    // But for the empty directories above the message of the one that the backend refused.
    expect(added.filter((line) => !/error(\/backend(\/vbd(\/1)?)?)? = ""$/.test(line))).toEqual([]);
  });

  it('is not held up by a disk that cannot be opened any more', async () => {
    // Straight into the store, as a toolstack that does not wait would do it.
    await outputOf(pvkit(['block-detach', 'second', 'xvda'], env));
    const back = '/local/domain/0/backend/vbd/2/51712';
    const front = '/local/domain/2/device/vbd/51712';
    const nodes = { params: '/none/of/it', mode: 'w', frontend: front, 'frontend-id': '2', online: '1', state: '1' };
    const frontNodes = { backend: back, 'backend-id': '0', state: '1' };
    const pairs = (path: string, all: object) =>
      Object.entries(all).flatMap(([key, value]) => [`${path}/${key}`, value]);
    await outputOf(pvkit(['xenstore', 'write', ...pairs(front, frontNodes), ...pairs(back, nodes)], env));
    await outputOf(pvkit(['xenstore', 'chmod', front, 'n2', 'r0'], env));
    await host.says("disk image '/none/of/it' can't be opened");

    await outputOf(pvkit(['block-attach', 'second', `vdev=xvdd,target=${image('d')}`], env));
    await connected('second', 51760);
    expect(await host.end('SIGTERM')).toBe(0);
  });

  it('changes its log level while it runs', async () => {
    expect(host.log.filter(({ level }) => Number(level) < 30)).toEqual([]);
    await outputOf(pvkit(['log-level', 'debug'], env));
    await host.says('log level is now debug');
    await outputOf(pvkit(['block-detach', 'second', 'xvda'], env));
    await host.says(/"level":20,.*"domid":2,"device":"vbd\/51712".*"msg":"xenbus\.backend-action"/);
    await outputOf(debian('xenstore-write', ['/local/domain/0/data/pvkit/log-level', 'error'], env));
    expect(await host.end('SIGINT')).toBe(0);
  });
});
