// A guest made by xl: its configuration, its console, its end.
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { lastLines } from './console.ts';
import { Tree, writeArchive } from './cpio.ts';
import { LabError } from './errors.ts';
import { inDom0 } from './images.ts';
import { type Job, readText, waitForMatch } from './job.ts';

export interface GuestOptions {
  /** Letters, digits and dashes; unique among the guests that run. */
  readonly name: string;
  readonly type: 'pv' | 'pvh';
  /** Shell text: all that the guest does. It is powered off afterwards. */
  readonly script: string;
  /** More files for the guest: path in the guest to path on this machine. */
  readonly files?: Readonly<Record<string, string>>;
  /** Folders for the guest, with all that is in them: path in the guest to path on this machine. */
  readonly folders?: Readonly<Record<string, string>>;
  /** Makes Node the guest's program: puts `node` into its PATH and loads the modules behind /dev/xen. */
  readonly node?: boolean;
  /** Default 256, with Node 768. */
  readonly memoryMiB?: number;
  /** Default 1. */
  readonly vcpus?: number;
  /** As in xl's `disk=[…]`: "format=raw,vdev=xvda,access=rw,script=block-lab,target=/dev/loop0". */
  readonly disks?: readonly string[];
  /** More lines for xl's configuration file. */
  readonly config?: readonly string[];
  readonly kernelArguments?: string;
  /** For `xl create`, until the guest runs. Default 60 s. */
  readonly createTimeoutMs?: number;
}

export interface GuestResult {
  /** What the guest's script ended with. */
  readonly status: number;
  /** What the script wrote, without the kernel's and init's own lines before and after. */
  readonly output: string;
  readonly console: string;
}

const cleanUpMs = 60_000;

export class Guest {
  readonly name: string;
  readonly domid: number;
  readonly #log: string;
  /** `xl create -F`: it ends when the guest has been destroyed. */
  readonly #keeper: Job;
  readonly #destroy: () => Promise<void>;

  constructor(name: string, domid: number, log: string, keeper: Job, destroy: () => Promise<void>) {
    this.name = name;
    this.domid = domid;
    this.#log = log;
    this.#keeper = keeper;
    this.#destroy = destroy;
  }

  /** All that the guest has said so far. */
  get console(): string {
    return readText(this.#log).replaceAll('\r', '');
  }

  get running(): boolean {
    return this.#keeper.status === undefined;
  }

  /** Waits until the guest's console holds a match. */
  async waitForConsole(pattern: RegExp, timeoutMs = 60_000): Promise<RegExpExecArray> {
    return await waitForMatch(
      () => this.console,
      pattern,
      timeoutMs,
      () => !this.running,
      (why) => this.#keeper.failure(`no ${pattern} on the console of guest ${this.name}: ${why}`),
    );
  }

  /** Waits until the guest has powered itself off and xl has cleaned up after it; a guest that takes longer is destroyed. */
  async wait(timeoutMs = 120_000): Promise<GuestResult> {
    try {
      await this.waitForConsole(/^GUEST-END \d+/m, timeoutMs);
      // What is left, after the guest's own end, are libxl's time-outs for its devices.
      await this.#keeper.wait(cleanUpMs);
    } catch (error) {
      await this.#destroy();
      throw error;
    }
    const console = this.console;
    const match = /^GUEST-UP .*\n([\s\S]*)^GUEST-END (\d+)/m.exec(console);
    if (match === null) throw this.#keeper.failure(`guest ${this.name} ended without a report`);
    return { status: Number(match[2]), output: match[1] ?? '', console };
  }

  /** Ends the guest at once, if it still runs. */
  async destroy(): Promise<void> {
    if (this.running) await this.#destroy();
  }

  /** The last lines of its console. */
  tail(lines = 40): string {
    return lastLines(this.console, lines);
  }
}

/** Checks the name once, because it becomes part of file names and shell commands. */
export const checkGuestName = (name: string): void => {
  if (!/^[A-Za-z0-9-]{1,40}$/.test(name)) throw new LabError(`not a guest name: '${name}'`);
};

/** Writes the archive that makes the common guest image into this guest. */
export const writeGuestLayer = (options: GuestOptions, file: string): void => {
  const tree = new Tree().text('/lab/script', options.script);
  for (const [path, source] of Object.entries(options.files ?? {})) tree.copy(path, source);
  for (const [path, source] of Object.entries(options.folders ?? {})) tree.copyFolder(path, source);
  writeArchive(tree, file);
};

/** Spares an emulated kernel what takes it a second each and shows nothing here: a search for unsafe page tables, self-tests of ciphers. */
export const fastKernel = 'quiet rodata=off cryptomgr.notests=1';

/** xl's configuration file for the guest. */
export const guestConfiguration = (options: GuestOptions, ramdisk: string): string =>
  [
    `name="${options.name}"`,
    `uuid="${randomUUID()}"`,
    `type="${options.type}"`,
    `kernel="${inDom0.kernel}"`,
    `ramdisk="${ramdisk}"`,
    `extra="console=hvc0 loglevel=4 ${fastKernel} ${options.kernelArguments ?? ''}"`,
    `memory=${options.memoryMiB ?? (options.node === true ? 768 : 256)}`,
    `vcpus=${options.vcpus ?? 1}`,
    'on_poweroff="destroy"',
    'on_reboot="destroy"',
    'on_crash="destroy"',
    `disk=[${(options.disks ?? []).map((disk) => `"${disk}"`).join(',')}]`,
    ...(options.config ?? []),
    '',
  ].join('\n');

/** Where xenconsoled keeps a guest's console, inside the shared folder. */
export const guestLog = (share: string, name: string): string => join(share, 'guests', `guest-${name}.log`);
