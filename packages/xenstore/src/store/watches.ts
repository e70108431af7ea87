/**
 * Watches, indexed by path: a change looks only at the watches on its path and above it (and, when a subtree goes, at
 * those within it), however many there are elsewhere.
 */
import type { Permissions } from '../permissions.ts';
import { mayRead } from './access.ts';
import type { Caller } from './quota.ts';
import type { TreeNode } from './tree.ts';

/** Who set watches: a connection. */
export interface Subscriber extends Caller {
  /** Its watches by {@link watchKey}. */
  readonly watches: Map<string, Watch>;
  /** Takes an event. Must not add or remove watches before it returns. */
  deliver(watch: Watch, path: string): void;
  /** Scratch of {@link WatchIndex}: the last change judged for this subscriber, and the judgement. */
  judged: { change: number; permitted: boolean };
}

export interface Watch {
  readonly subscriber: Subscriber;
  /** Absolute or special path. */
  readonly path: string;
  readonly token: string;
  /** Levels below the path that it sees; undefined for all. */
  readonly depth: number | undefined;
  /** Characters to take off an event's path: the watch was relative. */
  readonly prefixLength: number;
}

export const watchKey = (path: string, token: string): string => `${path}\0${token}`;

/** Permissions that decide who may see a change: any that is readable will do (XSA-115). */
export interface ChangedNode {
  /** Of the node before the change, where that took access away or the node itself. */
  readonly before: Permissions | undefined;
  readonly node: Permissions | undefined;
  readonly parent: Permissions | undefined;
}

class WatchPoint {
  readonly name: string;
  readonly parent: WatchPoint | undefined;
  readonly children = new Map<string, WatchPoint>();
  readonly watches = new Set<Watch>();

  constructor(name: string, parent: WatchPoint | undefined) {
    this.name = name;
    this.parent = parent;
  }
}

export class WatchIndex {
  /** Parent of the point of `/` and of those of special paths. */
  readonly #top = new WatchPoint('', undefined);
  #changes = 0;
  #count = 0;

  get count(): number {
    return this.#count;
  }

  add(watch: Watch): void {
    let point = this.#top;
    for (const name of pointNames(watch.path)) {
      let child = point.children.get(name);
      if (child === undefined) {
        child = new WatchPoint(name, point);
        point.children.set(name, child);
      }
      point = child;
    }
    point.watches.add(watch);
    watch.subscriber.watches.set(watchKey(watch.path, watch.token), watch);
    this.#count++;
  }

  remove(watch: Watch): void {
    let point = this.#find(watch.path);
    if (!point?.watches.delete(watch)) return;
    this.#count--;
    watch.subscriber.watches.delete(watchKey(watch.path, watch.token));
    while (point.parent !== undefined && point.watches.size === 0 && point.children.size === 0) {
      point.parent.children.delete(point.name);
      point = point.parent;
    }
  }

  /** A node at `path` changed: tells the watches on it and above it. */
  fire(path: string, changed: ChangedNode): void {
    if (this.#count === 0) return;
    const change = ++this.#changes;
    const names = pointNames(path);
    let point: WatchPoint | undefined = this.#top;
    for (let level = 1; level <= names.length; level++) {
      point = point.children.get(names[level - 1] ?? '');
      if (point === undefined) return;
      for (const watch of point.watches) {
        const below = names.length - level;
        if (watch.depth === undefined || below <= watch.depth) this.#deliver(watch, path, changed, change);
      }
    }
  }

  /** A subtree is about to go: tells the watches on nodes below `path`, each with its own path. */
  fireBelow(path: string, node: TreeNode): void {
    const top = this.#find(path);
    if (top === undefined || top.children.size === 0) return;
    const stack = [{ point: top, node, path: path === '/' ? '' : path }];
    for (let at = stack.pop(); at !== undefined; at = stack.pop()) {
      for (const point of at.point.children.values()) {
        const child = at.node.children.get(point.name);
        if (child === undefined) continue;
        const childPath = `${at.path}/${point.name}`;
        const changed = { before: undefined, node: child.permissions, parent: at.node.permissions };
        this.#fireAt(point, childPath, changed);
        if (point.children.size > 0) stack.push({ point, node: child, path: childPath });
      }
    }
  }

  /** A node went whose ancestor was removed: tells the watches on just that path. */
  fireExact(path: string, changed: ChangedNode): void {
    const point = this.#find(path);
    if (point !== undefined) this.#fireAt(point, path, changed);
  }

  /** A special event happened to `domid`: `path` for watches without a depth, `path/domid` for the others. */
  fireSpecial(path: string, domid: number, changed: ChangedNode): void {
    const change = ++this.#changes;
    const point = this.#find(path);
    if (point === undefined) return;
    const withDomain = `${path}/${domid}`;
    for (const watch of point.watches) {
      if (watch.depth === undefined) this.#deliver(watch, path, changed, change);
      else if (watch.depth > 0) this.#deliver(watch, withDomain, changed, change);
    }
    for (const watch of point.children.get(String(domid))?.watches ?? [])
      this.#deliver(watch, withDomain, changed, change);
  }

  #fireAt(point: WatchPoint, path: string, changed: ChangedNode): void {
    const change = ++this.#changes;
    for (const watch of point.watches) this.#deliver(watch, path, changed, change);
  }

  #deliver(watch: Watch, path: string, changed: ChangedNode, change: number): void {
    const { subscriber } = watch;
    const { judged } = subscriber;
    if (judged.change !== change) {
      judged.change = change;
      judged.permitted = maySee(subscriber, changed);
    }
    if (judged.permitted) subscriber.deliver(watch, watch.prefixLength === 0 ? path : path.slice(watch.prefixLength));
  }

  #find(path: string): WatchPoint | undefined {
    let point: WatchPoint | undefined = this.#top;
    for (const name of pointNames(path)) {
      point = point.children.get(name);
      if (point === undefined) return undefined;
    }
    return point;
  }
}

function maySee(caller: Caller, { before, node, parent }: ChangedNode): boolean {
  if (before !== undefined && mayRead(caller, before)) return true;
  if (node === undefined) return false;
  return mayRead(caller, node) || (parent !== undefined && mayRead(caller, parent));
}

/** `/a/b` as `['', 'a', 'b']`, `/` as `['']`, `@x/1` as `['@x', '1']`. */
const pointNames = (path: string): string[] => (path === '/' ? [''] : path.split('/'));
