/**
 * A transaction keeps what it touched beside the store and copies nothing else. Its conflict rule is C xenstored's: it
 * commits if every node that it read still has the generation count that it had then (a node that was missing must still
 * be missing), whatever else happened meanwhile. Every node that it writes was read first, to check permissions.
 */
import { joinPath, leafName, parentPath } from '../path.ts';
import type { Permissions } from '../permissions.ts';
import type { XsdError } from '../wire.ts';
import type { Caller, QuotaKeeper } from './quota.ts';
import { type NodeState, noValue, type Tree, TreeNode } from './tree.ts';
import type { EventScope, StoreView } from './view.ts';
import type { WatchIndex } from './watches.ts';

/** Generation count of a node that does not exist. */
const NO_GENERATION = -1;

/** A node that the transaction touched, as the transaction has it. */
class TouchedNode implements NodeState {
  readonly path: string;
  /** The live node when first touched. */
  readonly base: TreeNode | undefined;
  readonly baseGeneration: number;
  readonly basePermissions: Permissions | undefined;
  exists: boolean;
  value: Uint8Array;
  #permissions: Permissions | undefined;
  generation: number;
  childBytes: number;
  modified = false;
  /** An event is due at commit. */
  event: EventScope | undefined;
  #removedChildren: Set<string> | undefined;
  #addedChildren: Set<string> | undefined;
  /** False once removed: the live node's children are no longer ours. */
  #hasBaseChildren: boolean;

  constructor(path: string, base: TreeNode | undefined) {
    this.path = path;
    this.base = base;
    this.baseGeneration = base?.generation ?? NO_GENERATION;
    this.basePermissions = base?.permissions;
    this.exists = base !== undefined;
    this.value = base?.value ?? noValue;
    this.#permissions = base?.permissions;
    this.generation = this.baseGeneration;
    this.childBytes = base?.childBytes ?? 0;
    this.#hasBaseChildren = this.exists;
  }

