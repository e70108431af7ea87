/**
 * Reads that go straight into the frontend's pages, where platform and device can do that without waiting. Requests for
 * neighbouring sectors are read in one call.
 */
import type { Domid, GrantReference, InPlaceGrants, Platform } from '@pvkit/ring';
import { type BlockDevice, IoVector } from './device.ts';
import type { PendingRequest } from './pending-request.ts';
import { SECTOR_SIZE } from './protocol.ts';

/** Segments read in one call: more would let the frontend wait for the first. */
const SEGMENTS_MAX = 64;

export class InPlaceReads {
  /** The requests of the next call, in the order of their sectors. */
  readonly run: PendingRequest[] = [];
  readonly #frontend: Domid;
  readonly #grants: InPlaceGrants;
  readonly #tryReadv: (sector: number, vector: IoVector) => boolean;
  readonly #vector = new IoVector();
  #end = 0;
  #segments = 0;

  private constructor(frontend: Domid, grants: InPlaceGrants, tryReadv: (sector: number, vector: IoVector) => boolean) {
    this.#frontend = frontend;
    this.#grants = grants;
    this.#tryReadv = tryReadv;
  }

  /** Undefined where the platform or the device can't. */
  static open(platform: Platform, frontend: Domid, device: BlockDevice): InPlaceReads | undefined {
    const { inPlace } = platform.grants;
    if (inPlace === undefined || device.tryReadv === undefined) return undefined;
    return new InPlaceReads(frontend, inPlace, device.tryReadv.bind(device));
  }

  /** Whether a request can be read in the same call as the run. */
  continues({ request }: PendingRequest): boolean {
    return request.sector === this.#end && this.#segments + request.segmentCount <= SEGMENTS_MAX;
  }

  add(pending: PendingRequest): void {
    this.run.push(pending);
    this.#end = pending.request.sector + pending.byteLength / SECTOR_SIZE;
    this.#segments += pending.request.segmentCount;
  }

  /**
   * Reads the run. @returns false when it is to be read otherwise: it would have to wait, a grant can't be used, or the
   * device failed. Which of them, and for which request, shows then.
   */
  read(): boolean {
    const first = this.run[0];
    if (first === undefined) return true;
    this.#vector.clear();
    this.#grants.begin(this.#frontend);
    try {
      for (const pending of this.run) if (!this.#addPages(pending)) return false;
      return this.#tryReadv(first.request.sector, this.#vector);
    } catch {
      return false;
    } finally {
      this.#grants.end();
    }
  }

  /** Forgets the run. */
  clear(): void {
    this.run.length = 0;
    this.#end = -1;
    this.#segments = 0;
  }

  #addPages({ request }: PendingRequest): boolean {
    for (let index = 0; index < request.segmentCount; index++) {
      const page = this.#grants.offsetOf(request.references[index]! as GrantReference, true);
      if (page < 0) return false;
      const start = request.firstSectors[index]! * SECTOR_SIZE;
      const length = (request.lastSectors[index]! + 1) * SECTOR_SIZE - start;
      this.#vector.add(this.#grants.memory, page + start, length);
    }
    return true;
  }
}
