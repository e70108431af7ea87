// Real Xen for tests: boots it in QEMU under emulation, runs commands in Dom0, makes guests.
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { bundlePvkit } from './bundle.ts';
import { LabError, type Tail, within, withTails } from './errors.ts';
import { checkGuestName, Guest, type GuestOptions, guestConfiguration, guestLog, writeGuestLayer } from './guest.ts';
import { buildImages, buildXenQemu, type Images, inDom0 } from './images.ts';
import { Job, type RunResult } from './job.ts';
import { Machine, type MachineOptions, place } from './machine.ts';
import { missingXenQemu, requirePackages } from './packages.ts';
import { cacheFolder } from './places.ts';

export interface LabOptions extends Partial<MachineOptions> {
  /** Puts the built pvkit command into Dom0 (`pvkit` in the PATH). Default true. */
  readonly pvkit?: boolean;
  /** A prompt on the console beside the agent. Default false. */
  readonly shell?: boolean;
  /** Told what long steps are doing; default: standard error. */
  readonly say?: (text: string) => void;
  /** Default 180 s. */
  readonly bootTimeoutMs?: number;
}

const sayToStderr = (text: string): void => {
  process.stderr.write(`xen lab: ${text}\n`);
};

export class Lab {
  /** The folder of this machine that Dom0 sees as `/lab`. */
  readonly share: string;
  readonly machine: Machine;
  readonly #folder: string;
  readonly #images: Images;
  readonly #say: (text: string) => void;
  readonly #ends = new Map<number, { resolve: (status: number) => void; reject: (error: Error) => void }>();
  readonly #guests = new Set<Guest>();
  #nextJob = 1;
  #nextFile = 1;
  #closed = false;
  #ready: () => void = () => {};

