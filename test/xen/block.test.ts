// Block devices on real Xen: kernel frontends on our backend, our frontend on the kernel's backend and on ours.
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { bundleGuestProgram } from './lab/bundle.ts';
import type { Job } from './lab/job.ts';
import type { Lab } from './lab/lab.ts';
import { cacheFolder } from './lab/places.ts';
import { sharedLab } from './lab/shared.ts';

let lab: Lab;
beforeAll(async () => {
  lab = await sharedLab();
});

/** For a guest's whole life, on a machine that is busy with other things too. */
const SLOW_MS = 240_000;

const disk = (target: string, access = 'rw') =>
  `format=raw,vdev=xvda,access=${access},script=/bin/true,target=${target}`;

/** Guests' scripts begin so: the disk is there once the frontend has connected. */
const mountDisk =
  'modprobe xen-blkfront; modprobe ext4; until [ -b /dev/xvda ]; do sleep 0.1; done; mount -t ext4 /dev/xvda /mnt';

/** An ext4 image of 32 MiB with some files, and what `sha256sum` says of them. */
async function makeImage(path: string): Promise<string> {
  return await lab.sh(`rm -rf /tmp/tree && mkdir -p /tmp/tree/folder
    for i in 1 2 3 4 5; do head -c 1000003 /dev/urandom >/tmp/tree/folder/file$i; done
    /bin/dd if=/dev/zero of=${path} bs=1M count=32 2>/dev/null
    /sbin/mke2fs -q -t ext4 -d /tmp/tree ${path}
    cd /tmp/tree && sha256sum folder/*`);
}

