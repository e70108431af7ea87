/**
 * One client's connection: cuts requests out of its byte stream, and gathers replies and events into one write a turn.
 * A client that does not take its replies is not read from until it does.
 */

import { domainPath } from '../path.ts';
import type { QuotaKeeper } from '../store/quota.ts';
import type { Transaction } from '../store/transaction.ts';
import type { Subscriber, Watch } from '../store/watches.ts';
import { XENSTORE_ERROR_PROTO } from '../transport/ring.ts';
import {
  type Packet,
  PacketParser,
  PacketWriter,
  XENSTORE_PAYLOAD_MAX,
  type XsdError,
  XsdSockmsgType,
} from '../wire.ts';
import type { DomainTransport } from './host.ts';

/** On whose behalf a connection acts. */
export interface ConnectionIdentity {
  readonly domid: number;
  /** Has every access and no quota: the control domain. */
  readonly privileged: boolean;
}

/** What a connection asks of the server. */
export interface ConnectionOwner {
  readonly quotas: QuotaKeeper;
  /** Handles a request and replies to it. Never throws. */
  dispatch(connection: Connection, packet: Packet): void;
  /** The connection has something to send at the end of this turn. */
  hasOutput(connection: Connection): void;
  /** A chunk has been worked off: everybody's output may go. */
  turnEnds(): void;
  /** The connection is not read from until its replies are taken; `limit` in replies, for the control domain in bytes. */
  stalled(connection: Connection, limit: number): void;
  /** The connection has ended. */
  ended(connection: Connection, reason: string | undefined): void;
}

/** Bytes handed to the transport beyond which output waits here, where equal events merge. */
const SENT_MAX = 64 * 1024;
/** Output waiting, in bytes, that stops reading from a privileged client. */
const PRIVILEGED_REPLIES_MAX = 256 * 1024;
/** Output waiting, in bytes, that ends a privileged client: it has stopped reading its events. */
const PRIVILEGED_OUTPUT_MAX = 32 * 1024 * 1024;

export class Connection implements Subscriber {
  readonly domid: number;
  readonly privileged: boolean;
  /** What relative paths are relative to. */
  readonly basePath: string;
  target: number | undefined;
  readonly watches = new Map<string, Watch>();
  readonly transactions = new Map<number, Transaction>();
  readonly judged = { change: 0, permitted: false };
  /** Has the request under way been answered? */
  replied = false;
  readonly #owner: ConnectionOwner;
  readonly #transport: DomainTransport;
  readonly #parser = new PacketParser();
  readonly #output = new PacketWriter();
  /** Events within the output, by path and token. */
  readonly #queuedEvents = new Set<string>();
  #repliesInOutput = 0;
  #outputAnnounced = false;
  /** Replies that the other side has not taken, those in the output included. */
  #outstanding = 0;
  #stalled = false;
  #closed = false;
  #nextTransactionId = 1;

  constructor(owner: ConnectionOwner, transport: DomainTransport, identity: ConnectionIdentity) {
    this.#owner = owner;
    this.#transport = transport;
    this.domid = identity.domid;
    this.privileged = identity.privileged;
    this.basePath = domainPath(identity.domid);
  }

