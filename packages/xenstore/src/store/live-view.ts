import { leafName } from '../path.ts';
import type { Permissions } from '../permissions.ts';
import type { QuotaKeeper } from './quota.ts';
import { type NodeState, type Tree, TreeNode, walk } from './tree.ts';
import type { StoreView } from './view.ts';
import type { WatchIndex } from './watches.ts';

/** The store itself: changes take effect, and events go out, at once. */
export class LiveView implements StoreView {
  readonly #tree: Tree;
  readonly #watches: WatchIndex;
  readonly #quotas: QuotaKeeper;

  constructor(tree: Tree, watches: WatchIndex, quotas: QuotaKeeper) {
    this.#tree = tree;
    this.#watches = watches;
    this.#quotas = quotas;
  }

  get(path: string): NodeState | undefined {
    return this.#tree.find(path);
  }

  ownedNodes(domid: number): number {
    return this.#quotas.account(domid).nodes;
  }

  setValue(path: string, value: Uint8Array): void {
    const node = this.#existing(path);
    node.value = value;
    node.generation = this.#tree.nextGeneration();
  }

  setPermissions(path: string, permissions: Permissions): void {
    const node = this.#existing(path);
    this.#quotas.account(node.permissions.owner).nodes--;
    this.#quotas.account(permissions.owner).nodes++;
    node.permissions = permissions;
    node.generation = this.#tree.nextGeneration();
  }

  create(parentPath: string, name: string, value: Uint8Array, permissions: Permissions): void {
    const parent = this.#existing(parentPath);
    parent.generation = this.#tree.nextGeneration();
    parent.attach(new TreeNode(name, value, permissions, this.#tree.nextGeneration()));
    this.#quotas.account(permissions.owner).nodes++;
  }

  remove(path: string): undefined {
    const node = this.#existing(path);
    const { parent } = node;
    if (parent === undefined) throw new Error(`${path} can't be removed`);
    this.#watches.fireBelow(path, node);
    this.#watches.fire(path, { before: undefined, node: node.permissions, parent: parent.permissions });
    parent.detach(node);
    parent.generation = this.#tree.nextGeneration();
    for (const removed of walk(node)) this.#quotas.account(removed.permissions.owner).nodes--;
  }

  changed(path: string, before?: Permissions): void {
    const node = this.#tree.find(path);
    this.#watches.fire(path, { before, node: node?.permissions, parent: node?.parent?.permissions });
  }

  #existing(path: string): TreeNode {
    const node = this.#tree.find(path);
    if (node === undefined) throw new Error(`no node ${leafName(path)} to change`);
    return node;
  }
}
