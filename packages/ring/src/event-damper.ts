/**
 * Spurious events are legal, but a storm of them must not keep a thread from its other work (XSA-332, XSA-391): after so
 * many in a row that found nothing to do, the port rests, masked, for 1 ms, 2 ms, and so on.
 */
import type { Runtime } from './runtime.ts';

/** Empty events in a row that are taken as they come. */
const EMPTY_MAX = 32;
const REST_MS_MAX = 32;

export class EventDamper {
  /** Events that found nothing to do, ever. */
  spurious = 0;
  readonly #runtime: Runtime;
  #inARow = 0;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /** An event found work. */
  worked(): void {
    this.#inARow = 0;
  }

  /** An event found nothing: calls `unmask` now, or after a rest. */
  empty(unmask: () => void): void {
    this.spurious++;
    this.#inARow++;
    const excess = this.#inARow - EMPTY_MAX;
    if (excess > 0) this.#runtime.timer(Math.min(2 ** (excess - 1), REST_MS_MAX), unmask);
    else unmask();
  }
}
