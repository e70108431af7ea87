/** For tests: two domains of a small loopback machine in this thread, and a backend queue between them. */
import type { EventPort, GrantReference, MappedPages, Observer, Platform } from '@pvkit/ring';
import { LoopbackHypervisor } from '@pvkit/ring/loopback';
import { BackendQueue } from '../backend-queue.ts';
import { BufferPool } from '../buffer-pool.ts';
import type { BlockDevice } from '../device.ts';

const LIMITS = { frames: 8192, domains: 4, pagesPerDomain: 4096, grantEntries: 4096, maptrackEntries: 256, ports: 64 };

export class QueuePair {
  readonly hypervisor: LoopbackHypervisor;
  readonly backend: Platform;
  readonly frontend: Platform;
  readonly buffers: BufferPool;
  readonly refusals: string[] = [];
  readonly failures: Error[] = [];
  /** Ends the frontend's domain, whatever it is doing. */
  readonly destroyFrontend: () => void;
  #queue: BackendQueue | undefined;
  #ring: MappedPages | undefined;
  #port: EventPort | undefined;

  constructor(observe?: Observer) {
    this.hypervisor = LoopbackHypervisor.create('queue-pair', LIMITS, observe);
    const [backend, frontend] = [this.hypervisor.createDomain(), this.hypervisor.createDomain()];
    this.backend = this.hypervisor.openPlatform(backend);
    this.frontend = this.hypervisor.openPlatform(frontend);
    this.buffers = new BufferPool(this.backend.grants);
    this.destroyFrontend = () => this.hypervisor.destroyDomain(frontend);
  }

  /** Serves a ring of the frontend's from `device`. */
  serve(device: BlockDevice, ringReference: GrantReference, port: EventPort, index = 0): BackendQueue {
    const frontend = this.frontend.identity.domid;
    this.#ring = this.backend.grants.map(frontend, [ringReference], 'read-write');
    this.#port = this.backend.events.bindInterdomain(frontend, port);
    this.#queue = new BackendQueue({
      platform: this.backend,
      frontend,
      device,
      buffers: this.buffers,
      ring: this.#ring,
      port: this.#port,
      index,
      failed: (reason) => this.failures.push(reason),
      refused: (reason) => this.refusals.push(reason),
    });
    return this.#queue;
  }

  get queue(): BackendQueue {
    if (this.#queue === undefined) throw new Error('nothing is served');
    return this.#queue;
  }

  async stop(): Promise<void> {
    await this.#queue?.close();
    if (this.#port !== undefined) this.backend.events.close(this.#port);
    this.#ring?.unmap();
    this.#queue = this.#port = this.#ring = undefined;
  }

  async close(): Promise<void> {
    await this.stop();
    this.frontend.close();
    this.backend.close();
  }
}

/** Lets the event loop turn until a condition holds. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await turn();
}

/** Resolves after the running turn of the event loop and everything that it has set off. */
export const turn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

export async function turns(count: number): Promise<void> {
  for (let index = 0; index < count; index++) await turn();
}
