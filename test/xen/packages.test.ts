// What the lab says on a machine that lacks something.
import { expect, it } from 'vitest';
import { Lab } from './lab/lab.ts';
import { missingPackages, packagesError } from './lab/packages.ts';

it('names every missing package with the command that installs them', () => {
  const missing = missingPackages(false, (file) => !file.includes('qemu') && !file.includes('busybox'));
  expect(missing).toEqual(['qemu-system-x86', 'busybox-static']);
  expect(packagesError(missing).message).toContain(
    'apt-get install -y --no-install-recommends qemu-system-x86 busybox-static\n',
  );
});

it('wants the compiler for load programs only', () => {
  const all = missingPackages(true, () => false);
  expect(all).toEqual(expect.arrayContaining([...missingPackages(false, () => false), 'gcc', 'libc6-dev']));
  expect(missingPackages(false, () => false)).not.toContain('gcc');
});

it('says so when Dom0 does not come up in time', async () => {
  const boot = Lab.boot({ pvkit: false, bootTimeoutMs: 50 });
  await expect(boot).rejects.toThrow('Dom0 did not answer within 50 ms');
});
