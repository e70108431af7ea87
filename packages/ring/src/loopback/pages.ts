/** Pages of a loopback machine as a platform hands them out: gone once given back. */
import type { GrantReference } from '../identity.ts';
import { PagedMemory } from '../paged-memory.ts';
import type { GrantAccess, GrantedPages, MappedPages } from '../platform.ts';
import type { Runtime } from '../runtime.ts';
import type { Machine } from './machine.ts';

export class LoopbackGrantedPages extends PagedMemory implements GrantedPages {
  readonly references: readonly GrantReference[];
  readonly #end: () => boolean;
  #ended: boolean | undefined;

  constructor(
    runtime: Runtime,
    machine: Machine,
    frames: readonly number[],
    references: readonly GrantReference[],
    end: () => boolean,
  ) {
    super(
      runtime,
      frames.map((frame) => machine.frame(frame)),
    );
    this.references = references;
    this.#end = end;
  }

  endAccess(): boolean {
    if (this.#ended === undefined) {
      this.invalidate();
      this.#ended = this.#end();
    }
    return this.#ended;
  }
}

export class LoopbackMappedPages extends PagedMemory implements MappedPages {
  readonly #unmap: () => void;

  constructor(runtime: Runtime, machine: Machine, frames: readonly number[], access: GrantAccess, unmap: () => void) {
    super(
      runtime,
      frames.map((frame) => machine.frame(frame)),
      access,
    );
    this.#unmap = unmap;
  }

  unmap(): void {
    this.invalidate();
    this.#unmap();
  }
}
