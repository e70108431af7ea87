/**
 * A small duplex for message protocols over byte streams (xenstore's): whole messages go out, chunks come in.
 * WHATWG and Node streams are adapters around it.
 */
export interface TransportHandlers {
  /** A chunk arrived: any part of a message, or several. Valid during the call only. */
  data(chunk: Uint8Array): void;
  /** The other side is gone, or the transport failed. Called once, and not after `close()`. */
  closed(reason?: Error): void;
  /** What was buffered has been sent: `bufferedBytes` is 0 again. */
  drained?(): void;
}

export interface MessageTransport {
  /** Bytes accepted by {@link send} and not yet taken by the other side. */
  readonly bufferedBytes: number;
  /** Sends one whole message, in order; buffers when the other side is slow. `message` may be reused after the call. */
  send(message: Uint8Array): void;
  /** Begins delivery; called once, before which nothing is read. */
  start(handlers: TransportHandlers): void;
  /** Stops delivering data until {@link resume}, so that a sender feels back-pressure. */
  pause(): void;
  resume(): void;
  /** Idempotent. What was buffered is dropped. */
  close(): void;
}