describe("pvkit's backend in Dom0", () => {
  let host: Job;
  beforeAll(async () => {
    host = lab.spawn('exec pvkit host --log-level debug');
    await host.waitForOutput(/serving disks/, 60_000);
  });
  beforeEach(({ onTestFailed }) => {
    onTestFailed(async () => {
      const nodes = await lab.run('xenstore-ls -f /local/domain | grep -E "/(vbd|error)/"');
      console.error(`--- log of pvkit host:\n${host.stdout}${host.stderr}\n--- nodes:\n${nodes.stdout}`);
    });
  });
  afterAll(async () => {
    await host.kill('TERM');
    const result = await host.wait();
    expect(result.status).toBe(0);
  });

  it.each(['pv', 'pvh'] as const)('serves a %s Linux guest a file system, read and written', async (type) => {
    const image = `/tmp/${type}.img`;
    const sums = await makeImage(image);
    const guest = await lab.createGuest({
      name: `disk-${type}`,
      type,
      disks: [disk(image)],
      script: `${mountDisk} || exit 1
        cd /mnt && sha256sum folder/*
        head -c 7000001 /dev/urandom >new && sha256sum new && rm folder/file3 && mkdir made && sync
        cd / && umount /mnt`,
    });
    const result = await guest.wait(SLOW_MS);
    expect(result.status, result.console).toBe(0);
    expect(result.output).toContain(sums);
    const after = await lab.sh(`/sbin/e2fsck -fn ${image} >&2
      modprobe ext4; modprobe loop; mount -t ext4 -o loop,ro ${image} /mnt && cd /mnt && sha256sum new && ls && ls folder
      cd / && umount /mnt && rm ${image}`);
    const [sum, ...names] = after.trim().split('\n');
    expect(result.output).toContain(sum);
    expect(names).toEqual(['folder', 'lost+found', 'made', 'new', 'file1', 'file2', 'file4', 'file5']);
  });

  it('leaves nothing behind when its guests are gone', async () => {
    expect(await lab.sh('xenstore-ls /local/domain/0/backend 2>/dev/null || true')).not.toContain('frontend-id');
  });

  it('refuses a guest a write to a read-only disk', async () => {
    await makeImage('/tmp/ro.img');
    const before = await lab.sh('sha256sum </tmp/ro.img');
    const guest = await lab.createGuest({
      name: 'read-only',
      type: 'pv',
      disks: [disk('/tmp/ro.img', 'ro')],
      script: `modprobe xen-blkfront; until [ -b /dev/xvda ]; do sleep 0.1; done
        cat /sys/block/xvda/ro; /bin/dd if=/dev/zero of=/dev/xvda bs=4096 count=1 oflag=direct 2>/dev/null; echo dd $?`,
    });
    const result = await guest.wait(SLOW_MS);
    expect(result.output).toBe('1\ndd 1\n');
    expect(await lab.sh('sha256sum </tmp/ro.img; rm /tmp/ro.img')).toBe(before);
  });

  it('attaches and detaches a disk of a running guest', async () => {
    await makeImage('/tmp/hot.img');
    const guest = await lab.createGuest({
      name: 'hotplug',
      type: 'pv',
      script: `modprobe xen-blkfront; echo ready; until [ -b /dev/xvdb ]; do sleep 0.1; done
        modprobe ext4; mount -o ro /dev/xvdb /mnt && ls -1 /mnt/folder && umount /mnt; echo used
        while [ -b /dev/xvdb ]; do sleep 0.1; done; echo gone`,
    });
    await guest.waitForConsole(/ready/);
    await lab.sh('pvkit block-attach hotplug format=raw,vdev=xvdb,access=ro,target=/tmp/hot.img');
    await guest.waitForConsole(/used/);
    expect(await lab.sh('pvkit block-list hotplug')).toMatch(/51728 +0 +Connected +\/tmp\/hot\.img/);
    await lab.sh('pvkit block-detach hotplug xvdb');
    const result = await guest.wait(SLOW_MS);
    expect(result.output).toContain('file1\nfile2\nfile3\nfile4\nfile5\nused\ngone\n');
    await lab.sh('rm /tmp/hot.img');
  });

  it('says why a disk is not served, to the toolstack and in its error node', async () => {
    await expect(
      lab.createGuest({ name: 'no-image', type: 'pv', disks: [disk('/tmp/none.img')], script: 'true' }),
    ).rejects.toThrow();
    await host.waitForOutput(/disk image '\/tmp\/none\.img' can't be opened: ENOENT/);
    expect(await lab.sh('xenstore-ls -f /local/domain/0/error')).toContain(
      "error = \"22 disk image '/tmp/none.img' can't be opened: ENOENT\"",
    );
  });

  it('lets go of a guest that is destroyed in the middle of its I/O', async () => {
    await lab.sh('/bin/dd if=/dev/zero of=/tmp/busy.img bs=1M count=16 2>/dev/null');
    const guest = await lab.createGuest({
      name: 'destroyed',
      type: 'pv',
      disks: [disk('/tmp/busy.img')],
      script: `modprobe xen-blkfront; until [ -b /dev/xvda ]; do sleep 0.1; done; echo busy
        while true; do /bin/dd if=/dev/zero of=/dev/xvda bs=64k count=64 oflag=direct 2>/dev/null; done`,
    });
    await guest.waitForConsole(/busy/);
    await guest.destroy();
    // A domain of which a page is still mapped stays, without a name.
    await lab.sh(
      `for try in 1 2 3 4 5 6 7 8 9 10; do xl list | grep -q '(null)' || exit 0; sleep 1; done; xl list; exit 1`,
    );
    expect(await lab.sh('xenstore-ls /local/domain/0/backend 2>/dev/null || true')).not.toContain('frontend-id');
    await lab.sh('rm /tmp/busy.img');
  });

  it("serves pvkit's own frontend in a guest whose only program is Node", async () => {
    await readThroughOurFrontend('own-front', disk('/tmp/plain.img'), '/tmp/plain.img');
  });
});

describe("the kernel's xen-blkback in Dom0", () => {
  it("serves pvkit's frontend in a guest whose only program is Node", async () => {
    await lab.sh('modprobe xen-blkback; modprobe loop');
    try {
      await readThroughOurFrontend(
        'kernel-back',
        'format=raw,vdev=xvda,access=rw,script=block-lab,target=/dev/loop0',
        '/dev/loop0',
      );
    } finally {
      await lab.sh('/sbin/losetup -d /dev/loop0; rmmod xen_blkback');
    }
  });
});

/** A guest with our frontend reads a disk of random bytes, writes its last sector, and holds nothing at the end. */
async function readThroughOurFrontend(name: string, xlDisk: string, device: string): Promise<void> {
  const folder = join(cacheFolder('bundles'), 'read-disk');
  await bundleGuestProgram(join(import.meta.dirname, 'programs/read-disk.ts'), folder);
  await lab.sh('head -c 16777216 /dev/urandom >/tmp/plain.img');
  if (device.startsWith('/dev/loop')) await lab.sh(`/sbin/losetup ${device} /tmp/plain.img`);
  const before = await lab.readFile('/tmp/plain.img');
  const guest = await lab.createGuest({
    name,
    type: 'pv',
    node: true,
    folders: { '/opt/program': folder },
    disks: [xlDisk],
    script: `modprobe xen-evtchn; modprobe xen-gntdev; modprobe xen-gntalloc
      node /opt/program/main.js device/vbd/51712 write`,
  });
  const result = await guest.wait(SLOW_MS);
  expect(result.status, result.console).toBe(0);
  const [read, written, usage] = result.output.trim().split('\n');
  expect(JSON.parse(read ?? '')).toEqual({
    sectors: before.length / 512,
    sha256: createHash('sha256').update(before).digest('hex'),
  });
  expect(written).toBe('written');
  expect(JSON.parse(usage ?? '')).toEqual({ grantedPages: 0, quarantinedPages: 0, mappedPages: 0, eventPorts: 0 });
  const after = await lab.readFile('/tmp/plain.img');
  expect(after.subarray(0, -512).equals(before.subarray(0, -512))).toBe(true);
  expect(after.subarray(-512).every((byte) => byte === 0xa5)).toBe(true);
}
