import { type Grants, PAGE_SIZE } from '@pvkit/ring';
import { BLKIF_MAX_SEGMENTS_PER_REQUEST } from './protocol.ts';

/** Private memory of one request: the largest direct one, 11 pages, page-aligned. */
export const REQUEST_BUFFER_BYTES = BLKIF_MAX_SEGMENTS_PER_REQUEST * PAGE_SIZE;

/** Request buffers shared by all devices of a platform, so that an idle device holds none. Last in, first out: warm caches. */
export class BufferPool {
  readonly #grants: Grants;
  readonly #free: Uint8Array[] = [];
  /** Buffers ever made: the most that were in use at a time. */
  allocated = 0;

  constructor(grants: Grants) {
    this.#grants = grants;
  }

  take(): Uint8Array {
    const free = this.#free.pop();
    if (free !== undefined) return free;
    this.allocated++;
    return this.#grants.allocateBuffer(REQUEST_BUFFER_BYTES);
  }

  give(buffer: Uint8Array): void {
    this.#free.push(buffer);
  }
}
