/** Runs a look-and-act step whenever asked, never two at a time, and once more if asked meanwhile. */
export class Reconciler {
  readonly #step: () => Promise<void>;
  readonly #failed: (error: unknown) => void;
  #running: Promise<void> | undefined;
  #busy = false;
  #again = false;
  #stopped = false;

  /** `step` looks and acts until there is nothing to do; what it throws goes to `failed`. */
  constructor(step: () => Promise<void>, failed: (error: unknown) => void) {
    this.#step = step;
    this.#failed = failed;
  }

  /** Something may have changed. */
  readonly look = (): void => {
    if (this.#stopped) return;
    if (this.#busy) {
      this.#again = true;
      return;
    }
    this.#busy = true;
    this.#running = this.#run();
  };

  async #run(): Promise<void> {
    do {
      this.#again = false;
      try {
        await this.#step();
      } catch (error) {
        this.#failed(error);
      }
    } while (this.#again && !this.#stopped);
    this.#busy = false;
  }

  /** Whether something may have changed since the step under way began. */
  get asked(): boolean {
    return this.#again;
  }

  /** Whether {@link stop} was called: a step that loops ends then, or a peer that changes its state for ever would hold it. */
  get stopped(): boolean {
    return this.#stopped;
  }

  /** Starts no further step and waits for the one under way. Idempotent. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }
}