  get permissions(): Permissions {
    if (this.#permissions === undefined) throw new Error(`${this.path} does not exist`);
    return this.#permissions;
  }

  /**
   * The live node's children with the transaction's changes. If the live ones have changed since, so has the generation
   * count, and the commit will fail.
   */
  *childNames(): Generator<string> {
    if (this.#hasBaseChildren && this.base !== undefined)
      for (const name of this.base.childNames()) if (!this.#isChanged(name)) yield name;
    if (this.#addedChildren !== undefined) yield* this.#addedChildren;
  }

  #isChanged(name: string): boolean {
    return (this.#removedChildren?.has(name) || this.#addedChildren?.has(name)) ?? false;
  }

  write(generation: number, value: Uint8Array, permissions: Permissions): void {
    this.exists = true;
    this.modified = true;
    this.value = value;
    this.#permissions = permissions;
    this.generation = generation;
  }

  erase(): void {
    this.exists = false;
    this.modified = true;
    this.value = noValue;
    this.#permissions = undefined;
    this.generation = NO_GENERATION;
    this.childBytes = 0;
    this.#hasBaseChildren = false;
    this.#removedChildren = undefined;
    this.#addedChildren = undefined;
  }

  addChild(name: string, generation: number): void {
    this.#addedChildren ??= new Set();
    this.#addedChildren.add(name);
    this.childBytes += name.length + 1;
    this.#childrenChanged(generation);
  }

  removeChild(name: string, generation: number): void {
    this.#addedChildren?.delete(name);
    this.#removedChildren ??= new Set();
    this.#removedChildren.add(name);
    this.childBytes -= name.length + 1;
    this.#childrenChanged(generation);
  }

  #childrenChanged(generation: number): void {
    this.modified = true;
    this.generation = generation;
  }
}

export class Transaction implements StoreView {
  readonly id: number;
  readonly #caller: Caller;
  readonly #tree: Tree;
  readonly #watches: WatchIndex;
  readonly #quotas: QuotaKeeper;
  /** By path, in the order of first touch, which is the order of events. */
  readonly #touched = new Map<string, TouchedNode>();
  /** Nodes that each domain owns more (or less) than without the transaction. */
  readonly #ownedDelta = new Map<number, number>();
  #created = false;
  /** A quota refused something in it: as in C xenstored, it can only be aborted. */
  #failed = false;
  #conflict = false;

  constructor(id: number, caller: Caller, tree: Tree, watches: WatchIndex, quotas: QuotaKeeper) {
    this.id = id;
    this.#caller = caller;
    this.#tree = tree;
    this.#watches = watches;
    this.#quotas = quotas;
  }

  get(path: string): NodeState | undefined | 'ENOSPC' {
    const touched = this.#touch(path);
    if (touched === 'ENOSPC') return touched;
    return touched.exists ? touched : undefined;
  }

  ownedNodes(domid: number): number {
    return this.#quotas.account(domid).nodes + (this.#ownedDelta.get(domid) ?? 0);
  }

  setValue(path: string, value: Uint8Array): void {
    const node = this.#existing(path);
    node.write(this.#tree.nextGeneration(), value, node.permissions);
  }

  setPermissions(path: string, permissions: Permissions): void {
    const node = this.#existing(path);
    this.#own(node.permissions.owner, -1);
    this.#own(permissions.owner, 1);
    node.write(this.#tree.nextGeneration(), node.value, permissions);
  }

  create(parentPath: string, name: string, value: Uint8Array, permissions: Permissions): void {
    this.#existing(parentPath).addChild(name, this.#tree.nextGeneration());
    const node = this.#touched.get(joinPath(parentPath, name));
    if (node === undefined) throw new Error(`${name} was not looked up before it was created`);
    node.write(this.#tree.nextGeneration(), value, permissions);
    this.#own(permissions.owner, 1);
    this.#created = true;
  }

  remove(path: string): 'ENOSPC' | undefined {
    const parent = this.#touch(parentPath(path));
    if (parent === 'ENOSPC') return parent;
    // Touch all before changing any: a quota may refuse half-way.
    const doomed: TouchedNode[] = [];
    const stack = [path];
    for (let at = stack.pop(); at !== undefined; at = stack.pop()) {
      const node = this.#touch(at);
      if (node === 'ENOSPC') return node;
      if (!node.exists) continue;
      doomed.push(node);
      for (const name of node.childNames()) stack.push(joinPath(at, name));
    }
    for (const node of doomed) {
      this.#own(node.permissions.owner, -1);
      node.erase();
      // A subtree event includes an exact one.
      if (node.event === undefined || node.path === path) node.event = node.path === path ? 'subtree' : 'exact';
    }
    if (parent.exists) parent.removeChild(leafName(path), this.#tree.nextGeneration());
    return undefined;
  }

  changed(path: string): void {
    this.#existing(path).event = 'subtree';
  }

  /** A domain is gone: what the transaction would write in its name must not come into being. */
  domainGone(domid: number): void {
    for (const node of this.#touched.values()) {
      if (!node.modified || !node.exists) continue;
      const { owner, grants } = node.permissions;
      if (owner === domid || grants.some((grant) => grant.domid === domid)) this.#conflict = true;
    }
  }

  /** Makes the changes, all or none, and then tells the watches. */
  commit(): XsdError | undefined {
    if (this.#failed) return 'ENOMEM';
    if (this.#created && this.#exceedsNodeQuota()) return 'ENOSPC';
    if (this.#conflict || this.#hasConflict()) return 'EAGAIN';
    const modified = [...this.#touched.values()].filter((node) => node.modified);
    for (const node of modified) if (!node.exists) this.#applyRemoval(node);
    // A parent's path is shorter than its child's.
    for (const node of modified.toSorted((a, b) => a.path.length - b.path.length))
      if (node.exists) this.#applyWrite(node);
    for (const [domid, delta] of this.#ownedDelta) this.#quotas.account(domid).nodes += delta;
    for (const node of modified) if (node.event !== undefined) this.#fire(node, node.event);
    return undefined;
  }

  #touch(path: string): TouchedNode | 'ENOSPC' {
    const known = this.#touched.get(path);
    if (known !== undefined) return known;
    if (this.#quotas.refuses(this.#caller, 'transaction-nodes', this.#touched.size + 1)) {
      this.#failed = true;
      return 'ENOSPC';
    }
    const node = new TouchedNode(path, this.#tree.find(path));
    this.#touched.set(path, node);
    return node;
  }

  #existing(path: string): TouchedNode {
    const node = this.#touched.get(path);
    if (!node?.exists) throw new Error(`${path} was not looked up before it was changed`);
    return node;
  }

  #own(domid: number, delta: number): void {
    this.#ownedDelta.set(domid, (this.#ownedDelta.get(domid) ?? 0) + delta);
  }

  #exceedsNodeQuota(): boolean {
    if (this.#caller.privileged) return false;
    for (const [domid, delta] of this.#ownedDelta) {
      const owner = { domid, privileged: domid === 0, target: undefined };
      if (delta > 0 && this.#quotas.refuses(owner, 'nodes', this.ownedNodes(domid))) return true;
    }
    return false;
  }

  #hasConflict(): boolean {
    for (const node of this.#touched.values())
      if ((this.#tree.find(node.path)?.generation ?? NO_GENERATION) !== node.baseGeneration) return true;
    return false;
  }

  #applyRemoval(node: TouchedNode): void {
    const live = this.#tree.find(node.path);
    live?.parent?.detach(live);
  }

  #applyWrite(node: TouchedNode): void {
    const generation = this.#tree.nextGeneration();
    const live = this.#tree.find(node.path);
    if (live !== undefined) {
      live.value = node.value;
      live.permissions = node.permissions;
      live.generation = generation;
      return;
    }
    const parent = this.#tree.find(parentPath(node.path));
    if (parent === undefined) throw new Error(`${node.path} has no parent at commit`);
    parent.attach(new TreeNode(leafName(node.path), node.value, node.permissions, generation));
  }

  #fire(node: TouchedNode, scope: EventScope): void {
    const live = this.#tree.find(node.path);
    const changed = {
      before: node.basePermissions,
      node: live?.permissions,
      parent: live?.parent?.permissions,
    };
    if (scope === 'subtree') this.#watches.fire(node.path, changed);
    else this.#watches.fireExact(node.path, changed);
  }
}
