/**
 * Where the loopback hypervisor keeps its state: one shared buffer of machine frames and one of 32-bit control words,
 * so that every thread holding both makes its "hypercalls" itself, synchronously.
 */

export interface LoopbackLimits {
  /** Machine frames of 4,096 bytes; costs real memory only as they are used. */
  readonly frames: number;
  /** Domain slots, domain 0 included; a domid is its slot. */
  readonly domains: number;
  /** Pages that one domain may hold. */
  readonly pagesPerDomain: number;
  /** Entries of a domain's grant table (`max_grant_frames` * 512). */
  readonly grantEntries: number;
  /** Pages that one domain may have mapped at a time (`max_maptrack_frames`). */
  readonly maptrackEntries: number;
  /** Event channel ports of a domain, port 0 (never handed out) included; at most 1,024. */
  readonly ports: number;
}

export const DEFAULT_LIMITS: LoopbackLimits = {
  frames: 65_536,
  domains: 32,
  pagesPerDomain: 32_768,
  grantEntries: 32_768,
  maptrackEntries: 32_768,
  ports: 1024,
};

/** Grant references 0 to 7 are reserved (`GNTTAB_NR_RESERVED_ENTRIES`, `grant_table.h`). */
export const RESERVED_GRANTS = 8;

// Machine words.
export const LOCK = 0;
/** First free frame + 1, linked through FRAME_NEXT. */
export const FREE_FRAMES = 1;
/** Frames from here on were never used, so not on the list either, and still zero. */
export const FRAMES_TOUCHED = 2;
export const NEXT_DOMID = 3;
/** Source of domain generations. */
export const GENERATIONS = 4;
/** Source of the names that threads leave in the locks they hold. */
export const THREADS = 5;
export const HEADER_WORDS = 16;

// Words of a frame: owner domid + 1 (0: free, or its owner is gone and only mappings hold it), mappings, next free frame + 1.
export const FRAME_WORDS = 3;
export const FRAME_OWNER = 0;
export const FRAME_PINS = 1;
export const FRAME_NEXT = 2;

/** Reference under which a domain grants its xenstore page (`GNTTAB_RESERVED_XENSTORE`, `grant_table.h`). */
export const RESERVED_XENSTORE = 1;

// Words of a domain.
export const DOMAIN_STATE = 0;
export const DOMAIN_GENERATION = 1;
export const DOMAIN_PAGES = 2;
export const DOMAIN_GRANT_LOCK = 3;
/** First free grant entry + 1, linked through the entries' frame words. */
export const DOMAIN_FREE_GRANTS = 4;
/** Entries from here on were never used, so not on the list either. */
export const DOMAIN_GRANTS_TOUCHED = 5;
export const DOMAIN_FREE_MAPTRACK = 6;
export const DOMAIN_MAPTRACK_TOUCHED = 7;
/** Start info: event channel port and frame of the domain's xenstore ring, as a domain builder leaves them. */
export const DOMAIN_STORE_PORT = 8;
export const DOMAIN_STORE_FRAME = 9;
export const DOMAIN_WORDS = 16;

export const DOMAIN_ABSENT = 0;
export const DOMAIN_ALIVE = 1;
/** Being destroyed: nothing of it can be used or made any more, but its domid is not free yet. */
export const DOMAIN_DYING = 2;

// Words of a grant entry: version 1's flags and domid as Xen packs them, the frame, and the hypervisor's count of uses.
export const GRANT_WORDS = 3;
export const GRANT_FLAGS = 0;
export const GRANT_FRAME = 1;
/** Read uses in the low, write uses in the high 16 bits. */
export const GRANT_PINS = 2;

export const GTF_permit_access = 1;
export const GTF_readonly = 1 << 2;
export const GTF_reading = 1 << 3;
export const GTF_writing = 1 << 4;
/** Ours alone: nobody is left to sweep the grant, so its last user frees it. */
export const GTF_abandoned = 1 << 15;

// Words of a maptrack entry.
export const MAPTRACK_WORDS = 5;
/** Granting domid + 1, or 0 when the entry is free. */
export const MAPTRACK_DOMAIN = 0;
export const MAPTRACK_REFERENCE = 1;
export const MAPTRACK_FRAME = 2;
/** Next free entry + 1 when free; else 1 for a writable mapping. */
export const MAPTRACK_WRITABLE = 3;
/** Generation of the granting domain: by the time of the unmap its domid may be another's. */
export const MAPTRACK_GENERATION = 4;

// Words of an event channel port.
export const PORT_WORDS = 4;
export const PORT_STATE = 0;
export const PORT_REMOTE_DOMAIN = 1;
export const PORT_REMOTE_PORT = 2;
export const PORT_FLAGS = 3;

export const PORT_FREE = 0;
export const PORT_UNBOUND = 1;
export const PORT_INTERDOMAIN = 2;

export const PORT_PENDING = 1;
export const PORT_MASKED = 2;
/** The attachment (see below) that listens, in the flags' upper half. */
export const PORT_ATTACHMENT_SHIFT = 16;
/** A port that no thread of its domain has taken over yet: events stay pending. */
export const NO_ATTACHMENT = 0xffff;

// Words of an attachment: one thread's platform for one domain, the target of wake-ups.
/** Generation of its domain, or 0 when the attachment is free. */
export const ATTACHMENT_GENERATION = 0;
/** Bumped and notified to wake its thread. */
export const ATTACHMENT_WAKE = 1;
export const ATTACHMENT_ASLEEP = 2;
/** One bit per word of {@link ATTACHMENT_READY} that has a bit set. */
export const ATTACHMENT_SELECTOR = 3;
export const ATTACHMENT_DOMID = 4;
/** One bit per port with an event to deliver. */
export const ATTACHMENT_READY = 5;

/** Word offsets of each table in the control buffer. */
export interface Layout {
  readonly limits: LoopbackLimits;
  readonly frames: number;
  readonly domains: number;
  readonly grants: number;
  readonly maptrack: number;
  readonly ports: number;
  readonly attachments: number;
  readonly attachmentCount: number;
  readonly attachmentWords: number;
  readonly words: number;
}

export function layoutOf(limits: LoopbackLimits): Layout {
  if (limits.ports < 2 || limits.ports > 1024) throw new RangeError('ports must be 2 to 1024');
  if (limits.domains < 1 || limits.domains > 0x7ff0) throw new RangeError('domains must be 1 to 32752');
  // One domain's uses of one grant are counted in 16 bits.
  if (limits.maptrackEntries > 0xffff) throw new RangeError('maptrackEntries must be at most 65535');
  if (limits.grantEntries < RESERVED_GRANTS) throw new RangeError(`grantEntries must be at least ${RESERVED_GRANTS}`);
  const attachmentCount = Math.min(limits.domains * 2 + 14, NO_ATTACHMENT);
  const attachmentWords = ATTACHMENT_READY + Math.ceil(limits.ports / 32);
  const frames = HEADER_WORDS;
  const domains = frames + limits.frames * FRAME_WORDS;
  const grants = domains + limits.domains * DOMAIN_WORDS;
  const maptrack = grants + limits.domains * limits.grantEntries * GRANT_WORDS;
  const ports = maptrack + limits.domains * limits.maptrackEntries * MAPTRACK_WORDS;
  const attachments = ports + limits.domains * limits.ports * PORT_WORDS;
  const words = attachments + attachmentCount * attachmentWords;
  return {
    limits,
    frames,
    domains,
    grants,
    maptrack,
    ports,
    attachments,
    attachmentCount,
    attachmentWords,
    words,
  };
}
