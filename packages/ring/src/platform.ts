/**
 * The ports that drivers stand on: memory, grants, event channels. `@pvkit/ring/loopback` implements them as a
 * hypervisor in this process, `@pvkit/linux` over `/dev/xen`. A platform belongs to one domain and has no global state.
 *
 * Shared memory never leaves as a bare view: pages are handles that copy words and bytes in and out, check their ranges
 * and throw once the pages are gone.
 */
import type { GrantCopyBatch } from './grant-copy.ts';
import type { DomainIdentity, Domid, EventPort, GrantReference } from './identity.ts';
import type { Runtime } from './runtime.ts';

/** Size in bytes of every page of a ring protocol, whatever the machine's page size is. */
export const PAGE_SIZE = 4096;

/** What the other domain may do with pages that are granted to it, or we with pages mapped from it. */
export type GrantAccess = 'read-write' | 'read-only';

/**
 * A run of pages shared with another domain. Offsets are bytes from the start of the first page; word offsets must be
 * multiples of 4. Every method throws a RangeError outside the pages and a GrantError after the pages were given back.
 */
export interface SharedPages {
  readonly pageCount: number;
  /** Atomic load of an unsigned 32-bit little-endian word. */
  load32(offset: number): number;
  /** Atomic store of an unsigned 32-bit little-endian word. */
  store32(offset: number, value: number): void;
  /** Copies `count` words out, into `target` from its start. */
  readWords(offset: number, target: Int32Array, count: number): void;
  /** Copies `count` words in, from the start of `source`. */
  writeWords(offset: number, source: Int32Array, count: number): void;
  read(offset: number, target: Uint8Array, targetOffset: number, length: number): void;
  write(offset: number, source: Uint8Array, sourceOffset: number, length: number): void;
}

/** Pages of ours that another domain may use. Zeroed before they are granted (XSA-403). */
export interface GrantedPages extends SharedPages {
  /** One reference a page, in order. */
  readonly references: readonly GrantReference[];
  /**
   * Takes the access away and frees the pages. Idempotent.
   * @returns false when the other domain still had one mapped: its page and reference are then quarantined until it lets go.
   */
  endAccess(): boolean;
  /**
   * All pages as one view, where they lie in one piece: for data that is to be used without a copy. Unsafe, because the
   * other domain may change its content at any moment, and because it must not be touched after {@link endAccess}.
   */
  unsafeBytes?(): Uint8Array | undefined;
}

/** Pages of another domain that we use. */
export interface MappedPages extends SharedPages {
  readonly access: GrantAccess;
  /** Gives the pages back. Idempotent. */
  unmap(): void;
}

export interface Grants {
  /**
   * Allocates zeroed pages and grants them.
   * @throws GrantError `GNTST_no_space` when the domain's pages or references are used up.
   */
  share(to: Domid, pageCount: number, access: GrantAccess): GrantedPages;
  /**
   * Maps all of `references` in order, or nothing.
   * @throws GrantError naming the status of the first that failed, where the system tells.
   */
  map(from: Domid, references: readonly GrantReference[], access: GrantAccess): MappedPages;
  /** Runs every operation of `batch` in order and sets each status; never throws for a bad one. */
  copy(batch: GrantCopyBatch): void;
  /** Present where a granted page can be used in place for less than its copy costs, as on loopback. */
  readonly inPlace?: InPlaceGrants;
  /** Page-aligned private memory, suited to be the local side of copies and of O_DIRECT. Kept until the platform closes. */
  allocateBuffer(byteLength: number): Uint8Array;
}

/**
 * Granted pages as buffers of one system call that does not wait. Between {@link begin} and {@link end}, which must follow
 * in the same turn, the granting domain can take nothing away, and no other method of its {@link Grants} may be called.
 */
export interface InPlaceGrants {
  /** The memory that {@link offsetOf} points into; for nothing but the pages that it gives, while they are given. */
  readonly memory: Uint8Array;
  begin(from: Domid): void;
  /** Byte offset of a granted page in {@link memory}, or the negative `GNTST_*` status that a copy would get. */
  offsetOf(reference: GrantReference, write: boolean): number;
  end(): void;
}

export interface EventChannels {
  /** A new port that `remote` may bind. @throws ErrnoError, for example `ENOSPC`. */
  allocateUnbound(remote: Domid): EventPort;
  /** Binds the port that `remote` allocated for us. @throws ErrnoError, for example `EINVAL` for a port that is not ours to bind. */
  bindInterdomain(remote: Domid, remotePort: EventPort): EventPort;
  /**
   * Calls `handler` in a later turn of the event loop whenever the port has an event. The port stays masked from before
   * that call until {@link unmask}; events that arrive meanwhile become one, delivered after it. One handler a port.
   */
  listen(port: EventPort, handler: () => void): void;
  /** Ends the handling of an event ("EOI"): lets the next one in. */
  unmask(port: EventPort): void;
  /** Sends an event to the other end. Does nothing when that has closed. */
  notify(port: EventPort): void;
  /** Closes the port; its handler is not called again. Idempotent. */
  close(port: EventPort): void;
}

/** What a platform holds at the moment; a test that ends with anything but zeros leaks. */
export interface PlatformUsage {
  readonly grantedPages: number;
  /** Pages and references whose access could not be taken away yet. */
  readonly quarantinedPages: number;
  readonly mappedPages: number;
  readonly eventPorts: number;
}

export interface Platform {
  /** The domain that this platform acts for. */
  readonly identity: DomainIdentity;
  readonly runtime: Runtime;
  readonly grants: Grants;
  readonly events: EventChannels;
  /**
   * How long a busy ring's end may look for more before it sleeps. Absent or 0 where that costs more than it saves: on one
   * processor it keeps the other side from running.
   */
  readonly pollMilliseconds?: number;
  usage(): PlatformUsage;
  /** Closes every port, unmaps and ends access to every page that is still held. Idempotent. */
  close(): void;
}
