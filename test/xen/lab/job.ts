// One command in Dom0: its files in the shared folder, its end by a line from the agent.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { lastLines } from './console.ts';
import { LabError, type Tail, within, withTails } from './errors.ts';

export interface RunResult {
  /** Exit status; 128 + N after signal N, as the shell counts. */
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

const pollMs = 50;

export class Job {
  readonly command: string;
  readonly #folder: string;
  readonly #kill: (signal: string) => void;
  readonly #tails: () => Tail[];
  readonly #ended: Promise<number>;
  #status: number | undefined;

  constructor(
    command: string,
    folder: string,
    ended: Promise<number>,
    kill: (signal: string) => void,
    tails: () => Tail[],
  ) {
    this.command = command;
    this.#folder = folder;
    this.#kill = kill;
    this.#tails = tails;
    this.#ended = ended.then((status) => {
      this.#status = status;
      return status;
    });
    // Whoever waits gets the rejection; a job that nobody waits for must not end the process.
    this.#ended.catch(() => {});
  }

  /** The exit status once the command has ended. */
  get status(): number | undefined {
    return this.#status;
  }

  get stdout(): string {
    return this.#read('stdout');
  }

  get stderr(): string {
    return this.#read('stderr');
  }

  /** Signals the command and everything that it started; does nothing after its end. */
  kill(signal: 'TERM' | 'INT' | 'KILL' | 'HUP' | 'USR1' | 'USR2' = 'TERM'): void {
    if (this.#status === undefined) this.#kill(signal);
  }

  /** Waits for the end; a command that takes longer is killed and counts as a failure that shows the consoles. */
  async wait(timeoutMs = 60_000): Promise<RunResult> {
    const status = await within(this.#ended, timeoutMs, () => {
      this.#kill('KILL');
      return this.failure(`no end after ${timeoutMs} ms`);
    });
    return { status, stdout: this.stdout, stderr: this.stderr };
  }

  /** Waits until the output (stdout, then stderr) holds a match. */
  async waitForOutput(pattern: RegExp, timeoutMs = 60_000): Promise<RegExpExecArray> {
    return await waitForMatch(
      () => this.stdout + this.stderr,
      pattern,
      timeoutMs,
      () => this.#status !== undefined,
      (why) => this.failure(`no ${pattern} in its output: ${why}`),
    );
  }

  /** An error about this command that shows its output and the consoles. */
  failure(what: string): LabError {
    const own: Tail[] = [
      { title: 'its stdout', text: lastLines(this.stdout, 30) },
      { title: 'its stderr', text: lastLines(this.stderr, 30) },
    ];
    return new LabError(withTails(`in Dom0, '${this.command.trim()}': ${what}`, [...own, ...this.#tails()]));
  }

  #read(name: string): string {
    return readText(join(this.#folder, name));
  }
}

/** The text of a file, or nothing while it does not exist. */
export const readText = (file: string): string => {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
};

/** Looks for a match in a growing text until there is one, its writer has ended, or time is up. */
export const waitForMatch = async (
  text: () => string,
  pattern: RegExp,
  timeoutMs: number,
  ended: () => boolean,
  failure: (why: string) => LabError,
): Promise<RegExpExecArray> => {
  const limit = Date.now() + timeoutMs;
  for (;;) {
    const over = ended();
    const match = pattern.exec(text());
    if (match !== null) return match;
    if (over) throw failure('it has ended');
    if (Date.now() > limit) throw failure(`not within ${timeoutMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, pollMs));
  }
};
