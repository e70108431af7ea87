/** Runs every example in a process of its own and shows what it prints. Ends with status 1 if one fails. */
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { basename, join } from 'node:path';

const directory = import.meta.dirname;
const itself = basename(import.meta.filename);
const failed: string[] = [];
for (const file of readdirSync(directory).sort()) {
  if (!file.endsWith('.js') || file === itself) continue;
  console.log(`\n=== examples/src/${file.replace(/js$/, 'ts')}`);
  const { status, signal } = spawnSync(process.execPath, [join(directory, file)], {
    stdio: 'inherit',
    timeout: 60_000,
  });
  if (status === 0) continue;
  failed.push(file);
  console.log(`ended with ${signal ?? `status ${status}`}`);
}
if (failed.length > 0) {
  console.error(`\nfailed: ${failed.join(', ')}`);
  process.exitCode = 1;
}
