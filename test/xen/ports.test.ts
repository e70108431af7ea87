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