  /** Builds what is missing, boots, and resolves when Dom0 answers. Rejects with a `LabError`; nothing is left running then. */
  static async boot(options: LabOptions = {}): Promise<Lab> {
    const say = options.say ?? sayToStderr;
    requirePackages(say);
    const started = Date.now();
    const images = buildImages(say);
    say('booting Xen and Dom0 (about 10 s)');
    const lab = new Lab(images, options, say);
    try {
      const [bundle] = await Promise.all([
        options.pvkit === false ? undefined : bundlePvkit(lab.#folder),
        lab.#waitUntilReady(options.bootTimeoutMs ?? 180_000),
      ]);
      lab.machine.forgetBootFiles();
      if (bundle !== undefined) await lab.#installLayer(bundle);
      if (options.shell === true) await lab.sh('touch /run/shell-ready');
      say(`Dom0 answers after ${((Date.now() - started) / 1000).toFixed(1)} s`);
      return lab;
    } catch (error) {
      await lab.close();
      throw error;
    }
  }

  private constructor(images: Images, options: LabOptions, say: (text: string) => void) {
    this.#images = images;
    this.#say = say;
    this.#folder = newRunFolder();
    this.share = join(this.#folder, 'share');
    for (const name of ['jobs', 'guests', 'files']) mkdirSync(join(this.share, name), { recursive: true });
    this.machine = new Machine(images, this.#folder, this.share, {
      cpus: options.cpus ?? 1,
      memoryMiB: options.memoryMiB ?? 4096,
      dom0MemoryMiB: options.dom0MemoryMiB ?? 2048,
      xenArguments: options.xenArguments ?? '',
      dom0Arguments: `${options.dom0Arguments ?? ''}${options.shell === true ? ' lab.shell' : ''}`,
      cpu: options.cpu ?? 'qemu64,+npt,+nrip-save',
    });
    this.machine.lines.on('line', (line) => this.#onLine(line));
    void this.machine.ended.then(() => {
      for (const end of this.#ends.values()) end.reject(this.failure('Xen or Dom0 ended'));
      this.#ends.clear();
    });
  }

  /** Starts a shell command in Dom0, and does not wait for it. */
  spawn(command: string): Job {
    const number = this.#nextJob++;
    const folder = join(this.share, 'jobs', String(number));
    mkdirSync(folder);
    writeFileSync(join(folder, 'command'), `${command}\n`);
    const ended = new Promise<number>((resolve, reject) => {
      if (this.#closed) reject(new LabError('the lab is closed'));
      this.#ends.set(number, { resolve, reject });
    });
    this.machine.send(`run ${number}`);
    return new Job(
      command,
      folder,
      ended,
      (signal) => this.machine.send(`kill ${number} ${signal}`),
      () => this.#tails(),
    );
  }

  /** Runs a shell command in Dom0 to its end; any exit status is a result, a time-out (default 60 s) is an error. */
  async run(command: string, options: { readonly timeoutMs?: number } = {}): Promise<RunResult> {
    return await this.spawn(command).wait(options.timeoutMs);
  }

  /** Runs a shell command that must succeed, and returns what it wrote to stdout. */
  async sh(command: string, options: { readonly timeoutMs?: number } = {}): Promise<string> {
    const job = this.spawn(command);
    const result = await job.wait(options.timeoutMs);
    if (result.status !== 0) throw job.failure(`status ${result.status}`);
    return result.stdout;
  }

  /** Copies a file of this machine into Dom0's memory. */
  async push(source: string, path: string): Promise<void> {
    const name = this.#newFile();
    copyFileSync(source, join(this.share, name));
    await this.sh(`mkdir -p "$(dirname '${path}')" && mv '/lab/${name}' '${path}'`, { timeoutMs: 120_000 });
  }

  /** Copies a file of Dom0 to this machine. */
  async pull(path: string, target: string): Promise<void> {
    const name = this.#newFile();
    await this.sh(`cp '${path}' '/lab/${name}'`, { timeoutMs: 120_000 });
    copyFileSync(join(this.share, name), target);
    rmSync(join(this.share, name));
  }

  async writeFile(path: string, data: string | Uint8Array): Promise<void> {
    const name = this.#newFile();
    writeFileSync(join(this.share, name), data);
    await this.sh(`mkdir -p "$(dirname '${path}')" && mv '/lab/${name}' '${path}'`);
  }

  async readFile(path: string): Promise<Buffer> {
    const name = this.#newFile();
    await this.sh(`cp '${path}' '/lab/${name}'`);
    const data = readFileSync(join(this.share, name));
    rmSync(join(this.share, name));
    return data;
  }

  /** Makes and starts a guest; resolves when it runs. */
  async createGuest(options: GuestOptions): Promise<Guest> {
    checkGuestName(options.name);
    const { name } = options;
    const log = guestLog(this.share, name);
    rmSync(log, { force: true });
    const layer = this.#newFile();
    writeGuestLayer(options, join(this.share, layer));
    const parts: string[] = [inDom0.guestImage];
    if (options.node === true) {
      place(this.#images.node, join(this.share, 'files/node.img'));
      parts.push('/lab/files/node.img');
    }
    const ramdisk = `/run/lab/${name}.img`;
    const configuration = `/run/lab/${name}.cfg`;
    const keeper = this.spawn(
      `cat ${[...parts, `/lab/${layer}`].join(' ')} >${ramdisk} || exit 1
cat >${configuration} <<'END'
${guestConfiguration(options, ramdisk)}END
exec xl create -F ${configuration}`,
    );
    const destroy = async (domain: string): Promise<void> => {
      await this.run(`xl destroy ${domain}`);
      await keeper.wait();
    };
    try {
      const started = /Waiting for domain \S+ \(domid (\d+)\) to die/;
      const domid = (await keeper.waitForOutput(started, options.createTimeoutMs))[1] ?? '';
      const guest = new Guest(name, Number(domid), log, keeper, () => destroy(domid));
      this.#guests.add(guest);
      return guest;
    } catch (error) {
      // xl may hang with the domain half made.
      keeper.kill('KILL');
      await destroy(name);
      throw error;
    } finally {
      this.spawn(`rm -f ${ramdisk} /lab/${layer}`);
    }
  }

  /** Ends all guests that still run, as after a failed test. */
  async destroyGuests(): Promise<void> {
    for (const guest of this.#guests) await guest.destroy();
    this.#guests.clear();
  }

  /** Puts QEMU's device model into Dom0, for `backendtype=qdisk`; the reason where this machine has none. */
  async installXenQemu(): Promise<string | undefined> {
    const why = missingXenQemu(this.#say);
    if (why !== undefined) return why;
    await this.#installLayer(buildXenQemu(this.#say));
    return undefined;
  }

  /** Ends guests and machine, however they are. May be called twice. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.machine.kill();
    await this.machine.ended;
    rmSync(join(this.share, 'files'), { recursive: true, force: true });
    this.machine.forgetBootFiles();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** What all consoles said last. */
  #tails(): Tail[] {
    return [
      { title: `console of Xen and Dom0 (all of it: ${this.machine.console.file})`, text: this.machine.console.tail() },
      ...[...this.#guests]
        .filter((guest) => guest.running)
        .map((guest) => ({ title: `console of guest ${guest.name}`, text: guest.tail() })),
    ];
  }

  /** An error that shows what all consoles said last. */
  failure(what: string): LabError {
    return new LabError(withTails(what, this.#tails()));
  }

  #onLine(line: string): void {
    const [verb, number, status] = line.split(' ');
    if (verb === 'ready') this.#ready();
    if (verb !== 'end') return;
    this.#ends.get(Number(number))?.resolve(Number(status));
    this.#ends.delete(Number(number));
  }

  async #waitUntilReady(timeoutMs: number): Promise<void> {
    const ready = new Promise<void>((resolve) => {
      this.#ready = resolve;
    });
    const ended = this.machine.ended.then(() => {
      throw this.failure('Xen or Dom0 ended while booting');
    });
    await within(Promise.race([ready, ended]), timeoutMs, () =>
      this.failure(`Dom0 did not answer within ${timeoutMs} ms`),
    );
  }

  /** Unpacks a cpio archive over Dom0's root. */
  async #installLayer(archive: string): Promise<void> {
    const name = this.#newFile();
    place(archive, join(this.share, name));
    await this.sh(`cd / && cpio -idmu </lab/${name}`, { timeoutMs: 120_000 });
  }

  #newFile(): string {
    return `files/${this.#nextFile++}`;
  }
}

const keptRuns = 3;

/** A folder for one boot's logs and shared files, named by time and process; the last few are kept to look into. */
const newRunFolder = (): string => {
  const runs = cacheFolder('runs');
  const ended = readdirSync(runs)
    .filter((name) => !isAlive(Number(name.split('.')[1])))
    .sort();
  for (const name of ended.slice(0, -keptRuns)) rmSync(join(runs, name), { recursive: true, force: true });
  return mkdtempSync(join(runs, `${new Date().toISOString().slice(0, 19).replaceAll(':', '-')}.${process.pid}.`));
};

const isAlive = (pid: number): boolean => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};
