// Brings a fresh clone to a state that runs: dependencies from the lockfile, then the build. Needs Node alone.
// Does nothing that is done already, so every npm script may call it first.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const quiet = process.argv.includes('--quiet');
const say = (text) => process.stderr.write(`pvkit setup: ${text}\n`);

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  say(`Node ${process.versions.node} is too old; pvkit needs 20.19 or newer`);
  process.exit(2);
}

const run = (command, args) => {
  try {
    execFileSync(command, args, { cwd: root, stdio: ['ignore', 2, 2] });
  } catch (error) {
    say(`'${[command, ...args].join(' ')}' failed; its output is above`);
    process.exit(typeof error.status === 'number' && error.status !== 0 ? error.status : 1);
  }
};

const stamp = join(root, 'node_modules', '.pvkit-lockfile');
const lock = createHash('sha256')
  .update(readFileSync(join(root, 'package-lock.json')))
  .digest('hex');
if (!existsSync(stamp) || readFileSync(stamp, 'utf8') !== lock) {
  say('installing dependencies from the lockfile (about 10 s the first time)');
  run('npm', ['ci', '--no-fund', '--no-audit', '--loglevel=error']);
  writeFileSync(stamp, lock);
}
if (!quiet || !existsSync(join(root, 'packages/host/dist/cli.js'))) say('building');
run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-b']);
