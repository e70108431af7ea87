// The Debian packages that the lab is built from: those that must be installed on this machine, and those that are only unpacked.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { LabError } from './errors.ts';
import { cacheFolder } from './places.ts';

/** Each package is known by one file of it: that is what the lab will use, however the package came here. */
const required: Readonly<Record<string, string>> = {
  'qemu-system-x86': '/usr/bin/qemu-system-x86_64',
  'xen-utils-4.17': '/usr/lib/xen-4.17/bin/xl',
  'xenstore-utils': '/usr/bin/xenstore-ls',
  'busybox-static': '/bin/busybox',
  kmod: '/sbin/depmod',
  'xz-utils': '/usr/bin/xz',
  e2fsprogs: '/sbin/e2fsck',
  'util-linux': '/usr/bin/setpriv',
};
const forLoads: Readonly<Record<string, string>> = {
  gcc: '/usr/bin/gcc',
  'libc6-dev': '/usr/lib/x86_64-linux-gnu/libc.a',
};

/** Where Debian's QEMU for Xen is, once `qemu-system-xen` is installed. */
export const xenQemu = '/usr/libexec/xen-qemu-system-i386';

/** The hypervisor and kernel that are booted, and the folder that holds the kernel's modules. */
export interface Kernels {
  readonly xen: string;
  /** The bare ELF kernel: starts faster than the compressed one, in Dom0 and in guests. */
  readonly vmlinux: string;
  readonly version: string;
  /** `lib/modules/VERSION` of the unpacked kernel package, with depmod's files. */
  readonly modules: string;
}

const hypervisorPackage = 'xen-hypervisor-4.17-amd64';

const run = (command: string, args: readonly string[], options: { cwd?: string; input?: Buffer } = {}): Buffer => {
  try {
    return execFileSync(command, args, {
      ...options,
      stdio: ['pipe', 'pipe', 'pipe'],
      maxBuffer: 512 << 20,
      env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C' },
    });
  } catch (error) {
    const stderr = error instanceof Error && 'stderr' in error ? String(error.stderr).trim() : String(error);
    throw new LabError(`'${[command, ...args].join(' ')}' failed: ${stderr.split('\n').slice(-5).join('\n')}`);
  }
};

/** What of the packages is missing here; `loads` adds the compiler for guest load programs. */
export const missingPackages = (loads = false, exists: (file: string) => boolean = existsSync): string[] =>
  Object.entries(loads ? { ...required, ...forLoads } : required)
    .filter(([, file]) => !exists(file))
    .map(([name]) => name);

/**
 * Makes sure that every needed package is installed. With `PVKIT_LAB_INSTALL=1` (CI, as root) it installs what is missing.
 * @throws {LabError} naming all missing packages and the one command that installs them.
 */
export const requirePackages = (say: (text: string) => void, loads = false): void => {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new LabError(
      `the Xen lab is built from Debian packages for x86-64, not for ${process.platform} on ${process.arch}`,
    );
  }
  let missing = missingPackages(loads);
  if (missing.length > 0 && mayInstall()) {
    say(`installing ${missing.join(', ')} (about 20 s)`);
    run('apt-get', ['update', '-qq']);
    run('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...missing]);
    missing = missingPackages(loads);
  }
  if (missing.length > 0) throw packagesError(missing);
};

/** What to tell about missing packages. */
export const packagesError = (missing: readonly string[]): LabError =>
  new LabError(
    `the Xen lab needs Debian packages that are not installed: ${missing.join(', ')}\n` +
      `install them with: apt-get install -y --no-install-recommends ${missing.join(' ')}\n` +
      '(as root, on Debian 12; or set PVKIT_LAB_INSTALL=1 to have the lab do it)',
  );

/** Installs `qemu-system-xen` where that is allowed; says why not otherwise. Only the comparison with qdisk needs it. */
export const missingXenQemu = (say: (text: string) => void): string | undefined => {
  if (!existsSync(xenQemu) && mayInstall()) {
    say('installing qemu-system-xen');
    run('apt-get', ['update', '-qq']);
    run('apt-get', ['install', '-y', '-qq', '--no-install-recommends', 'qemu-system-xen']);
  }
  if (existsSync(xenQemu)) return undefined;
  return 'qemu-system-xen is not installed (apt-get install -y --no-install-recommends qemu-system-xen)';
};

const mayInstall = (): boolean => process.env.PVKIT_LAB_INSTALL === '1' && process.getuid?.() === 0;

/**
 * The hypervisor and kernel, downloaded from Debian and unpacked into the cache; nothing of this machine's boot is touched.
 * Does nothing but look when they are there.
 */
export const fetchKernels = (say: (text: string) => void): Kernels => {
  const cache = cacheFolder();
  const done = join(cache, 'kernels.version');
  if (!existsSync(done)) {
    say('downloading Xen and the kernel from Debian (about 75 MB)');
    const kernelPackage = findKernelPackage();
    const work = mkdtempSync(join(cache, 'download-'));
    try {
      run('apt-get', ['download', '-qq', '-o', 'APT::Sandbox::User=root', hypervisorPackage, kernelPackage], {
        cwd: work,
      });
      const unpacked = join(work, 'root');
      for (const deb of readdirSync(work).filter((name) => name.endsWith('.deb'))) {
        run('dpkg-deb', ['-x', join(work, deb), unpacked]);
      }
      const version = kernelPackage.replace('linux-image-', '');
      run('/sbin/depmod', ['-b', unpacked, version]);
      writeFileSync(join(unpacked, 'xen'), gunzipSync(readFileSync(join(unpacked, 'boot/xen-4.17-amd64.gz'))));
      writeFileSync(join(unpacked, 'vmlinux'), bareKernel(readFileSync(join(unpacked, `boot/vmlinuz-${version}`))));
      rmSync(join(cache, 'kernels'), { recursive: true, force: true });
      renameSync(unpacked, join(cache, 'kernels'));
      writeFileSync(done, version);
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  }
  const version = readFileSync(done, 'utf8');
  const root = join(cache, 'kernels');
  return {
    xen: join(root, 'xen'),
    vmlinux: join(root, 'vmlinux'),
    version,
    modules: join(root, 'lib/modules', version),
  };
};

/** `linux-image-amd64` is empty and depends on the kernel of the day. */
const findKernelPackage = (): string => {
  const find = (): string | undefined =>
    /Depends: (linux-image-[0-9]\S*)/.exec(run('apt-cache', ['depends', 'linux-image-amd64']).toString())?.[1];
  const known = (): string | undefined => {
    try {
      return find();
    } catch {
      return undefined;
    }
  };
  const name = known();
  if (name !== undefined) return name;
  if (mayInstall()) {
    run('apt-get', ['update', '-qq']);
    const updated = find();
    if (updated !== undefined) return updated;
  }
  throw new LabError("Debian's package lists name no linux-image-amd64: run 'apt-get update' first (as root)");
};

/** Takes the ELF kernel out of a bzImage; Debian compresses it with xz. */
const bareKernel = (image: Buffer): Buffer => {
  const start = image.indexOf(Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]));
  if (start < 0) throw new LabError('the kernel image holds no xz stream');
  return run('/usr/bin/xz', ['-dc', '--single-stream'], { input: image.subarray(start) });
};
