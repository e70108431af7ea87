/** Grant copies as `IOCTL_GNTDEV_GRANT_COPY` takes them (`xen/sys/gntdev.h`). */
import { type GrantCopyBatch, GrantStatus } from '@pvkit/ring';
import { putAddress } from './sys/addresses.ts';
import {
  GNTCOPY_dest_gref,
  GNTCOPY_source_gref,
  GRANT_COPY_SEGMENT_SIZE,
  IOCTL_GNTDEV_GRANT_COPY,
} from './sys/ioctl.ts';
import { addressOf, lastErrno, libc } from './sys/libc.ts';

const SEGMENT_WORDS = GRANT_COPY_SEGMENT_SIZE / 4;
// Words of a segment. Each of source and dest is an address, or reference and `offset | domid << 16`.
const SOURCE = 0;
const DEST = 2;
const LENGTH_AND_FLAGS = 4;
const STATUS = 5;

/** One table of segments in native memory, filled anew for every batch. */
export class CopyTable {
  /** `struct ioctl_gntdev_grant_copy`: count, padding, address of the segments. */
  readonly #header = new Uint32Array(4);
  readonly #headerAddress = addressOf(this.#header.buffer);
  #segments = new Uint32Array(0);

  /**
   * Executes the batch and sets its statuses.
   * @returns the errno when the kernel refused the call; every status is then `GNTST_general_error`, for it does not
   * tell which operations it had done.
   * @throws RangeError for a local buffer that was detached after it was added.
   */
  execute(fd: number, batch: GrantCopyBatch): string | undefined {
    if (batch.count === 0) return undefined;
    this.#fill(batch);
    this.#header[0] = batch.count;
    if (libc().ioctl(fd, IOCTL_GNTDEV_GRANT_COPY, this.#headerAddress) < 0) {
      batch.statuses.fill(GrantStatus.GNTST_general_error, 0, batch.count);
      return lastErrno();
    }
    for (let index = 0; index < batch.count; index++)
      batch.statuses[index] = this.#segments[index * SEGMENT_WORDS + STATUS]!; // its low 16 bits, signed
    return undefined;
  }

  #fill(batch: GrantCopyBatch): void {
    if (batch.count * SEGMENT_WORDS > this.#segments.length) this.#grow(batch.capacity);
    const segments = this.#segments;
    const { domid, references, offsets, lengths, locals, localOffsets, toGrant } = batch;
    for (let index = 0; index < batch.count; index++) {
      const segment = index * SEGMENT_WORDS;
      const length = lengths[index]!;
      const writes = toGrant[index] === 1;
      const granted = segment + (writes ? DEST : SOURCE);
      segments[granted] = references[index]!;
      segments[granted + 1] = offsets[index]! | (domid << 16);
      putAddress(segments, segment + (writes ? SOURCE : DEST), locals[index]!, localOffsets[index]!, length);
      segments[segment + LENGTH_AND_FLAGS] = length | ((writes ? GNTCOPY_dest_gref : GNTCOPY_source_gref) << 16);
      segments[segment + STATUS] = 0;
    }
  }

  #grow(capacity: number): void {
    this.#segments = new Uint32Array(capacity * SEGMENT_WORDS);
    const address = addressOf(this.#segments.buffer);
    this.#header[2] = address;
    this.#header[3] = Math.floor(address / 2 ** 32);
  }
}
