// QEMU with Xen and Dom0 in it: the process, its console, and the line channel to the agent in Dom0.
import { type ChildProcess, spawn } from 'node:child_process';
import { copyFileSync, existsSync, linkSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import type { Duplex, Readable, Writable } from 'node:stream';
import { Console } from './console.ts';
import { LabError } from './errors.ts';
import { fastKernel } from './guest.ts';
import type { Images } from './images.ts';

export interface MachineOptions {
  /** Virtual processors that QEMU emulates, all given to Xen. */
  readonly cpus: number;
  readonly memoryMiB: number;
  readonly dom0MemoryMiB: number;
  readonly xenArguments: string;
  readonly dom0Arguments: string;
  /** A QEMU model on which PV and PVH guests both run; richer ones make Dom0 or PVH guests crash under emulation. */
  readonly cpu: string;
}

const channelFd = 3;
const bootFiles = ['xen', 'vmlinux', 'dom0.img'] as const;

const machines = new Set<Machine>();
// Registered once: whatever ends this process, QEMU ends before it. A SIGKILL is covered by --pdeathsig.
process.once('exit', () => {
  for (const machine of machines) machine.kill();
});

export class Machine {
  readonly console: Console;
  readonly stdin: Writable;
  readonly stdout: Readable;
  /** What the agent says, line by line. */
  readonly lines: Interface;
  /** Settles when QEMU has ended. */
  readonly ended: Promise<void>;
  readonly #folder: string;
  readonly #process: ChildProcess;
  readonly #channel: Duplex;

  /** `folder` holds the console's log; `share` is what Dom0 sees as /lab. */
  constructor(images: Images, folder: string, share: string, options: MachineOptions) {
    mkdirSync(share, { recursive: true });
    // Short names in QEMU's own folder: its list of boot modules gives commas and spaces a meaning.
    place(images.kernels.xen, join(folder, 'xen'));
    place(images.kernels.vmlinux, join(folder, 'vmlinux'));
    place(images.dom0, join(folder, 'dom0.img'));
    this.#folder = folder;
    this.#process = spawn('/usr/bin/setpriv', ['--pdeathsig', 'KILL', ...qemuCommand(share, options)], {
      cwd: folder,
      stdio: ['pipe', 'pipe', 'pipe', 'pipe'],
    });
    machines.add(this);
    const { stdin, stdout, stderr } = this.#process;
    const channel = this.#process.stdio[channelFd];
    if (stdin === null || stdout === null || stderr === null || !isDuplex(channel)) {
      throw new LabError('QEMU was started without its pipes');
    }
    this.stdin = stdin;
    this.stdout = stdout;
    this.console = new Console(join(folder, 'console.log'), stdout);
    stderr.on('data', (chunk: Buffer) => stdout.emit('data', chunk));
    stdin.on('error', () => {});
    channel.on('error', () => {});
    this.#channel = channel;
    this.lines = createInterface({ input: channel });
    // The channel breaks when QEMU ends; that is reported by `ended`.
    this.lines.on('error', () => {});
    this.ended = new Promise((resolve) => {
      const settle = (): void => {
        machines.delete(this);
        this.console.close();
        resolve();
      };
      this.#process.once('close', settle);
      this.#process.once('error', settle);
    });
  }

  /** Sends one line to the agent. */
  send(line: string): void {
    this.#channel.write(`${line}\n`);
  }

  /** Drops the names of the boot files, which QEMU has read once Dom0 runs. */
  forgetBootFiles(): void {
    for (const name of bootFiles) rmSync(join(this.#folder, name), { force: true });
  }

  kill(): void {
    this.#process.kill('SIGKILL');
  }
}

const qemuCommand = (share: string, options: MachineOptions): string[] => [
  'qemu-system-x86_64',
  ...['-accel', 'tcg,thread=multi', '-cpu', options.cpu, '-smp', String(options.cpus), '-m', String(options.memoryMiB)],
  ...['-nodefaults', '-no-reboot', '-display', 'none', '-serial', 'stdio'],
  ...['-device', 'virtio-serial-pci', '-chardev', `socket,id=agent,fd=${channelFd}`],
  ...['-device', 'virtserialport,chardev=agent,name=lab'],
  ...['-fsdev', `local,id=lab,path=${share.replaceAll(',', ',,')},security_model=none`],
  ...['-device', 'virtio-9p-pci,fsdev=lab,mount_tag=lab'],
  ...['-kernel', 'xen', '-append', xenCommandLine(options)],
  ...['-initrd', `vmlinux console=hvc0 loglevel=5 ${fastKernel} ${options.dom0Arguments},dom0.img`],
];

const xenCommandLine = (options: MachineOptions): string =>
  `console=com1 com1=115200,8n1 loglvl=warning guest_loglvl=warning noreboot dom0_mem=${options.dom0MemoryMiB}M ${options.xenArguments}`;

/** A second name for a cached file where the file system can do that, else a copy. */
export const place = (source: string, target: string): void => {
  if (existsSync(target)) return;
  try {
    linkSync(source, target);
  } catch {
    copyFileSync(source, target);
  }
};

const isDuplex = (stream: unknown): stream is Duplex =>
  typeof stream === 'object' && stream !== null && 'read' in stream && 'write' in stream;
