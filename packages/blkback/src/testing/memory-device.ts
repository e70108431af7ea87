/** For tests: a disk in memory whose operations complete at once or when the test says, in any order, or fail. */
import { ErrnoError } from '@pvkit/ring';
import { type BlockDevice, type BlockGeometry, checkRequest, IoVector } from '../device.ts';
import { SECTOR_SIZE } from '../protocol.ts';

export interface MemoryDeviceOptions {
  readonly readOnly?: boolean;
  readonly sectorSize?: number;
  readonly flushable?: boolean;
  /** Reads without waiting are told apart, as by a file in the page cache. */
  readonly inPlace?: boolean;
}

/** An operation that the device has taken and not completed. */
export interface HeldOperation {
  readonly kind: 'read' | 'write' | 'flush';
  complete(): void;
  fail(error: Error): void;
}

export class MemoryDevice implements BlockDevice {
  readonly bytes: Uint8Array;
  readonly geometry: BlockGeometry;
  /** Operations wait here for the test instead of completing at once. */
  holding = false;
  readonly held: HeldOperation[] = [];
  readonly tryReadv?: (sector: number, vector: IoVector) => boolean;
  /** Made by every operation that does not return one. */
  failure: Error | undefined;
  flushes = 0;
  closes = 0;
  #onHeld: (() => void) | undefined;

  constructor(bytes: Uint8Array, options: MemoryDeviceOptions = {}) {
    this.bytes = bytes;
    this.geometry = {
      sectors: bytes.byteLength / SECTOR_SIZE,
      sectorSize: options.sectorSize ?? SECTOR_SIZE,
      physicalSectorSize: 4096,
      readOnly: options.readOnly ?? false,
      flushable: options.flushable ?? true,
    };
    if (options.inPlace)
      this.tryReadv = (sector, vector) => {
        checkRequest(this.geometry, sector, vector.byteLength);
        if (this.failure !== undefined) throw this.failure;
        if (!this.holding) this.#transfer(sector, vector, false);
        return !this.holding;
      };
  }

  readv(sector: number, vector: IoVector): Promise<void> | undefined {
    checkRequest(this.geometry, sector, vector.byteLength);
    return this.#operate('read', () => this.#transfer(sector, vector, false));
  }

  writev(sector: number, vector: IoVector): Promise<void> | undefined {
    checkRequest(this.geometry, sector, vector.byteLength);
    if (this.geometry.readOnly) throw new ErrnoError('EROFS', 'write');
    return this.#operate('write', () => this.#transfer(sector, vector, true));
  }

  flush(): Promise<void> | undefined {
    return this.#operate('flush', () => {
      this.flushes++;
    });
  }

  close(): Promise<void> {
    this.closes++;
    return Promise.resolve();
  }

  /** Resolves once `count` operations are held. */
  async untilHeld(count: number): Promise<void> {
    while (this.held.length < count)
      await new Promise<void>((resolve) => {
        this.#onHeld = resolve;
      });
  }

  #operate(kind: HeldOperation['kind'], work: () => void): Promise<void> | undefined {
    if (this.failure !== undefined) throw this.failure;
    if (!this.holding) {
      work();
      return undefined;
    }
    return new Promise((resolve, reject) => {
      this.held.push({
        kind,
        complete: () => {
          work();
          resolve();
        },
        fail: reject,
      });
      this.#onHeld?.();
    });
  }

  #transfer(sector: number, vector: IoVector, write: boolean): void {
    let position = sector * SECTOR_SIZE;
    for (let range = 0; range < vector.count; range++) {
      const offset = vector.offsets[range]!;
      const length = vector.lengths[range]!;
      const buffer = vector.buffers[range]!;
      if (write) this.bytes.set(buffer.subarray(offset, offset + length), position);
      else buffer.set(this.bytes.subarray(position, position + length), offset);
      position += length;
    }
  }
}

/** Bytes that tell where they are from: no two sectors are alike. */
export function patternBytes(byteLength: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(byteLength);
  const words = new Uint32Array(bytes.buffer, 0, byteLength >>> 2);
  for (let index = 0; index < words.length; index++) words[index] = Math.imul(index + seed * 0x9e37, 0x9e37_79b1);
  return bytes;
}

/** A vector over fresh memory, in pieces of the given lengths. */
export function vectorOf(bytes: Uint8Array, ...lengths: number[]): IoVector {
  const vector = new IoVector();
  let offset = 0;
  for (const length of lengths) {
    vector.add(bytes, offset, length);
    offset += length;
  }
  vector.add(bytes, offset, bytes.byteLength - offset);
  return vector;
}
