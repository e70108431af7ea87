/** For tests: a client that sends any bytes and shows what comes back as text. */
import type { MessageTransport } from '@pvkit/ring';
import {
  operationName,
  PacketParser,
  PacketWriter,
  readLatin1,
  XsdSockmsgType,
  type XsdSockmsgTypeName,
} from '../wire.ts';

export interface RawReply {
  readonly type: number;
  readonly reqId: number;
  readonly txId: number;
  readonly payload: string;
}

export class RawClient {
  readonly #transport: MessageTransport;
  readonly #parser = new PacketParser();
  readonly #writer = new PacketWriter();
  readonly #waiting = new Map<number, { resolve(reply: RawReply): void; reject(error: Error): void }>();
  readonly #eventWaiters: { resolve(event: string): void; reject(error: Error): void }[] = [];
  /** Payloads of events not asked for yet. */
  readonly events: string[] = [];
  /** Resolves when the other side has closed. */
  readonly closed: Promise<void>;
  #nextId = 1;

  constructor(transport: MessageTransport) {
    this.#transport = transport;
    this.closed = new Promise((resolve) => {
      transport.start({
        data: (chunk) => this.#receive(chunk),
        closed: () => {
          const error = new Error('connection closed');
          for (const { reject } of [...this.#waiting.values(), ...this.#eventWaiters]) reject(error);
          resolve();
        },
      });
    });
  }

  /** Sends a request by number and returns its reply. */
  requestByNumber(type: number, txId: number, payload: string): Promise<RawReply> {
    const reqId = this.#nextId++;
    this.#writer.clear();
    this.#writer.begin(type, reqId, txId);
    this.#writer.text(payload);
    this.#writer.end();
    return new Promise((resolve, reject) => {
      this.#waiting.set(reqId, { resolve, reject });
      this.#transport.send(this.#writer.bytes);
    });
  }

  /** Sends a request by name without `XS_` and returns the reply's payload, or an error's name. */
  async request(operation: string, txId: number, payload: string): Promise<string> {
    const type = XsdSockmsgType[`XS_${operation}` as XsdSockmsgTypeName];
    const reply = await this.requestByNumber(type, txId, payload);
    if (reply.type !== type && reply.type !== XsdSockmsgType.XS_ERROR)
      throw new Error(`${operation} was answered by ${operationName(reply.type)}`);
    if (reply.txId !== txId) throw new Error(`${operation} was answered for transaction ${reply.txId}`);
    return reply.payload;
  }

  send(bytes: Uint8Array): void {
    this.#transport.send(bytes);
  }

  nextEvent(): Promise<string> {
    const event = this.events.shift();
    if (event !== undefined) return Promise.resolve(event);
    return new Promise((resolve, reject) => this.#eventWaiters.push({ resolve, reject }));
  }

  pause(): void {
    this.#transport.pause();
  }

  resume(): void {
    this.#transport.resume();
  }

  close(): void {
    this.#transport.close();
  }

  #receive(chunk: Uint8Array): void {
    this.#parser.push(chunk);
    while (this.#parser.next() === 'packet') {
      const { type, reqId, txId, bytes, start, end } = this.#parser.packet;
      const payload = readLatin1(bytes, start, end);
      if (type === XsdSockmsgType.XS_WATCH_EVENT) {
        const waiter = this.#eventWaiters.shift();
        if (waiter === undefined) this.events.push(payload);
        else waiter.resolve(payload);
      } else {
        this.#waiting.get(reqId)?.resolve({ type, reqId, txId, payload });
        this.#waiting.delete(reqId);
      }
    }
  }
}
