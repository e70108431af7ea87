import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { joinPath, parentPath } from '../path.ts';
import { type Access, type Permissions, permissions } from '../permissions.ts';
import { type ModelOperation, ModelStore } from '../testing/model-store.ts';
import { readLatin1 } from '../wire.ts';
import type { Caller } from './quota.ts';
import { Store } from './store.ts';
import type { Transaction } from './transaction.ts';

const callers: readonly Caller[] = [0, 1, 2].map((domid) => ({ domid, privileged: domid === 0, target: undefined }));
const controlDomain: Caller = { domid: 0, privileged: true, target: undefined };

const segment = fc.constantFrom('a', 'b', 'c');
const path = fc.array(segment, { maxLength: 4 }).map((segments) => `/${segments.join('/')}`);
const access = fc.constantFrom<Access[]>('none', 'read', 'write', 'both');
const anyPermissions: fc.Arbitrary<Permissions> = fc.record({
  owner: fc.nat(2),
  others: access,
  grants: fc.array(fc.record({ domid: fc.nat(2), access }), { maxLength: 2 }),
});
const operation: fc.Arbitrary<ModelOperation> = fc.oneof(
  fc.record({
    kind: fc.constantFrom<('read' | 'directory' | 'mkdir' | 'remove' | 'getPermissions')[]>(
      'read',
      'directory',
      'mkdir',
      'remove',
      'getPermissions',
    ),
    path,
  }),
  fc.record({ kind: fc.constant<'write'>('write'), path, value: fc.constantFrom('', 'v', 'w') }),
  fc.record({ kind: fc.constant<'setPermissions'>('setPermissions'), path, permissions: anyPermissions }),
);

/** Carries the operation out on the real store, in the terms of the model. */
function run(store: Store, caller: Caller, tx: Transaction | undefined, operation: ModelOperation): unknown {
  switch (operation.kind) {
    case 'read': {
      const node = store.read(caller, tx, operation.path);
      return typeof node === 'string' ? node : readLatin1(node.value, 0, node.value.length);
    }
    case 'directory': {
      const node = store.read(caller, tx, operation.path);
      if (typeof node === 'string') return node;
      const names = [...node.childNames()];
      return names.sort();
    }
    case 'getPermissions': {
      const node = store.read(caller, tx, operation.path);
      return typeof node === 'string' ? node : node.permissions;
    }
    case 'mkdir':
      return store.mkdir(caller, tx, operation.path) ?? 'OK';
    case 'remove':
      return store.remove(caller, tx, operation.path) ?? 'OK';
    case 'write': {
      const value = Uint8Array.from(operation.value, (character) => character.charCodeAt(0));
      return store.write(caller, tx, operation.path, value) ?? 'OK';
    }
    case 'setPermissions':
      return store.setPermissions(caller, tx, operation.path, operation.permissions) ?? 'OK';
  }
}

function contents(store: Store): Map<string, { value: string; permissions: Permissions }> {
  const found = new Map<string, { value: string; permissions: Permissions }>();
  const stack = ['/'];
  for (let at = stack.pop(); at !== undefined; at = stack.pop()) {
    const node = store.read(controlDomain, undefined, at);
    if (typeof node === 'string') throw new Error(`${at}: ${node}`);
    found.set(at, { value: readLatin1(node.value, 0, node.value.length), permissions: node.permissions });
    for (const name of node.childNames()) stack.push(joinPath(at, name));
  }
  return found;
}

const sorted = (nodes: Iterable<[string, unknown]>) => [...nodes].sort(([a], [b]) => (a < b ? -1 : 1));

/** A store without quotas and its model, in which every domain may begin to write. */
function newStores(): { store: Store; model: ModelStore } {
  const store = new Store({ quotas: { nodes: 0, 'node-size': 0, 'transaction-nodes': 0, transactions: 0 } });
  const model = new ModelStore();
  const open: ModelOperation = { kind: 'setPermissions', path: '/', permissions: permissions(0, [], 'both') };
  expect(run(store, controlDomain, undefined, open)).toBe(model.run(controlDomain, open));
  return { store, model };
}

