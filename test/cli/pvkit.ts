/** For tests: the built command as a process, and Debian's tools beside it. */
import { type ChildProcessWithoutNullStreams, execFile, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished } from 'vitest';

const CLI = fileURLToPath(new URL('../../packages/host/dist/cli.js', import.meta.url));
/** Longer than anything that does come takes, on a busy machine. */
const PATIENCE_MS = 25_000;

export interface Finished {
  readonly status: number | null;
  readonly output: string;
  readonly errors: string;
}

/** A directory of its own for one test, gone afterwards. */
export function temporaryDirectory(): string {
  const path = mkdtempSync(join(tmpdir(), 'pvkit-cli-'));
  onTestFinished(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** The environment of a user without any: nothing of this machine's stores is found by chance. */
export const environmentOf = (directory: string, socket?: string): NodeJS.ProcessEnv => ({
  PATH: process.env.PATH,
  HOME: directory,
  XDG_RUNTIME_DIR: directory,
  ...(socket === undefined ? {} : { XENSTORED_PATH: socket }),
});

function run(file: string, args: readonly string[], env: NodeJS.ProcessEnv): Promise<Finished> {
  return new Promise((resolve) => {
    const child = execFile(file, args, { env, timeout: PATIENCE_MS, encoding: 'utf8' }, (_error, output, errors) =>
      resolve({ status: child.exitCode, output, errors }),
    );
  });
}

/** Runs `pvkit` to its end. */
export const pvkit = (args: readonly string[], env: NodeJS.ProcessEnv): Promise<Finished> =>
  run(process.execPath, [CLI, ...args], env);

/** Runs one of Debian's xenstore tools to its end. */
export function debian(tool: string, args: readonly string[], env: NodeJS.ProcessEnv): Promise<Finished> {
  const path = `/usr/bin/${tool}`;
  if (!existsSync(path)) throw new Error(`${path} is missing: apt-get install xenstore-utils`);
  return run(path, args, env);
}

/** What a run printed that had to end well. */
export async function outputOf(finished: Promise<Finished>): Promise<string> {
  const { status, output, errors } = await finished;
  expect({ status, errors }).toEqual({ status: 0, errors: '' });
  return output;
}

/** A `pvkit` that goes on; killed with its test if it has not ended by then. */
export class Running {
  output = '';
  errors = '';
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #ended: Promise<number | null>;
  #isOver = false;
  #waiting: (() => void)[] = [];

  constructor(file: string, args: readonly string[], env: NodeJS.ProcessEnv) {
    this.#child = spawn(file, args, { env });
    this.#child.stdout.setEncoding('utf8').on('data', (text: string) => {
      this.output += text;
      this.#changed();
    });
    this.#child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.errors += text;
      this.#changed();
    });
    this.#ended = new Promise((resolve) => {
      this.#child.once('close', (status) => {
        this.#isOver = true;
        this.#changed();
        resolve(status);
      });
    });
    onTestFinished(async () => {
      if (!this.#isOver) this.#child.kill('SIGKILL');
      await this.#ended;
    });
  }

  static pvkit(args: readonly string[], env: NodeJS.ProcessEnv): Running {
    return new Running(process.execPath, [CLI, ...args], env);
  }

  /** Resolves once standard output or error holds `text`. */
  async says(text: string | RegExp): Promise<void> {
    const said = () =>
      [this.output, this.errors].some((all) => (typeof text === 'string' ? all.includes(text) : text.test(all)));
    while (!said()) {
      if (this.#isOver) throw new Error(`pvkit ended without saying '${text}':\n${this.output}${this.errors}`);
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  /** Sends a signal and waits for the end. @returns the status, null when the signal killed it. */
  end(signal: NodeJS.Signals): Promise<number | null> {
    this.#child.kill(signal);
    return this.#ended;
  }

  get ended(): Promise<number | null> {
    return this.#ended;
  }

  /** What it logged, one object a line. */
  get log(): Record<string, unknown>[] {
    return this.errors
      .split('\n')
      .filter((line) => line.startsWith('{'))
      .map((line) => JSON.parse(line));
  }

  get messages(): unknown[] {
    return this.log.map(({ msg }) => msg);
  }

  #changed(): void {
    for (const look of this.#waiting.splice(0)) look();
  }
}
