import { IoVector } from './device.ts';
import { BlkifRequest } from './protocol.ts';

/** A request that a backend has taken from its ring and not answered yet; reused from request to request. */
export class PendingRequest {
  readonly request = new BlkifRequest();
  readonly vector = new IoVector();
  /** Private memory for its data, while it has any. */
  buffer: Uint8Array | undefined;
  byteLength = 0;
  /** Index of its first operation in the copy batch. */
  firstCopy = 0;
  // Made once, for the promises of every request that this structure will carry.
  done: () => void = () => {};
  failed: (error: unknown) => void = () => {};
}
