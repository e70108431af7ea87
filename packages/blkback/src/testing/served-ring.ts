/** For tests: a ring of raw parts with pages for data, served from a disk in memory. */
import type { GrantedPages } from '@pvkit/ring';
import { expect } from 'vitest';
import { MemoryDevice, type MemoryDeviceOptions, patternBytes } from './memory-device.ts';
import { QueuePair } from './queue-pair.ts';
import { RawFrontend, type RawSegment } from './raw-frontend.ts';

/** Size of the disk. */
export const SECTORS = 4096;
const NOTHING = { grantedPages: 0, quarantinedPages: 0, mappedPages: 0, eventPorts: 0 };

export class ServedRing {
  readonly pair = new QueuePair();
  /** Whether the disk can read without waiting, so that the queue reads straight into granted pages. */
  readonly inPlace: boolean;
  device!: MemoryDevice;
  front!: RawFrontend;
  /** Eleven, granted to the backend. */
  pages!: GrantedPages;

  constructor(inPlace: boolean) {
    this.inPlace = inPlace;
    this.#start({}, 0);
  }

  /** Stops, and serves a new ring, whose indices begin at `index`, from a new disk. */
  async restart(options: MemoryDeviceOptions = {}, index = 0): Promise<void> {
    await this.#stop();
    this.#start(options, index);
  }

  /** Stops, and checks that neither end holds anything. */
  async close(): Promise<void> {
    await this.#stop();
    expect(this.pair.backend.usage()).toEqual(NOTHING);
    expect(this.pair.frontend.usage()).toEqual(NOTHING);
    await this.pair.close();
  }

  /** A segment of one of {@link pages}. */
  segment(page: number, first = 0, last = 7): RawSegment {
    return { reference: this.pages.references[page]!, first, last };
  }

  /** What {@link pages} hold. */
  content(offset: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    this.pages.read(offset, bytes, 0, length);
    return bytes;
  }

  /** What the disk holds. */
  disk(sector: number, count: number): Uint8Array {
    return this.device.bytes.slice(sector * 512, (sector + count) * 512);
  }

  #start(options: MemoryDeviceOptions, index: number): void {
    this.device = new MemoryDevice(patternBytes(SECTORS * 512), { inPlace: this.inPlace, ...options });
    this.front = new RawFrontend(this.pair.frontend, this.pair.backend.identity.domid, index);
    this.pages = this.front.share(11);
    this.pair.serve(this.device, this.front.ringPages.references[0]!, this.front.port, index);
  }

  async #stop(): Promise<void> {
    await this.pair.stop();
    this.front.close();
  }
}
