// The lab itself: what every other test here stands on.
import { join } from 'node:path';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { kernelBackend } from './lab/backends.ts';
import { bundleGuestProgram } from './lab/bundle.ts';
import type { Lab } from './lab/lab.ts';
import { cacheFolder } from './lab/places.ts';
import { sharedLab } from './lab/shared.ts';

let lab: Lab;
beforeAll(async () => {
  lab = await sharedLab();
});
afterEach(async () => {
  await lab.destroyGuests();
});

describe('Dom0', () => {
  it('runs on Xen and answers with status, stdout and stderr apart', async () => {
    const result = await lab.run("xl info | grep -E '^(xen_version|free_memory)'; echo aside >&2; exit 3");
    expect(result.stdout).toMatch(/^xen_version +: 4\.17/m);
    expect(result.stderr).toBe('aside\n');
    expect(result.status).toBe(3);
  });

  it('takes and gives back files byte for byte', async () => {
    const data = Uint8Array.from({ length: 300_001 }, (_, index) => (index * 31) >>> 3);
    await lab.writeFile('/tmp/folder/data', data);
    expect((await lab.readFile('/tmp/folder/data')).equals(data)).toBe(true);
  });

  it('shows the consoles when a command does not end, and kills it', async () => {
    const job = lab.spawn('echo begun; sleep 987');
    await job.waitForOutput(/begun/);
    await expect(job.wait(100)).rejects.toThrow(
      /no end after 100 ms[\s\S]*begun[\s\S]*console of Xen and Dom0[\s\S]*\(XEN\)/,
    );
    expect((await job.wait()).status).toBe(137);
    expect(await lab.sh('ps')).not.toContain('sleep 987');
  });

  it('has the bundled pvkit with the native library that it needs', async () => {
    const check = "import('koffi').then(({ default: koffi }) => console.log(koffi.load(null) !== undefined))";
    expect(await lab.sh(`cd /opt/pvkit && command -v pvkit && node -e "${check}"`)).toBe(
      '/opt/pvkit/bin/pvkit\ntrue\n',
    );
  });
});

describe('guests', () => {
  it.each(['pv', 'pvh'] as const)('of type %s start, report and end', async (type) => {
    const guest = await lab.createGuest({
      name: `report-${type}`,
      type,
      script: 'cat /sys/hypervisor/guest_type; exit 5',
    });
    const result = await guest.wait();
    expect(result).toMatchObject({ status: 5, output: `${type.toUpperCase()}\n` });
    expect(await lab.sh('xl list')).not.toContain(`report-${type}`);
  });

  it('that hang are destroyed, and the error shows their console', async () => {
    const guest = await lab.createGuest({ name: 'hangs', type: 'pv', script: 'echo waiting for godot; sleep 1000' });
    await guest.waitForConsole(/godot/);
    await expect(guest.wait(100)).rejects.toThrow(/console of guest hangs[\s\S]*waiting for godot/);
    expect(await lab.sh('xl list')).not.toContain('hangs');
  });

  it('with Node as their only program reach the event channels and grants', async () => {
    const folder = join(cacheFolder('programs'), 'probe');
    await bundleGuestProgram(join(import.meta.dirname, 'programs/probe.ts'), folder);
    const guest = await lab.createGuest({
      name: 'node',
      type: 'pv',
      node: true,
      folders: { '/opt/program': folder },
      script: 'node /opt/program/main.js',
    });
    const result = await guest.wait();
    expect(result.status).toBe(0);
    expect(JSON.parse(result.output)).toMatchObject({
      version: process.version,
      devices: expect.arrayContaining(['evtchn', 'gntalloc', 'gntdev', 'xenbus']),
      native: true,
    });
  });

  it("keep files on a disk of the kernel's own backend", async () => {
    await lab.sh(`/bin/dd if=/dev/zero of=/tmp/disk.img bs=1M count=32 && /sbin/mke2fs -q -t ext4 /tmp/disk.img`);
    const { disk, close } = await kernelBackend.serve(lab, '/tmp/disk.img');
    const guest = await lab.createGuest({
      name: 'disk',
      type: 'pv',
      disks: [disk],
      script: `modprobe xen-blkfront; modprobe ext4
        until [ -b /dev/xvda ]; do sleep 0.1; done
        mount -t ext4 /dev/xvda /mnt && head -c 5000000 /dev/urandom >/mnt/data && sha256sum </mnt/data && umount /mnt`,
    });
    const result = await guest.wait();
    expect(result).toMatchObject({ status: 0 });
    await close();
    await lab.sh('/sbin/e2fsck -fn /tmp/disk.img');
    const read = await lab.sh(`modprobe ext4 && mount -o loop,ro /tmp/disk.img /mnt && sha256sum </mnt/data
      umount /mnt && rm /tmp/disk.img`);
    expect(read).toMatch(/^[0-9a-f]{64} /);
    expect(result.output).toContain(read);
  });
});
