/** Checks of event channels. */
import assert from 'node:assert/strict';
import { type Domid, domid, type EventPort, eventPort, type Platform, standardRuntime } from '@pvkit/ring';
import { openXenPlatform } from '../platform.ts';
import { type Check, errnoOfThrown, settle, within } from './support.ts';

/** Counts a port's events, and waits for them. */
export class EventCounter {
  count = 0;
  readonly port: EventPort;
  readonly #platform: Platform;
  readonly #unmasks: boolean;
  #changed: (() => void) | undefined;

  constructor(platform: Platform, port: EventPort, unmasks: boolean) {
    this.#platform = platform;
    this.port = port;
    this.#unmasks = unmasks;
    platform.events.listen(port, () => {
      this.count++;
      if (this.#unmasks) platform.events.unmask(port);
      this.#changed?.();
    });
  }

  unmask(): void {
    this.#platform.events.unmask(this.port);
  }

  async upTo(count: number): Promise<void> {
    while (this.count < count) {
      const change = new Promise<void>((resolve) => {
        this.#changed = resolve;
      });
      await within(change, `event ${this.count + 1} of port ${this.port}`);
    }
  }
}

/** Both ends of a new channel, the first one's initial event already had. */
export function eventPair(platform: Platform, self: Domid): { readonly near: EventPort; readonly far: EventPort } {
  const near = platform.events.allocateUnbound(self);
  return { near, far: platform.events.bindInterdomain(self, near) };
}

export function eventChecks(platform: Platform, self: Domid): Check[] {
  const { events } = platform;
  return [
    {
      name: 'events: masked while handled, coalesced, delivered after unmask',
      run: async () => {
        const { near, far } = eventPair(platform, self);
        await settle(); // the initial event of `far` comes before there is a listener
        const farEvents = new EventCounter(platform, far, true);
        await farEvents.upTo(1);
        const nearEvents = new EventCounter(platform, near, false);
        assert.equal(
          errnoOfThrown(() => events.listen(near, () => {})),
          'EBUSY',
        );
        events.notify(far);
        await nearEvents.upTo(1);
        for (let count = 0; count < 10; count++) events.notify(far);
        await settle();
        assert.equal(nearEvents.count, 1, 'an event passed the mask');
        nearEvents.unmask();
        await nearEvents.upTo(2);
        nearEvents.unmask();
        await settle();
        assert.equal(nearEvents.count, 2, 'events were not made one');
        events.notify(near);
        await farEvents.upTo(2);
        events.close(far);
        events.close(far);
        events.notify(near); // the other end has closed
        await settle();
        assert.equal(farEvents.count, 2);
        events.close(near);
        return { near: nearEvents.count, far: farEvents.count };
      },
    },
    {
      name: 'events: bad ports are refused by name',
      run: () => {
        const bogus = errnoOfThrown(() => events.bindInterdomain(self, eventPort(100_000)));
        const dead = errnoOfThrown(() => events.bindInterdomain(domid(4711), eventPort(1)));
        const foreign = errnoOfThrown(() => events.notify(eventPort(99_999)));
        assert.deepEqual([bogus, dead, foreign], ['EINVAL', 'ESRCH', 'EINVAL']);
        events.unmask(eventPort(99_999));
        return { bogus, dead, foreign };
      },
    },
    {
      name: 'events: hundreds of ports at once, closing in a handler, a handler that throws',
      run: async () => {
        const pairs = Array.from({ length: 150 }, () => eventPair(platform, self));
        await settle();
        let delivered = 0;
        const uncaught: unknown[] = [];
        const catcher = (error: unknown) => uncaught.push(error);
        process.on('uncaughtException', catcher);
        for (const [index, { near }] of pairs.entries()) {
          events.listen(near, () => {
            delivered++;
            if (index === 3) for (const { near: other } of pairs.slice(100)) events.close(other);
            if (index === 5) throw new Error('thrown by a handler on purpose');
          });
        }
        for (const { far } of pairs) events.notify(far);
        await settle();
        process.off('uncaughtException', catcher);
        assert.equal(uncaught.length, 1, `uncaught: ${uncaught}`);
        assert.equal(delivered, 100);
        for (const { near, far } of pairs) {
          events.close(near);
          events.close(far);
        }
        return { delivered };
      },
    },
    {
      name: 'events: an overflow of the driver loses none',
      run: async () => {
        const observed: string[] = [];
        const other = openXenPlatform({
          identity: platform.identity,
          runtime: standardRuntime((event) => observed.push(event)),
        });
        // Without a turn of the event loop: stale events of closed ports fill the driver's ring of 64.
        const far: EventPort[] = [];
        const bind = () => {
          const port = other.events.allocateUnbound(self);
          far.push(platform.events.bindInterdomain(self, port));
          return port;
        };
        const stale = Array.from({ length: 64 }, bind);
        for (const port of far) platform.events.notify(port);
        for (const port of stale) other.events.close(port);
        const counters = Array.from({ length: 8 }, () => new EventCounter(other, bind(), true));
        for (const port of far.slice(64)) platform.events.notify(port);
        for (const counter of counters) await counter.upTo(1);
        assert.deepEqual(observed, ['linux.event-ring-overflow']);
        const before = counters.map((counter) => counter.count);
        for (const port of far.slice(64)) platform.events.notify(port);
        for (const [index, counter] of counters.entries()) await counter.upTo(before[index]! + 1);
        for (const port of far) platform.events.close(port);
        other.close();
        assert.equal(other.usage().eventPorts, 0);
        return { observed };
      },
    },
  ];
}
