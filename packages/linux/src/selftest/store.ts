/** Checks of xenstore's transport. */
import assert from 'node:assert/strict';
import { openXenbusTransport } from '../xenbus-transport.ts';
import { type Check, within } from './support.ts';

// Message types of xenstore (`xen/io/xs_wire.h`).
export const XS_READ = 2;
const XS_WATCH = 4;
const XS_UNWATCH = 5;
const XS_WRITE = 11;
const XS_RM = 13;
const XS_WATCH_EVENT = 15;
const XS_ERROR = 16;
const HEADER_SIZE = 16;

interface Message {
  readonly type: number;
  readonly id: number;
  readonly body: string;
}

/** A bare xenstore client, so that the transport is tested without what stands on it. */
export class StoreProbe {
  readonly transport = openXenbusTransport();
  readonly events: string[] = [];
  readonly #replies = new Map<number, (message: Message) => void>();
  #pending = Buffer.alloc(0);
  #nextId = 1;
  #changed: (() => void) | undefined;

  constructor() {
    this.transport.start({
      data: (chunk) => {
        this.#pending = Buffer.concat([this.#pending, chunk]);
        while (this.#pending.length >= HEADER_SIZE) {
          const end = HEADER_SIZE + this.#pending.readUInt32LE(12);
          if (this.#pending.length < end) break;
          this.#received({
            type: this.#pending.readUInt32LE(0),
            id: this.#pending.readUInt32LE(4),
            body: this.#pending.toString('latin1', HEADER_SIZE, end),
          });
          this.#pending = this.#pending.subarray(end);
        }
      },
      closed: (reason) => {
        throw reason ?? new Error('the transport closed');
      },
    });
  }

  #received(message: Message): void {
    if (message.type === XS_WATCH_EVENT) {
      this.events.push(message.body);
      this.#changed?.();
    } else {
      const reply = this.#replies.get(message.id);
      assert(reply !== undefined, `a reply to request ${message.id}, which was not sent`);
      this.#replies.delete(message.id);
      reply(message);
    }
  }

  request(type: number, body: string): Promise<Message> {
    const id = this.#nextId++;
    const message = Buffer.alloc(HEADER_SIZE + body.length);
    message.writeUInt32LE(type, 0);
    message.writeUInt32LE(id, 4);
    message.writeUInt32LE(body.length, 12);
    message.write(body, HEADER_SIZE, 'latin1');
    const reply = new Promise<Message>((resolve) => this.#replies.set(id, resolve));
    this.transport.send(message);
    return within(reply, `the reply to request ${id}`);
  }

  /** Resolves with the events once there are `count` of them. */
  async eventsUpTo(count: number): Promise<readonly string[]> {
    while (this.events.length < count) {
      const change = new Promise<void>((resolve) => {
        this.#changed = resolve;
      });
      await within(change, `watch event ${this.events.length + 1}`);
    }
    return this.events;
  }
}

export function storeChecks(store: StoreProbe): Check[] {
  return [
    {
      name: 'xenstore: requests sent in a row get the replies that are theirs',
      run: async () => {
        const paths = Array.from({ length: 40 }, (_, index) => (index % 2 === 0 ? 'domid\0' : 'no-such-node\0'));
        const replies = await Promise.all(paths.map((path) => store.request(XS_READ, path)));
        assert.deepEqual(
          replies.map((reply) => reply.body),
          paths.map((path) => (path === 'domid\0' ? replies[0]?.body : 'ENOENT\0')),
        );
        return { requests: replies.length, domid: replies[0]?.body };
      },
    },
    {
      name: 'xenstore: a watch fires when it is set and when its node changes',
      run: async () => {
        const path = '/tool/pvkit-selftest';
        assert.equal((await store.request(XS_WATCH, `${path}\0token\0`)).type, XS_WATCH);
        assert.equal((await store.request(XS_WRITE, `${path}\0one`)).type, XS_WRITE);
        const events = await store.eventsUpTo(2);
        assert.deepEqual(events.slice(0, 2), [`${path}\0token\0`, `${path}\0token\0`]);
        assert.equal((await store.request(XS_UNWATCH, `${path}\0token\0`)).type, XS_UNWATCH);
        await store.request(XS_RM, `${path}\0`);
        return { events: events.length };
      },
    },
    {
      name: 'xenstore: requests that the driver fails get an error reply',
      run: async () => {
        const bad = await store.request(XS_WATCH, '/tool//bad path\0token\0');
        const long = await store.request(XS_WRITE, `/tool/pvkit-selftest\0${'x'.repeat(4070)}`);
        assert.deepEqual([bad.type, long.type, long.body], [XS_ERROR, XS_ERROR, 'E2BIG\0']);
        return { badWatch: bad.body, long: long.body };
      },
    },
  ];
}
