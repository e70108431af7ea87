/**
 * A reusable table of grant copies (`GNTTABOP_copy`, `xen/include/public/grant_table.h`), executed in one call: under
 * real Xen the call costs far more than a page's copy, so drivers fill one batch for all requests that they have at hand.
 */
import { GrantStatus } from './errors.ts';
import type { Domid, GrantReference } from './identity.ts';
import { PAGE_SIZE } from './platform.ts';

export class GrantCopyBatch {
  readonly capacity: number;
  /** The domain whose pages are copied from and to. */
  readonly domid: Domid;
  /** Number of operations added since {@link clear}. */
  count = 0;
  // Columns of the table, for the platforms. Entry i is valid for i < count.
  readonly references: Uint32Array;
  /** Byte offset in the granted page. */
  readonly offsets: Uint16Array;
  readonly lengths: Uint16Array;
  readonly locals: Uint8Array[] = [];
  readonly localOffsets: Uint32Array;
  /** 1: from our memory to the granted page; 0: from it. */
  readonly toGrant: Uint8Array;
  readonly statuses: Int16Array;

  constructor(domid: Domid, capacity: number) {
    this.domid = domid;
    this.capacity = capacity;
    this.references = new Uint32Array(capacity);
    this.offsets = new Uint16Array(capacity);
    this.lengths = new Uint16Array(capacity);
    this.localOffsets = new Uint32Array(capacity);
    this.toGrant = new Uint8Array(capacity);
    this.statuses = new Int16Array(capacity);
  }

  clear(): void {
    this.count = 0;
  }

  /** Adds a copy of `length` bytes from the granted page at `offset` to `local` at `localOffset`; returns its index. */
  addFromGrant(reference: GrantReference, offset: number, local: Uint8Array, localOffset: number, length: number) {
    return this.#add(reference, offset, local, localOffset, length, 0);
  }

  /** Adds a copy of `length` bytes from `local` at `localOffset` to the granted page at `offset`; returns its index. */
  addToGrant(reference: GrantReference, offset: number, local: Uint8Array, localOffset: number, length: number) {
    return this.#add(reference, offset, local, localOffset, length, 1);
  }

  #add(ref: number, offset: number, local: Uint8Array, localOffset: number, length: number, toGrant: 0 | 1): number {
    const index = this.count;
    if (index >= this.capacity) throw new RangeError(`grant copy batch is full (${this.capacity} operations)`);
    // `!(a <= b)` so that NaN fails too. A zero-length copy must not touch the grant (XSA-448), so it is refused here.
    if (!(offset >= 0 && length >= 1 && offset + length <= PAGE_SIZE))
      throw new RangeError(`grant copy of ${length} bytes at ${offset} is not inside a page`);
    if (!(localOffset >= 0 && localOffset + length <= local.byteLength))
      throw new RangeError(
        `grant copy of ${length} bytes at ${localOffset} is outside its ${local.byteLength}-byte buffer`,
      );
    this.references[index] = ref;
    this.offsets[index] = offset;
    this.lengths[index] = length;
    this.locals[index] = local;
    this.localOffsets[index] = localOffset;
    this.toGrant[index] = toGrant;
    this.statuses[index] = GrantStatus.GNTST_general_error;
    this.count = index + 1;
    return index;
  }
}
