// The ports of @pvkit/linux against the real /dev/xen, by their own self-check in Dom0.
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { bundleGuestProgram } from './lab/bundle.ts';
import type { Lab } from './lab/lab.ts';
import { sharedLab } from './lab/shared.ts';

let lab: Lab;
beforeAll(async () => {
  lab = await sharedLab();
});

it('pass every check of theirs in Dom0', async () => {
  const entry = join(import.meta.dirname, '../../packages/linux/src/xen-selftest.ts');
  await bundleGuestProgram(entry, join(lab.share, 'selftest'));
  const result = await lab.run('node /lab/selftest/main.js', { timeoutMs: 120_000 });
  const lines = result.stdout.trim().split('\n');
  expect(result.status, result.stdout + result.stderr).toBe(0);
  expect(lines.length).toBeGreaterThan(10);
});

it('name the module that is missing before a guest has to wait for it', async () => {
  await lab.sh('mv /dev/xen/gntdev /dev/xen/away'); // the module itself is in use, by xenconsoled
  try {
    const { status, stderr } = await lab.run('pvkit host');
    expect({ status, stderr }).toMatchObject({ status: 1, stderr: expect.stringContaining('modprobe xen-gntdev') });
  } finally {
    await lab.sh('mv /dev/xen/away /dev/xen/gntdev');
  }
});
