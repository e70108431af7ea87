/**
 * The store: a tree of nodes with permissions and quotas, transactions and watches. Pure: no I/O, no time. What a caller
 * asks wrongly gives the errno that C xenstored answers; nothing throws for it.
 */
import type { Observer } from '@pvkit/ring';
import { countedPathLength, INTRODUCE_DOMAIN, leafName, parentPath, RELEASE_DOMAIN } from '../path.ts';
import { ACCESS_OWNER, ACCESS_READ, ACCESS_WRITE, type Permissions, permissions } from '../permissions.ts';
import type { XsdError } from '../wire.ts';
import { allowedAccess } from './access.ts';
import { LiveView } from './live-view.ts';
import { type Caller, QuotaKeeper, type Quotas } from './quota.ts';
import { Transaction } from './transaction.ts';
import { type NodeState, noValue, pathOf, Tree, type TreeNode, walk } from './tree.ts';
import type { StoreView } from './view.ts';
import { type Subscriber, type Watch, WatchIndex, watchKey } from './watches.ts';

export interface StoreOptions {
  /** Limits that differ from the defaults; 0 for no limit. */
  readonly quotas?: Partial<Quotas>;
  /** Asked at each event, so that observing can begin and end. */
  readonly observe?: () => Observer | undefined;
}

/** Bytes that a node takes besides value and names: header and one permission entry, as C xenstored counts them. */
const NODE_HEADER_SIZE = 24;
const PERMISSION_SIZE = 8;

export class Store {
  readonly quotas: QuotaKeeper;
  readonly watches = new WatchIndex();
  readonly #tree = new Tree([INTRODUCE_DOMAIN, RELEASE_DOMAIN]);
  readonly #live: LiveView;

  constructor(options: StoreOptions = {}) {
    this.quotas = new QuotaKeeper(options.quotas ?? {}, options.observe ?? (() => undefined));
    this.#live = new LiveView(this.#tree, this.watches, this.quotas);
    this.quotas.account(0).nodes = 1 + this.#tree.special.size;
    // As C xenstored starts; tools look there for the store's domain.
    this.#live.create('/', 'tool', noValue, permissions(0));
    this.#live.create('/tool', 'xenstored', noValue, permissions(0));
  }

  /** The node for READ, DIRECTORY and GET_PERMS; `ENOENT`, or `EACCES` for one that the caller may not know of. */
  read(caller: Caller, tx: Transaction | undefined, path: string): NodeState | XsdError {
    return this.#permitted(caller, tx ?? this.#live, path, ACCESS_READ);
  }