describe('the store', () => {
  it('does what a map of paths does', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(2), operation), { maxLength: 60, size: 'max' }), (steps) => {
        const { store, model } = newStores();
        for (const [who, step] of steps) {
          const caller = callers[who] ?? controlDomain;
          expect(run(store, caller, undefined, step)).toEqual(model.run(caller, step));
        }
        expect(sorted(contents(store))).toEqual(sorted(model.nodes));
        expect(store.check()).toEqual([]);
      }),
      { numRuns: 400 },
    );
  });
});

/** An open transaction, and what happened in and around it. */
interface Open {
  readonly tx: Transaction;
  readonly log: { readonly operation: ModelOperation; readonly result: unknown }[];
  /** Paths that it can have touched: those that it named, above and below. */
  readonly touched: Set<string>;
  /** Has anybody written one of those since it began? */
  disturbed: Set<string>;
}

type Step =
  | { readonly kind: 'start' | 'commit' | 'abort' }
  | { readonly kind: 'inside' | 'outside'; readonly operation: ModelOperation };
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constantFrom<('start' | 'commit' | 'abort')[]>('start', 'commit', 'abort') }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constantFrom<('inside' | 'outside')[]>('inside', 'inside', 'outside'), operation }),
  },
);

describe('transactions of several clients', () => {
  it('commit as if all of each happened at once, and fail only when something they touched was written', () => {
    const outcomes = { committed: 0, conflicts: 0 };
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(2), step), { maxLength: 80, size: 'max' }), (steps) => {
        const { store, model } = newStores();
        const open = new Map<number, Open>();
        const disturb = (except: Open | undefined) => {
          for (const other of open.values())
            if (other !== except) for (const written of model.written) other.disturbed.add(written);
        };
        for (const [who, step] of steps) {
          const caller = callers[who] ?? controlDomain;
          const mine = open.get(who);
          if (step.kind === 'start') {
            if (mine !== undefined) continue;
            const tx = store.startTransaction(caller, 1);
            if (tx === 'ENOSPC') throw new Error('no quota was set');
            open.set(who, { tx, log: [], touched: new Set(), disturbed: new Set() });
          } else if (step.kind === 'outside') {
            expect(run(store, caller, undefined, step.operation)).toEqual(model.run(caller, step.operation));
            disturb(undefined);
          } else if (mine === undefined) {
          } else if (step.kind === 'inside') {
            mine.log.push({ operation: step.operation, result: run(store, caller, mine.tx, step.operation) });
            for (let at = step.operation.path; ; at = parentPath(at)) {
              mine.touched.add(at);
              if (at === '/') break;
            }
            if (step.operation.kind === 'remove') mine.touched.add(`${step.operation.path}/`);
            continue;
          } else {
            open.delete(who);
            const before = contents(store);
            const outcome = store.endTransaction(caller, mine.tx, step.kind === 'commit');
            if (step.kind === 'abort' || outcome !== undefined) {
              expect(contents(store)).toEqual(before);
              if (step.kind === 'abort') expect(outcome).toBeUndefined();
              else {
                expect(outcome).toBe('EAGAIN');
                expect([...mine.disturbed].some((written) => isTouched(mine.touched, written))).toBe(true);
                outcomes.conflicts++;
              }
              continue;
            }
            outcomes.committed++;
            // All that it was told is what it would be told now, and its changes are those of doing it now.
            for (const { operation, result } of mine.log) {
              expect(model.run(caller, operation)).toEqual(result);
              disturb(mine);
            }
          }
          expect(sorted(contents(store))).toEqual(sorted(model.nodes));
        }
        for (const [who, { tx }] of open) store.endTransaction(callers[who] ?? controlDomain, tx, false);
        expect(store.check()).toEqual([]);
        for (const { transactions } of store.quotas.accounts().values()) expect(transactions).toBe(0);
      }),
      { numRuns: 300 },
    );
    // The property is empty unless both happened.
    expect(outcomes.committed).toBeGreaterThan(100);
    expect(outcomes.conflicts).toBeGreaterThan(20);
  });
});

function isTouched(touched: ReadonlySet<string>, written: string): boolean {
  if (touched.has(written)) return true;
  for (const path of touched) if (path.endsWith('/') && written.startsWith(path)) return true;
  return false;
}
