/** A loopback guest in a worker thread, as the host sees it. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import type { LoopbackGuestHandle } from '@pvkit/xenbus/loopback';
import type { GuestMessage, GuestProgram, GuestRequest, GuestWorkerData } from './protocol.ts';

export class GuestWorker {
  readonly #worker: Worker;
  readonly #exited: Promise<unknown>;

  /** Starts `program` in a thread of its own; `message` gets what it reports. */
  constructor(handle: LoopbackGuestHandle, program: GuestProgram, message: (message: GuestMessage) => void) {
    const workerData: GuestWorkerData = { handle, program };
    this.#worker = new Worker(new URL('./guest-worker.js', import.meta.url), { workerData });
    this.#exited = once(this.#worker, 'exit');
    this.#worker.on('message', message);
    this.#worker.on('error', (error) => message({ kind: 'failed', reason: error.stack ?? error.message }));
  }

  /** Asks the program to end in order and waits for its thread. Idempotent. */
  async shutdown(): Promise<void> {
    this.#tell('shutdown');
    await this.#exited;
  }

  /** Lets a program that waits go on. */
  continue(): void {
    this.#tell('continue');
  }

  #tell(request: GuestRequest): void {
    this.#worker.postMessage(request);
  }

  /** Ends the thread at once, as a crash would. */
  async kill(): Promise<void> {
    await this.#worker.terminate();
  }
}
