import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { permissions } from '../permissions.ts';
import type { Caller } from './quota.ts';
import { Store } from './store.ts';
import { type Subscriber, type Watch, WatchIndex } from './watches.ts';

const controlDomain: Caller = { domid: 0, privileged: true, target: undefined };
const segment = fc.constantFrom('a', 'b', 'ab');
const path = fc.array(segment, { maxLength: 4 }).map((segments) => `/${segments.join('/')}`);
const watched = fc.record({ path, depth: fc.option(fc.nat(3), { nil: undefined }) });

function newSubscriber(received: string[]): Subscriber {
  return {
    domid: 0,
    privileged: true,
    target: undefined,
    watches: new Map(),
    judged: { change: 0, permitted: false },
    deliver: ({ token }, eventPath) => void received.push(`${token}:${eventPath}`),
  };
}

/** `child` is `parent` or below it, at most `depth` levels. */
function isChild(child: string, parent: string, depth: number | undefined): boolean {
  if (child === parent) return true;
  const prefix = parent === '/' ? '/' : `${parent}/`;
  if (!child.startsWith(prefix)) return false;
  return depth === undefined || child.slice(prefix.length).split('/').length <= depth;
}

describe('the index of watches', () => {
  it('finds what a look at every watch finds, whichever were removed', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(watched, fc.boolean()), { maxLength: 20 }), fc.array(path), (entries, changes) => {
        const received: string[] = [];
        const subscriber = newSubscriber(received);
        const index = new WatchIndex();
        const watches = entries.map(([{ path, depth }, stays], i) => {
          const watch: Watch = { subscriber, path, token: `t${i}`, depth, prefixLength: 0 };
          index.add(watch);
          return { watch, stays };
        });
        for (const { watch, stays } of watches) if (!stays) index.remove(watch);
        const remaining = watches.filter(({ stays }) => stays).map(({ watch }) => watch);
        expect(index.count).toBe(remaining.length);
        for (const changed of changes) {
          index.fire(changed, { before: undefined, node: permissions(0), parent: undefined });
          const expected = remaining.filter((watch) => isChild(changed, watch.path, watch.depth));
          expect(received.splice(0).sort()).toEqual(expected.map(({ token }) => `${token}:${changed}`).sort());
        }
        for (const watch of remaining) index.remove(watch);
        expect(subscriber.watches.size).toBe(0);
      }),
      { numRuns: 400 },
    );
  });

  it('tells of a removed subtree each watch once, inside with its own path', () => {
    fc.assert(
      fc.property(
        fc.array(path, { maxLength: 12 }),
        fc.array(watched, { maxLength: 12 }),
        path,
        (nodes, entries, gone) => {
          fc.pre(gone !== '/');
          for (const inTransaction of [false, true]) {
            const store = new Store();
            for (const node of [...nodes, gone]) store.mkdir(controlDomain, undefined, node);
            const received: string[] = [];
            const subscriber = newSubscriber(received);
            for (const [i, { path, depth }] of entries.entries())
              store.addWatch({ subscriber, path, token: `t${i}`, depth, prefixLength: 0 }, () => undefined);
            received.length = 0;
            const expected = entries.flatMap(({ path, depth }, i) => {
              if (isChild(gone, path, depth)) return [`t${i}:${gone}`];
              const wasThere = typeof store.read(controlDomain, undefined, path) !== 'string';
              return wasThere && isChild(path, gone, undefined) ? [`t${i}:${path}`] : [];
            });
            const tx = inTransaction ? store.startTransaction(controlDomain, 1) : undefined;
            if (tx === 'ENOSPC') throw new Error('no quota applies');
            expect(store.remove(controlDomain, tx, gone)).toBeUndefined();
            if (tx !== undefined) {
              expect(received).toEqual([]);
              expect(store.endTransaction(controlDomain, tx, true)).toBeUndefined();
            }
            expect(received.sort()).toEqual(expected.sort());
          }
        },
      ),
      { numRuns: 300 },
    );
  });
});
