/** What a host and its loopback guests' threads tell each other. */
import type { LoopbackGuestHandle } from '@pvkit/xenbus/loopback';

/** What a guest does. */
export type GuestProgram =
  /** Connects to every disk that it is given, and to those that come later. */
  | { readonly kind: 'idle' }
  /** Reads a whole disk, writes to it, verifies, and stays connected. */
  | { readonly kind: 'disk-check'; readonly path: string };

export interface GuestWorkerData {
  readonly handle: LoopbackGuestHandle;
  readonly program: GuestProgram;
}

/** What the host tells a guest: what was reported has been looked at, go on; end in order. */
export type GuestRequest = 'continue' | 'shutdown';

export type GuestMessage =
  | { readonly kind: 'connected'; readonly path: string; readonly bytes: number }
  | { readonly kind: 'disconnected'; readonly path: string; readonly reason: string }
  | { readonly kind: 'progress'; readonly done: number; readonly total: number }
  /** SHA-256 of the whole disk, and how long reading it took. Waits for `continue`. */
  | { readonly kind: 'read'; readonly sha256: string; readonly bytes: number; readonly milliseconds: number }
  /** A test pattern of `bytes` at byte `position` has been written, flushed and read back; waits for `continue`. */
  | { readonly kind: 'written'; readonly position: number; readonly bytes: number; readonly sha256: string }
  /** What was there before has been put back, flushed and read back. */
  | { readonly kind: 'restored' }
  | { readonly kind: 'failed'; readonly reason: string };
