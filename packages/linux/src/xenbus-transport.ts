/** Xenstore's protocol through `/dev/xen/xenbus` (Linux: `drivers/xen/xenbus/xenbus_dev_frontend.c`). */
import { closeSync, readSync, writeSync } from 'node:fs';
import type { MessageTransport, TransportHandlers } from '@pvkit/ring';
import { openDevice } from './device.ts';
import { errnoOf, wrapErrno } from './sys/errno.ts';
import { pollReadable, type ReadablePoll } from './sys/poll.ts';

/** Bytes that one turn of the event loop takes. */
const READ_SIZE = 65_536;
/** `struct xsd_sockmsg`: type, req_id, tx_id, len, each 32 bits (`xen/io/xs_wire.h`). */
const HEADER_SIZE = 16;
const XS_WATCH_EVENT = 15;
const XS_ERROR = 16;
/** The driver's buffer holds header and payload together, though the protocol allows a payload of this size alone. */
const MESSAGE_MAX = 4096;

/** @throws ErrnoError when the device is missing, may not be used, or no xenstore serves this domain. */
export function openXenbusTransport(): MessageTransport {
  return new XenbusTransport(openDevice('xenbus'));
}

/**
 * The protocol over an open descriptor of `/dev/xen/xenbus`, which {@link close} closes.
 *
 * One request is out at a time: the driver hands a request's payload to its sending thread where it lies, in the
 * descriptor's one buffer, so that the next write would change it (`xenbus_dev_request_and_reply`; seen with Linux 6.1,
 * where requests written in a row went out with the payload of the last). The reply shows that it has been sent.
 */
export class XenbusTransport implements MessageTransport {
  readonly #fd: number;
  readonly #buffer = new Uint8Array(READ_SIZE);
  readonly #incoming = new MessageScanner();
  /** Messages that wait for the reply to the one that is out. */
  readonly #queue: Uint8Array[] = [];
  #bufferedBytes = 0;
  #requestOut = false;
  /** Error replies that the driver owes, see {@link send}. */
  readonly #refusals: Uint8Array[] = [];
  #handlers: TransportHandlers | undefined;
  #poll: ReadablePoll | undefined;
  #paused = false;
  #closed = false;

  constructor(fd: number) {
    this.#fd = fd;
  }

  get bufferedBytes(): number {
    return this.#bufferedBytes;
  }

  /**
   * Sends one message. The driver answers some bad requests (a watch of a bad path, a message over 4,096 bytes) by
   * failing the write and not by a reply; these get an error reply here, as xenstored would have sent one.
   */
  send(message: Uint8Array): void {
    if (this.#closed) return;
    if (this.#requestOut || this.#queue.length > 0) {
      this.#queue.push(new Uint8Array(message)); // a Buffer's own slice is no copy
      this.#bufferedBytes += message.byteLength;
    } else {
      this.#write(message);
    }
  }

  start(handlers: TransportHandlers): void {
    if (this.#closed || this.#handlers !== undefined) return;
    this.#handlers = handlers;
    this.#poll = pollReadable(this.#fd, () => this.#read());
    if (this.#paused) this.#poll.pause();
    this.#deliverRefusalsLater();
  }

  pause(): void {
    this.#paused = true;
    this.#poll?.pause();
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#poll?.resume();
    this.#deliverRefusalsLater();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#handlers = undefined;
    this.#queue.length = 0;
    this.#bufferedBytes = 0;
    this.#poll?.close();
    closeSync(this.#fd);
  }

  #write(message: Uint8Array): void {
    try {
      if (message.byteLength > MESSAGE_MAX) {
        this.#refuse(message, 'E2BIG');
      } else {
        writeSync(this.#fd, message);
        this.#requestOut = true;
      }
    } catch (error) {
      const errno = errnoOf(error);
      if (errno === undefined) throw error;
      this.#refuse(message, errno);
    }
  }

  #writeQueued(): void {
    if (this.#queue.length === 0) return;
    while (!this.#requestOut && this.#queue.length > 0) {
      const message = this.#queue.shift()!;
      this.#bufferedBytes -= message.byteLength;
      this.#write(message);
    }
    if (this.#queue.length === 0) this.#handlers?.drained?.();
  }

  /** Delivers one buffer at most: the poll calls again for the rest. */
  #read(): void {
    let length: number;
    try {
      length = readSync(this.#fd, this.#buffer);
    } catch (error) {
      const errno = errnoOf(error);
      if (errno === 'EAGAIN' || errno === 'EINTR') return;
      this.#fail(error);
      return;
    }
    const chunk = length < READ_SIZE ? this.#buffer.subarray(0, length) : this.#buffer;
    if (this.#incoming.countReplies(chunk) > 0) this.#requestOut = false;
    this.#handlers?.data(chunk);
    this.#deliverRefusals();
    this.#writeQueued();
  }

  #fail(error: unknown): void {
    const handlers = this.#handlers;
    this.close();
    const reason = wrapErrno(error, 'reading /dev/xen/xenbus');
    handlers?.closed(reason instanceof Error ? reason : undefined);
  }

  #refuse(request: Uint8Array, errno: string): void {
    const reply = new Uint8Array(HEADER_SIZE + errno.length + 1);
    reply.set(request.subarray(0, HEADER_SIZE)); // req_id and tx_id are the request's
    const header = new DataView(reply.buffer);
    header.setUint32(0, XS_ERROR, true);
    header.setUint32(12, errno.length + 1, true);
    for (let index = 0; index < errno.length; index++) reply[HEADER_SIZE + index] = errno.charCodeAt(index);
    this.#refusals.push(reply);
    this.#deliverRefusalsLater();
  }

  /** A reply never comes inside the call that sent its request. */
  #deliverRefusalsLater(): void {
    if (this.#refusals.length > 0) setImmediate(() => this.#deliverRefusals());
  }

  #deliverRefusals(): void {
    while (this.#refusals.length > 0 && this.#incoming.atBoundary && !this.#paused && this.#handlers !== undefined)
      this.#handlers.data(this.#refusals.shift()!);
  }
}

/** Follows the messages of a byte stream, without keeping them. */
class MessageScanner {
  readonly #header = new Uint8Array(HEADER_SIZE);
  readonly #fields = new DataView(this.#header.buffer);
  #headerBytes = 0;
  #payloadLeft = 0;

  /** The stream so far ends with the end of a message. */
  get atBoundary(): boolean {
    return this.#headerBytes === 0;
  }

  /** Takes the next chunk; returns how many messages other than watch events have ended in it. */
  countReplies(chunk: Uint8Array): number {
    let replies = 0;
    let offset = 0;
    while (offset < chunk.length) {
      if (this.#headerBytes < HEADER_SIZE) {
        this.#header[this.#headerBytes++] = chunk[offset++]!;
        if (this.#headerBytes < HEADER_SIZE) continue;
        this.#payloadLeft = this.#fields.getUint32(12, true);
      } else {
        const taken = Math.min(this.#payloadLeft, chunk.length - offset);
        this.#payloadLeft -= taken;
        offset += taken;
      }
      if (this.#payloadLeft > 0) continue;
      this.#headerBytes = 0;
      if (this.#fields.getUint32(0, true) !== XS_WATCH_EVENT) replies++;
    }
    return replies;
  }
}
