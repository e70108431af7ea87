/** The device interface of the block class: what a frontend is, and what a backend serves. */
import { ProtocolError } from '@pvkit/ring';
import { SECTOR_SIZE } from './protocol.ts';

export interface BlockGeometry {
  /** Size in units of 512 bytes. */
  readonly sectors: number;
  /** Logical sector size in bytes: requests are multiples of it. */
  readonly sectorSize: number;
  /** Physical sector size in bytes, a multiple of `sectorSize`. */
  readonly physicalSectorSize: number;
  readonly readOnly: boolean;
  /** Whether {@link BlockDevice.flush} does anything: false where every write is durable when it completes. */
  readonly flushable: boolean;
}

/**
 * A block device. Positions are 512-byte sectors. An operation that returns undefined is complete; one that returns a
 * promise completes with it, and its vector's buffers must not be touched until then. Operations may complete in any
 * order. Failures throw or reject with an error of the `@pvkit/ring` family.
 */
export interface BlockDevice {
  readonly geometry: BlockGeometry;
  /** Fills all of `vector` from `sector` on. */
  readv(sector: number, vector: IoVector): Promise<void> | undefined;
  /**
   * Reads as {@link readv} does if that can be done here and now, without waiting: true when it is done. When false,
   * nothing goes on and the vector's content is undefined.
   */
  tryReadv?(sector: number, vector: IoVector): boolean;
  /** Writes all of `vector` from `sector` on; complete when written, durable after {@link flush}. */
  writev(sector: number, vector: IoVector): Promise<void> | undefined;
  /** Makes durable every write that completed before the call. */
  flush(): Promise<void> | undefined;
  /** Waits for what is under way, then lets go of the device. Idempotent. */
  close(): Promise<void>;
}

/** A list of memory ranges (`struct iovec`), made to be reused: no views are cut for a request. */
export class IoVector {
  readonly buffers: Uint8Array[] = [];
  readonly offsets: number[] = [];
  readonly lengths: number[] = [];
  /** Ranges in use; the arrays may be longer. */
  count = 0;
  byteLength = 0;

  static of(...buffers: Uint8Array[]): IoVector {
    const vector = new IoVector();
    for (const buffer of buffers) vector.add(buffer, 0, buffer.byteLength);
    return vector;
  }

  /** Adds a range; one that continues the last is merged with it. @throws RangeError outside the buffer. */
  add(buffer: Uint8Array, offset: number, length: number): void {
    if (!(offset >= 0 && length >= 0 && offset + length <= buffer.byteLength))
      throw new RangeError(`${length} bytes at ${offset} are outside a ${buffer.byteLength}-byte buffer`);
    if (length === 0) return;
    const last = this.count - 1;
    this.byteLength += length;
    if (last >= 0 && this.buffers[last] === buffer && this.offsets[last]! + this.lengths[last]! === offset) {
      this.lengths[last]! += length;
      return;
    }
    this.buffers[this.count] = buffer;
    this.offsets[this.count] = offset;
    this.lengths[this.count] = length;
    this.count++;
  }

  /** Empties the vector and forgets the buffers, so that it keeps none of them alive. */
  clear(): void {
    this.count = 0;
    this.byteLength = 0;
    this.buffers.length = 0;
  }
}

/** @throws ProtocolError unless `[sector, sector + bytes)` is a non-empty range of whole logical sectors on the device. */
export function checkRequest(geometry: BlockGeometry, sector: number, byteLength: number): void {
  const reason = refusal(geometry, sector, byteLength);
  if (reason !== undefined) throw new ProtocolError(reason);
}

/** Why a request can't be served by a device of this geometry; undefined if it can. */
export function refusal(geometry: BlockGeometry, sector: number, byteLength: number): string | undefined {
  const count = byteLength / SECTOR_SIZE;
  if (!(Number.isInteger(count) && count > 0)) return `${byteLength} bytes are not whole sectors`;
  if (!(sector >= 0 && sector + count <= geometry.sectors))
    return `sectors ${sector} to ${sector + count - 1} are outside a device of ${geometry.sectors}`;
  const unit = geometry.sectorSize / SECTOR_SIZE;
  if (sector % unit !== 0 || count % unit !== 0)
    return `${count} sectors at ${sector} are not whole ${geometry.sectorSize}-byte sectors`;
  return undefined;
}
