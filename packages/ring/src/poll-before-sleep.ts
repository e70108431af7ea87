/**
 * A busy ring's end looks again for some microseconds before it sleeps: being woken costs far more than that. Whether it
 * pays is the platform's to say, and learnt: where the other side does not run meanwhile, it is soon given up.
 */
import type { Platform } from './platform.ts';
import type { Runtime } from './runtime.ts';

/** Attempts in a row that may fail before they pause. */
const PATIENCE = 4;
/** Sleeps without an attempt after that, doubled each time up to the limit. */
const FIRST_PAUSE = 8;
const LONGEST_PAUSE = 1024;

export interface PollCallbacks {
  /** Whether there is work now; cheap, and without side effects on the other side. */
  readonly ready: () => boolean;
  /** Whether anything is to be expected; if not, it sleeps without having learnt anything. */
  readonly expecting: () => boolean;
  /** There is work. */
  readonly work: () => void;
  /** There was none: arrange for an event and sleep. */
  readonly sleep: () => void;
}

export class PollBeforeSleep {
  readonly #runtime: Runtime;
  readonly #attempt: number;
  readonly #callbacks: PollCallbacks;
  #score = PATIENCE;
  /** Sleeps left in the pause. */
  #pause = 0;
  #pauseLength = FIRST_PAUSE;
  #deadline = 0;
  #running = false;
  #stopped = false;
  readonly #look = (): void => {
    this.#running = false;
    if (this.#stopped) return;
    if (this.#callbacks.ready()) {
      this.#score = PATIENCE;
      this.#pauseLength = FIRST_PAUSE;
      this.#callbacks.work();
    } else if (!this.#callbacks.expecting()) this.#callbacks.sleep();
    else if (this.#runtime.now() < this.#deadline) this.#again();
    else {
      this.#failed();
      this.#callbacks.sleep();
    }
  };

  constructor(
    { runtime, pollMilliseconds = 0 }: Pick<Platform, 'runtime' | 'pollMilliseconds'>,
    callbacks: PollCallbacks,
  ) {
    this.#runtime = runtime;
    this.#attempt = pollMilliseconds;
    this.#callbacks = callbacks;
  }

  /** The work is done: looks for more for a while, or sleeps at once where that has not paid. */
  idle(): void {
    if (this.#running || this.#stopped) return;
    if (this.#attempt === 0 || this.#pause > 0) {
      if (this.#pause > 0) this.#pause--;
      this.#callbacks.sleep();
      return;
    }
    this.#deadline = this.#runtime.now() + this.#attempt;
    this.#again();
  }

  /** No callback follows. */
  stop(): void {
    this.#stopped = true;
  }

  #again(): void {
    this.#running = true;
    this.#runtime.nextTurn(this.#look);
  }

  #failed(): void {
    this.#score--;
    if (this.#score > 0) return;
    this.#score = 1;
    this.#pause = this.#pauseLength;
    this.#pauseLength = Math.min(this.#pauseLength * 2, LONGEST_PAUSE);
  }
}
