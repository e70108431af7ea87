// The ways to serve an image file in Dom0 as a guest's disk, for tests and for comparison.
import type { Lab } from './lab.ts';

/** A disk that is being served: one entry of xl's `disk=[…]`, good until `close`. */
export interface ServedDisk {
  readonly disk: string;
  close(): Promise<void>;
}

export interface BlockBackend {
  readonly name: string;
  /** Why this lab cannot run it; undefined when it can. May install what it needs into Dom0. */
  unavailable(lab: Lab): Promise<string | undefined>;
  /** Serves `image`, a file in Dom0, as xvda. */
  serve(lab: Lab, image: string): Promise<ServedDisk>;
}

/** The kernel's xen-blkback on a loop device. It claims every vbd of Dom0 while its module is loaded. */
export const kernelBackend: BlockBackend = {
  name: 'kernel xen-blkback',
  unavailable: async () => undefined,
  serve: async (lab, image) => {
    await lab.sh('modprobe loop && modprobe xen-blkback');
    const device = (await lab.sh(`/sbin/losetup --find --show ${image}`)).trim();
    return {
      disk: `format=raw,vdev=xvda,access=rw,script=block-lab,target=${device}`,
      close: async () => {
        await lab.sh(`/sbin/losetup -d ${device} && rmmod xen_blkback`);
      },
    };
  },
};

/** QEMU's own backend, started by xl for each guest. */
export const qdiskBackend: BlockBackend = {
  name: 'QEMU qdisk',
  unavailable: async (lab) => await lab.installXenQemu(),
  serve: async (_lab, image) => ({
    disk: `format=raw,vdev=xvda,access=rw,backendtype=qdisk,target=${image}`,
    close: async () => {},
  }),
};

/**
 * pvkit host in Dom0. Any `script=` makes libxl leave the disk to whoever answers in its backend node, and it looks at
 * the exit status alone.
 */
export const pvkitBackend: BlockBackend = {
  name: 'pvkit',
  unavailable: async () => undefined,
  serve: async (lab, image) => {
    const host = lab.spawn('exec pvkit host --instance xen');
    await host.waitForOutput(/serving disks of/);
    return {
      disk: `format=raw,vdev=xvda,access=rw,script=/bin/true,target=${image}`,
      close: async () => {
        host.kill('TERM');
        const { status } = await host.wait();
        if (status !== 0) throw host.failure(`status ${status}`);
      },
    };
  },
};