  write(caller: Caller, tx: Transaction | undefined, path: string, value: Uint8Array): XsdError | undefined {
    const view = tx ?? this.#live;
    const node = this.#permitted(caller, view, path, ACCESS_WRITE);
    if (node === 'ENOENT') return this.#create(caller, view, path, value);
    if (typeof node === 'string') return node;
    if (this.#tooLarge(caller, node.permissions, value.length, node.childBytes)) return 'ENOSPC';
    view.setValue(path, value);
    view.changed(path);
    return undefined;
  }

  mkdir(caller: Caller, tx: Transaction | undefined, path: string): XsdError | undefined {
    const view = tx ?? this.#live;
    const node = this.#permitted(caller, view, path, ACCESS_WRITE);
    if (node === 'ENOENT') return this.#create(caller, view, path, noValue);
    return typeof node === 'string' ? node : undefined;
  }

  remove(caller: Caller, tx: Transaction | undefined, path: string): XsdError | undefined {
    const view = tx ?? this.#live;
    const node = this.#permitted(caller, view, path, ACCESS_WRITE);
    if (node === 'ENOENT') {
      const parent = view.get(parentPath(path));
      if (parent === 'ENOSPC') return parent;
      return parent === undefined ? 'ENOENT' : undefined;
    }
    if (typeof node === 'string') return node;
    return path === '/' ? 'EINVAL' : view.remove(path);
  }

  setPermissions(caller: Caller, tx: Transaction | undefined, path: string, value: Permissions): XsdError | undefined {
    const view = tx ?? this.#live;
    const node = this.#permitted(caller, view, path, ACCESS_WRITE | ACCESS_OWNER);
    if (typeof node === 'string') return node;
    const before = node.permissions;
    if (!caller.privileged && value.owner !== before.owner) return 'EPERM';
    if (this.#tooLarge(caller, value, node.value.length, node.childBytes)) return 'ENOSPC';
    view.setPermissions(path, value);
    view.changed(path, before);
    return undefined;
  }

  /** True, and observed, when a path is longer than the caller may use. */
  refusesPathLength(caller: Caller, path: string): boolean {
    return this.quotas.refuses(caller, 'path-max', countedPathLength(path));
  }

  /** True, and observed, when permissions have more entries than the caller may set. */
  refusesPermissionCount(caller: Caller, count: number): boolean {
    return this.quotas.refuses(caller, 'node-permissions', count);
  }

  /** Starts a transaction; end it with {@link endTransaction}. */
  startTransaction(caller: Caller, id: number): Transaction | 'ENOSPC' {
    const account = this.quotas.account(caller.domid);
    if (this.quotas.refuses(caller, 'transactions', account.transactions + 1)) return 'ENOSPC';
    account.transactions++;
    return new Transaction(id, caller, this.#tree, this.watches, this.quotas);
  }

  /** Ends a transaction, committing or not: `EAGAIN` when something that it read has changed. */
  endTransaction(caller: Caller, tx: Transaction, commit: boolean): XsdError | undefined {
    this.quotas.account(caller.domid).transactions--;
    return commit ? tx.commit() : undefined;
  }

  /** Adds a watch and delivers its first event after `acknowledge`. */
  addWatch(watch: Watch, acknowledge: () => void): XsdError | undefined {
    const { subscriber } = watch;
    if (subscriber.watches.has(watchKey(watch.path, watch.token))) return 'EEXIST';
    const account = this.quotas.account(subscriber.domid);
    if (this.quotas.refuses(subscriber, 'watches', account.watches + 1)) return 'ENOSPC';
    account.watches++;
    this.watches.add(watch);
    acknowledge();
    subscriber.deliver(watch, watch.path.slice(watch.prefixLength));
    return undefined;
  }

  removeWatch(subscriber: Subscriber, path: string, token: string): XsdError | undefined {
    const watch = subscriber.watches.get(watchKey(path, token));
    if (watch === undefined) return 'ENOENT';
    this.#dropWatch(watch);
    return undefined;
  }

  removeAllWatches(subscriber: Subscriber): void {
    for (const watch of [...subscriber.watches.values()]) this.#dropWatch(watch);
  }

  /** `@introduceDomain` or `@releaseDomain` for `domid`. */
  fireSpecial(path: string, domid: number): void {
    const node = this.#tree.special.get(path);
    if (node !== undefined)
      this.watches.fireSpecial(path, domid, { before: undefined, node: node.permissions, parent: undefined });
  }

  /** A domain is gone: removes the nodes that it owned, with all below them, and its entries in others' permissions. */
  removeDomain(domid: number): void {
    for (const node of this.#tree.special.values()) this.#scrub(node, domid);
    const stack: TreeNode[] = [this.#tree.root];
    for (let node = stack.pop(); node !== undefined; node = stack.pop()) {
      if (node.permissions.owner === domid && node.parent !== undefined) {
        this.#live.remove(pathOf(node));
        continue;
      }
      this.#scrub(node, domid);
      for (const child of node.children.values()) stack.push(child);
    }
    this.quotas.forget(domid);
  }

  /** Compares what is kept twice; returns a line for each thing that does not agree. */
  check(): string[] {
    const problems: string[] = [];
    const owned = new Map<number, number>();
    const count = (node: TreeNode) => owned.set(node.permissions.owner, (owned.get(node.permissions.owner) ?? 0) + 1);
    for (const node of this.#tree.special.values()) count(node);
    for (const node of walk(this.#tree.root)) {
      count(node);
      let childBytes = 0;
      for (const [name, child] of node.children) {
        childBytes += name.length + 1;
        if (child.parent !== node || child.name !== name) problems.push(`${pathOf(node)}: child ${name} does not fit`);
      }
      if (childBytes !== node.childBytes)
        problems.push(`${pathOf(node)}: ${node.childBytes} bytes of names counted, ${childBytes} found`);
    }
    for (const [domid, { nodes }] of this.quotas.accounts())
      if (nodes !== (owned.get(domid) ?? 0))
        problems.push(`domain ${domid}: ${nodes} nodes counted, ${owned.get(domid) ?? 0} found`);
    return problems;
  }

  /** The node if the caller has all of `access` to it, or the error that tells no more than it may know. */
  #permitted(caller: Caller, view: StoreView, path: string, access: number): NodeState | XsdError {
    const node = view.get(path);
    if (node === 'ENOSPC') return node;
    if (node !== undefined && (allowedAccess(caller, node.permissions) & access) === access) return node;
    const error = node === undefined ? 'ENOENT' : 'EACCES';
    if (path.charCodeAt(0) !== 0x2f) return caller.privileged ? error : 'EACCES';
    for (let at = path; at !== '/'; ) {
      at = parentPath(at);
      const ancestor = view.get(at);
      if (ancestor === 'ENOSPC') return ancestor;
      if (ancestor === undefined) continue;
      return (allowedAccess(caller, ancestor.permissions) & access) !== 0 ? error : 'EACCES';
    }
    return 'EACCES';
  }

  /** Creates the missing node at `path`, and its missing parents with the permissions of the nearest that exists. */
  #create(caller: Caller, view: StoreView, path: string, value: Uint8Array): XsdError | undefined {
    const missing = [path];
    let above = parentPath(path);
    let ancestor = view.get(above);
    for (; ancestor === undefined; ancestor = view.get(above)) {
      missing.push(above);
      above = parentPath(above);
    }
    if (ancestor === 'ENOSPC') return ancestor;
    const inherited = caller.privileged ? ancestor.permissions : { ...ancestor.permissions, owner: caller.domid };
    const refusal = this.#refusesCreation(caller, view, ancestor, inherited, missing, value.length);
    if (refusal) return 'ENOSPC';
    for (let i = missing.length - 1; i >= 0; i--) {
      const at = missing[i] ?? path;
      view.create(above, leafName(at), i === 0 ? value : noValue, inherited);
      above = at;
    }
    view.changed(path);
    return undefined;
  }

  /** @param missing paths to create, the deepest first */
  #refusesCreation(
    caller: Caller,
    view: StoreView,
    ancestor: NodeState,
    inherited: Permissions,
    missing: readonly string[],
    valueLength: number,
  ): boolean {
    if (caller.privileged) return false;
    if (this.quotas.refuses(caller, 'nodes', view.ownedNodes(caller.domid) + missing.length)) return true;
    const sizeOfName = (path: string | undefined) => (path === undefined ? 0 : leafName(path).length + 1);
    const grown = ancestor.childBytes + sizeOfName(missing.at(-1));
    if (this.#tooLarge(caller, ancestor.permissions, ancestor.value.length, grown)) return true;
    if (this.#tooLarge(caller, inherited, valueLength, 0)) return true;
    for (let i = 1; i < missing.length; i++)
      if (this.#tooLarge(caller, inherited, 0, sizeOfName(missing[i - 1]))) return true;
    return false;
  }

  #tooLarge(caller: Caller, { grants }: Permissions, valueLength: number, childBytes: number): boolean {
    if (caller.privileged) return false;
    const size = NODE_HEADER_SIZE + PERMISSION_SIZE * (1 + grants.length) + valueLength + childBytes;
    return this.quotas.refuses(caller, 'node-size', size);
  }

  #dropWatch(watch: Watch): void {
    this.watches.remove(watch);
    this.quotas.account(watch.subscriber.domid).watches--;
  }

  #scrub(node: TreeNode, domid: number): void {
    const { owner, others, grants } = node.permissions;
    if (owner !== domid && !grants.some((grant) => grant.domid === domid)) return;
    // Only a special node, or `/`, can still have the domain as its owner here.
    const path = node.name.startsWith('@') ? node.name : pathOf(node);
    this.#live.setPermissions(path, {
      owner: owner === domid ? 0 : owner,
      others,
      grants: grants.filter((grant) => grant.domid !== domid),
    });
  }
}
