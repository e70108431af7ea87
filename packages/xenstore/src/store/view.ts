import type { Permissions } from '../permissions.ts';
import type { XsdError } from '../wire.ts';
import type { NodeState } from './tree.ts';

/** Which watches an event is for: those on the path and above it, or on just that path (a parent was removed). */
export type EventScope = 'subtree' | 'exact';

/**
 * The store as one request works on it: the live one, or a transaction's. Paths are canonical. The caller has checked
 * permissions and quotas, and passes nodes that it got from `get` of the same view in the same request.
 */
export interface StoreView {
  /** The node, undefined when there is none, or the quota that keeps a transaction from touching one more. */
  get(path: string): NodeState | undefined | Extract<XsdError, 'ENOSPC'>;
  /** Nodes that a domain owns. */
  ownedNodes(domid: number): number;
  setValue(path: string, value: Uint8Array): void;
  setPermissions(path: string, permissions: Permissions): void;
  /** Adds `name` below the existing node at `parentPath`. */
  create(parentPath: string, name: string, value: Uint8Array, permissions: Permissions): void;
  /** Removes the existing node at `path`, not `/`, and all below it, and tells the watches. */
  remove(path: string): Extract<XsdError, 'ENOSPC'> | undefined;
  /** The node at `path` was written: tells the watches. `before`: permissions that were taken away. */
  changed(path: string, before?: Permissions): void;
}
