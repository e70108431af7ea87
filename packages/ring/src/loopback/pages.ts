/** Pages of a loopback machine as a platform hands them out: gone once given back. */
import type { GrantReference } from '../identity.ts';
import { PagedMemory } from '../paged-memory.ts';
import { type GrantAccess, type GrantedPages, type MappedPages, PAGE_SIZE } from '../platform.ts';
import type { Runtime } from '../runtime.ts';
import type { Machine } from './machine.ts';

export class LoopbackGrantedPages extends PagedMemory implements GrantedPages {
  readonly references: readonly GrantReference[];
  readonly #end: () => boolean;
  readonly #machine: Machine;
  readonly #frames: readonly number[];
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
    this.#machine = machine;
    this.#frames = frames;
  }

  unsafeBytes(): Uint8Array | undefined {
    const first = this.#frames[0];
    if (this.#ended !== undefined || first === undefined) return undefined;
    if (this.#frames.some((frame, index) => frame !== first + index)) return undefined;
    return new Uint8Array(this.#machine.handle.memory, first * PAGE_SIZE, this.#frames.length * PAGE_SIZE);
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
