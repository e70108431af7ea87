/** Things to close, in reverse order of their opening, once: at the end, on Ctrl-C or on SIGTERM. */
import type { Logger } from './log.ts';

export class Shutdown {
  readonly #log: Logger;
  readonly #steps: { readonly name: string; readonly close: () => Promise<void> | void }[] = [];
  #running: Promise<void> | undefined;
  readonly #requested: Promise<NodeJS.Signals>;

  constructor(log: Logger) {
    this.#log = log;
    this.#requested = new Promise((resolve) => {
      for (const signal of ['SIGINT', 'SIGTERM'] as const)
        process.on(signal, () => {
          if (this.#running !== undefined) return;
          resolve(signal);
        });
    });
  }

  /** Resolves when somebody asks the process to end. */
  get requested(): Promise<NodeJS.Signals> {
    return this.#requested;
  }

  /** `close` runs before those that were added earlier. */
  add(name: string, close: () => Promise<void> | void): void {
    this.#steps.push({ name, close });
  }

  /** Closes everything; a step that fails is logged and the others follow. Idempotent. */
  run(): Promise<void> {
    this.#running ??= this.#close();
    return this.#running;
  }

  async #close(): Promise<void> {
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
      try {
        await step.close();
        this.#log.debug(`closed ${step.name}`);
      } catch (error) {
        this.#log.error({ err: error }, `closing ${step.name} failed`);
      }
    }
  }
}
