/**
 * The tree of nodes. Every write gives a node the next generation count, by which transactions find conflicts. Nothing
 * here recurses: guests choose the depth.
 */
import { type Permissions, permissions } from '../permissions.ts';

/** A node as the operations see it, in the tree or as a transaction has it. Values and permissions are never mutated. */
export interface NodeState {
  readonly value: Uint8Array;
  readonly permissions: Permissions;
  readonly generation: number;
  /** Length of the children's names, each with a NUL: what DIRECTORY answers. */
  readonly childBytes: number;
  childNames(): Iterable<string>;
}

export const noValue = new Uint8Array(0);
const noChildren: ReadonlyMap<string, TreeNode> = new Map();

export class TreeNode implements NodeState {
  readonly name: string;
  /** Undefined for `/`, for special nodes, and once removed. */
  parent: TreeNode | undefined;
  value: Uint8Array;
  permissions: Permissions;
  generation: number;
  childBytes = 0;
  #children: Map<string, TreeNode> | undefined;

  constructor(name: string, value: Uint8Array, permissions: Permissions, generation: number) {
    this.name = name;
    this.value = value;
    this.permissions = permissions;
    this.generation = generation;
  }

  get children(): ReadonlyMap<string, TreeNode> {
    return this.#children ?? noChildren;
  }

  childNames(): Iterable<string> {
    return this.children.keys();
  }

  attach(child: TreeNode): void {
    this.#children ??= new Map();
    this.#children.set(child.name, child);
    this.childBytes += child.name.length + 1;
    child.parent = this;
  }

  detach(child: TreeNode): void {
    if (this.#children?.delete(child.name)) this.childBytes -= child.name.length + 1;
    if (this.#children?.size === 0) this.#children = undefined;
    child.parent = undefined;
  }
}

/** Path of a node that is in the tree. */
export function pathOf(node: TreeNode): string {
  const names: string[] = [];
  for (let at = node; at.parent !== undefined; at = at.parent) names.push(at.name);
  return names.length === 0 ? '/' : `/${names.reverse().join('/')}`;
}

/** Every node from `top` down, parents before their children. Children may be removed during the walk. */
export function* walk(top: TreeNode): Generator<TreeNode> {
  const stack = [top];
  for (let node = stack.pop(); node !== undefined; node = stack.pop()) {
    yield node;
    for (const child of node.children.values()) stack.push(child);
  }
}

export class Tree {
  readonly root: TreeNode;
  /** `@introduceDomain` and `@releaseDomain`: only their permissions matter. */
  readonly special: ReadonlyMap<string, TreeNode>;
  #generation = 0;

  constructor(specialNames: readonly string[]) {
    this.root = new TreeNode('', noValue, permissions(0), this.nextGeneration());
    this.special = new Map(
      specialNames.map((name) => [name, new TreeNode(name, noValue, permissions(0), this.nextGeneration())]),
    );
  }

  nextGeneration(): number {
    return ++this.#generation;
  }

  /** The node at an absolute or special path. */
  find(path: string): TreeNode | undefined {
    if (path.charCodeAt(0) !== 0x2f) return this.special.get(path);
    if (path.length === 1) return this.root;
    let node: TreeNode | undefined = this.root;
    for (let start = 1; node !== undefined; ) {
      const slash = path.indexOf('/', start);
      if (slash < 0) return node.children.get(path.slice(start));
      node = node.children.get(path.slice(start, slash));
      start = slash + 1;
    }
    return undefined;
  }
}
