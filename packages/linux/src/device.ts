/** Opening the device nodes of `/dev/xen`, with errors that say what to do about it. */
import { closeSync, constants, existsSync, openSync, readFileSync } from 'node:fs';
import { ErrnoError } from '@pvkit/ring';
import { errnoOf, wrapErrno } from './sys/errno.ts';
import { addressOf, lastErrno, libc } from './sys/libc.ts';

/** The device nodes that pvkit uses, and the kernel module behind each (none where it is always built in). */
const MODULES = { evtchn: 'xen-evtchn', gntdev: 'xen-gntdev', gntalloc: 'xen-gntalloc', xenbus: undefined } as const;
export type XenDevice = keyof typeof MODULES;

const pathOf = (device: XenDevice): string => `/dev/xen/${device}`;

/** Whether this machine runs on Xen, as Dom0 or as a guest. */
export function isXenDomain(): boolean {
  try {
    return readFileSync('/sys/hypervisor/type', 'latin1').trim() === 'xen';
  } catch {
    return existsSync('/proc/xen/capabilities'); // a kernel without sysfs' hypervisor directory
  }
}

/** What to do about a device node that does not open. */
export function deviceHint(device: XenDevice, errno: string, onXen = isXenDomain()): string | undefined {
  const module = MODULES[device];
  switch (errno) {
    case 'ENOENT':
    case 'ENODEV':
    case 'ENXIO':
      if (!onXen) return 'this machine is not a Xen domain';
      if (module !== undefined) return `load the kernel module: modprobe ${module}`;
      return existsSync(pathOf(device))
        ? 'no xenstore serves this domain yet; in Dom0 start xenstored'
        : 'the kernel was built without CONFIG_XEN';
    case 'EACCES':
    case 'EPERM':
      return `run as root, or give this user read and write permission on ${pathOf(device)}`;
    default:
      return undefined;
  }
}

/**
 * Opens `/dev/xen/<device>` for reading and writing without waiting; the caller closes it.
 * @throws ErrnoError that names the module to load or the permission to fix.
 */
export function openDevice(device: XenDevice): number {
  const path = pathOf(device);
  try {
    return openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
  } catch (error) {
    throw wrapErrno(error, `opening ${path}`, undefined, deviceHint(device, errnoOf(error) ?? ''));
  }
}

/**
 * Checks that the devices can be opened.
 * @returns one error for each that cannot, in the order given.
 */
export function missingDevices(devices: readonly XenDevice[]): ErrnoError[] {
  const errors: ErrnoError[] = [];
  for (const device of devices) {
    try {
      closeSync(openDevice(device));
    } catch (error) {
      if (!(error instanceof ErrnoError)) throw error;
      errors.push(error);
    }
  }
  return errors;
}

/** The argument of an ioctl: native memory that is used again for every call. */
export class IoctlArgument {
  #words = new Uint32Array(16);
  #address = addressOf(this.#words.buffer);

  /** The 32-bit words, little-endian, at least `count` of them. Valid until the next call. */
  words(count: number): Uint32Array {
    if (count > this.#words.length) {
      this.#words = new Uint32Array(2 ** Math.ceil(Math.log2(count)));
      this.#address = addressOf(this.#words.buffer);
    }
    return this.#words;
  }

  /** Makes the call. @returns its result, or -1 as errno is set. */
  call(fd: number, request: number): number {
    return libc().ioctl(fd, request, this.#address);
  }

  /** Makes the call and names the errno of a failure. */
  errno(fd: number, request: number): string | undefined {
    return this.call(fd, request) < 0 ? lastErrno() : undefined;
  }
}

/** Reads the unsigned 64-bit number at a word index; ours are file offsets, below 2^53. */
export const readU64 = (words: Uint32Array, index: number): number => words[index]! + words[index + 1]! * 2 ** 32;

export function writeU64(words: Uint32Array, index: number, value: number): void {
  words[index] = value;
  words[index + 1] = Math.floor(value / 2 ** 32);
}