  start(): void {
    this.#transport.start({
      data: (chunk) => {
        this.#parser.push(chunk);
        this.#process();
      },
      drained: () => this.#drained(),
      closed: (reason) => this.close(reason?.message),
    });
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** An unused transaction id, never 0. */
  newTransactionId(): number {
    while (this.#nextTransactionId === 0 || this.transactions.has(this.#nextTransactionId))
      this.#nextTransactionId = (this.#nextTransactionId + 1) >>> 0;
    const id = this.#nextTransactionId;
    this.#nextTransactionId = (id + 1) >>> 0;
    return id;
  }

  replyOk(request: Packet): void {
    this.replyString(request, 'OK');
  }

  /** Replies with `text` and a NUL. */
  replyString(request: Packet, text: string): undefined {
    this.replyStrings(request, [text]);
  }

  /** Replies with strings, each with a NUL; `E2BIG` when they do not fit. */
  replyStrings(request: Packet, strings: Iterable<string>): void {
    this.#output.begin(request.type, request.reqId, request.txId);
    for (const text of strings) this.#output.string(text);
    this.#endReply(request);
  }

  replyData(request: Packet, data: Uint8Array): void {
    this.#output.begin(request.type, request.reqId, request.txId);
    this.#output.data(data);
    this.#endReply(request);
  }

  replyError(request: Packet, error: XsdError): void {
    this.#output.begin(XsdSockmsgType.XS_ERROR, request.reqId, request.txId);
    this.#output.string(error);
    this.#endReply(request);
  }

  deliver({ token }: Watch, path: string): void {
    if (this.#closed || path.length + token.length + 2 > XENSTORE_PAYLOAD_MAX) return;
    // Events for special paths each stand for something that happened, so they are not merged.
    const key = path.charCodeAt(0) === 0x40 ? undefined : `${path}\0${token}`;
    if (key !== undefined && this.#queuedEvents.has(key)) return;
    if (this.#owner.quotas.refuses(this, 'memory', this.#waitingBytes)) return;
    if (key !== undefined) this.#queuedEvents.add(key);
    this.#output.begin(XsdSockmsgType.XS_WATCH_EVENT, 0, 0);
    this.#output.string(path);
    this.#output.string(token);
    this.#output.end();
    this.#announceOutput();
  }

  /** Hands what has gathered to the transport, as far as that keeps up. For the server, at the end of a turn. */
  flush(): void {
    this.#outputAnnounced = false;
    if (this.#closed) return;
    if (this.#waitingBytes > PRIVILEGED_OUTPUT_MAX) {
      this.close('does not read its replies and events');
      return;
    }
    if (this.#output.length === 0 || this.#transport.bufferedBytes > this.#sentMax) return;
    this.#transport.send(this.#output.bytes);
    this.#output.clear();
    this.#queuedEvents.clear();
    this.#repliesInOutput = 0;
    if (this.#transport.bufferedBytes === 0) this.#outstanding = 0;
  }

  /** Ends the connection. Idempotent. */
  close(reason?: string): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#transport.close();
    this.#owner.ended(this, reason);
  }

  get #waitingBytes(): number {
    return this.#output.length + this.#transport.bufferedBytes;
  }

  get #sentMax(): number {
    return this.privileged ? SENT_MAX : 0;
  }

  #process(): void {
    while (!this.#closed) {
      if (this.#mustWait()) {
        this.flush();
        if (this.#mustWait()) {
          this.#stall();
          break;
        }
      }
      const result = this.#parser.next();
      if (result === 'incomplete') break;
      if (result === 'too-long') {
        this.#transport.setError?.(XENSTORE_ERROR_PROTO);
        this.close('sent a payload above the limit');
        break;
      }
      this.#owner.dispatch(this, this.#parser.packet);
    }
    this.#owner.turnEnds();
  }

  #mustWait(): boolean {
    if (this.privileged) return this.#waitingBytes > PRIVILEGED_REPLIES_MAX;
    return this.#owner.quotas.limit('outstanding') > 0 && this.#outstanding >= this.#owner.quotas.limit('outstanding');
  }

  #stall(): void {
    if (this.#closed) return;
    this.#parser.retain();
    if (this.#stalled) return;
    this.#stalled = true;
    this.#transport.pause();
    this.#owner.stalled(this, this.privileged ? PRIVILEGED_REPLIES_MAX : this.#owner.quotas.limit('outstanding'));
  }

  #drained(): void {
    if (this.#closed) return;
    this.#outstanding = this.#repliesInOutput;
    this.flush();
    if (!this.#stalled || this.#mustWait()) return;
    this.#stalled = false;
    this.#process();
    if (!this.#stalled && !this.#closed) this.#transport.resume();
  }

  #endReply(request: Packet): void {
    if (this.#output.end() > XENSTORE_PAYLOAD_MAX) {
      this.#output.drop();
      this.replyError(request, 'E2BIG');
      return;
    }
    this.replied = true;
    this.#repliesInOutput++;
    this.#outstanding++;
    this.#announceOutput();
  }

  #announceOutput(): void {
    if (this.#outputAnnounced) return;
    this.#outputAnnounced = true;
    this.#owner.hasOutput(this);
  }
}
