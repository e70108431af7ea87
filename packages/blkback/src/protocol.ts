/**
 * The block protocol's structures (`xen/include/public/io/blkif.h`), in the layout of 64-bit guests
 * (`XEN_IO_PROTO_ABI_X86_64`), as 32-bit words of one ring slot:
 *
 *     request   0: operation u8, nr_segments u8, handle u16   1: padding   2-3: id u64   4-5: sector_number u64
 *               6+2i: seg[i].gref u32   7+2i: seg[i].first_sect u8, seg[i].last_sect u8, padding u16
 *     response  0-1: id u64   2: operation u8, padding u8, status i16   3: padding
 */

export const BLKIF_OP_READ = 0;
export const BLKIF_OP_WRITE = 1;
export const BLKIF_OP_WRITE_BARRIER = 2;
export const BLKIF_OP_FLUSH_DISKCACHE = 3;
export const BLKIF_OP_DISCARD = 5;
export const BLKIF_OP_INDIRECT = 6;

export const BLKIF_MAX_SEGMENTS_PER_REQUEST = 11;

export const BLKIF_RSP_OKAY = 0;
export const BLKIF_RSP_ERROR = -1;
export const BLKIF_RSP_EOPNOTSUPP = -2;
export type BlkifStatus = typeof BLKIF_RSP_OKAY | typeof BLKIF_RSP_ERROR | typeof BLKIF_RSP_EOPNOTSUPP;

/** `protocol` node of a frontend with this layout (`protocols.h`). */
export const XEN_IO_PROTO_ABI_X86_64 = 'x86_64-abi';
/** 64-bit Arm's layout is the same. */
export const XEN_IO_PROTO_ABI_ARM = 'arm-abi';

/** Bits of the backend's `info` node. */
export const VDISK_CDROM = 1;
export const VDISK_REMOVABLE = 2;
export const VDISK_READONLY = 4;

/** `sectors`, `sector_number`, `first_sect` and `last_sect` count units of 512 bytes, whatever `sector-size` says. */
export const SECTOR_SIZE = 512;
export const SECTORS_PER_PAGE = 8;

/** Size of a ring slot: `sizeof(union { blkif_request_t, blkif_response_t })`. */
export const BLKIF_SLOT_BYTES = 112;
export const BLKIF_SLOT_WORDS = BLKIF_SLOT_BYTES / 4;
export const BLKIF_RESPONSE_WORDS = 4;

const WORD_ID = 2;
const WORD_SECTOR = 4;
const WORD_SEGMENTS = 6;

/** A request's fields, reused from request to request. */
export class BlkifRequest {
  operation = 0;
  segmentCount = 0;
  handle = 0;
  /** The frontend's private value, echoed in the response: low and high word. */
  idLow = 0;
  idHigh = 0;
  /** 512-byte sector; beyond 2^53 it is not exact, but beyond any device too. */
  sector = 0;
  readonly references = new Uint32Array(BLKIF_MAX_SEGMENTS_PER_REQUEST);
  readonly firstSectors = new Uint8Array(BLKIF_MAX_SEGMENTS_PER_REQUEST);
  readonly lastSectors = new Uint8Array(BLKIF_MAX_SEGMENTS_PER_REQUEST);

  /** Reads a slot's private copy. `segmentCount` is what the slot says, 0 to 255; only the first 11 are segments. */
  decode(slot: Int32Array): void {
    const head = slot[0]!;
    this.operation = head & 0xff;
    this.segmentCount = (head >>> 8) & 0xff;
    this.handle = head >>> 16;
    this.idLow = slot[WORD_ID]!;
    this.idHigh = slot[WORD_ID + 1]!;
    this.sector = (slot[WORD_SECTOR]! >>> 0) + (slot[WORD_SECTOR + 1]! >>> 0) * 0x1_0000_0000;
    const count = Math.min(this.segmentCount, BLKIF_MAX_SEGMENTS_PER_REQUEST);
    for (let index = 0; index < count; index++) {
      const word = WORD_SEGMENTS + index * 2;
      this.references[index] = slot[word]!;
      const bounds = slot[word + 1]!;
      this.firstSectors[index] = bounds & 0xff;
      this.lastSectors[index] = (bounds >>> 8) & 0xff;
    }
  }

  /** Writes a whole slot. */
  encode(slot: Int32Array): void {
    slot[0] = (this.operation & 0xff) | ((this.segmentCount & 0xff) << 8) | (this.handle << 16);
    slot[1] = 0;
    slot[WORD_ID] = this.idLow;
    slot[WORD_ID + 1] = this.idHigh;
    slot[WORD_SECTOR] = (this.sector % 0x1_0000_0000) | 0;
    slot[WORD_SECTOR + 1] = Math.floor(this.sector / 0x1_0000_0000);
    for (let index = 0; index < BLKIF_MAX_SEGMENTS_PER_REQUEST; index++) {
      const word = WORD_SEGMENTS + index * 2;
      const used = index < this.segmentCount;
      slot[word] = used ? this.references[index]! : 0;
      slot[word + 1] = used ? this.firstSectors[index]! | (this.lastSectors[index]! << 8) : 0;
    }
  }
}

export class BlkifResponse {
  idLow = 0;
  idHigh = 0;
  operation = 0;
  status: number = BLKIF_RSP_OKAY;

  decode(slot: Int32Array): void {
    this.idLow = slot[0]!;
    this.idHigh = slot[1]!;
    this.operation = slot[2]! & 0xff;
    this.status = slot[2]! >> 16;
  }

  /** Writes the {@link BLKIF_RESPONSE_WORDS} words of a response, padding zeroed. */
  encode(slot: Int32Array): void {
    slot[0] = this.idLow;
    slot[1] = this.idHigh;
    slot[2] = (this.operation & 0xff) | (this.status << 16);
    slot[3] = 0;
  }
}
