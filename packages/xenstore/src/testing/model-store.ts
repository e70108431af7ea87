/** For tests: the store as plainly as it can be written, a map of paths without transactions, quotas or watches. */
import { joinPath, leafName, parentPath } from '../path.ts';
import type { Permissions } from '../permissions.ts';
import type { Caller } from '../store/quota.ts';

interface ModelNode {
  readonly value: string;
  readonly permissions: Permissions;
}

export type ModelOperation =
  | { readonly kind: 'read' | 'directory' | 'mkdir' | 'remove' | 'getPermissions'; readonly path: string }
  | { readonly kind: 'write'; readonly path: string; readonly value: string }
  | { readonly kind: 'setPermissions'; readonly path: string; readonly permissions: Permissions };

export class ModelStore {
  readonly nodes = new Map<string, ModelNode>();
  /** Paths whose node the last operation wrote, created or removed. */
  written: string[] = [];

  constructor() {
    for (const path of ['/', '/tool', '/tool/xenstored'])
      this.nodes.set(path, { value: '', permissions: { owner: 0, others: 'none', grants: [] } });
  }

  /** Carries an operation out and says what the caller gets to know. */
  run(caller: Caller, operation: ModelOperation): unknown {
    this.written = [];
    const { kind, path } = operation;
    const writes = kind === 'write' || kind === 'mkdir' || kind === 'remove' || kind === 'setPermissions';
    const owns = kind === 'setPermissions';
    const node = this.nodes.get(path);
    const allowed = node !== undefined && this.#may(caller, node, writes, owns);
    if (node === undefined || !allowed) {
      let above = parentPath(path);
      while (!this.nodes.has(above)) above = parentPath(above);
      const ancestor = this.nodes.get(above);
      const partly = ancestor !== undefined && path !== '/' && this.#may(caller, ancestor, writes, false);
      if (!partly) return 'EACCES';
      if (node !== undefined) return 'EACCES';
      if (kind === 'write' || kind === 'mkdir')
        return this.#create(caller, path, operation.kind === 'write' ? operation.value : '');
      if (kind === 'remove') return this.nodes.has(parentPath(path)) ? 'OK' : 'ENOENT';
      return 'ENOENT';
    }
    switch (operation.kind) {
      case 'read':
        return node.value;
      case 'directory':
        return this.#children(path).map(leafName).sort();
      case 'getPermissions':
        return node.permissions;
      case 'mkdir':
        return 'OK';
      case 'write':
        this.#set(path, { ...node, value: operation.value });
        return 'OK';
      case 'remove':
        if (path === '/') return 'EINVAL';
        for (const known of [...this.nodes.keys()])
          if (known === path || known.startsWith(`${path}/`)) {
            this.nodes.delete(known);
            this.written.push(known);
          }
        this.written.push(parentPath(path));
        return 'OK';
      case 'setPermissions':
        if (!caller.privileged && operation.permissions.owner !== node.permissions.owner) return 'EPERM';
        this.#set(path, { ...node, permissions: operation.permissions });
        return 'OK';
    }
  }

  #create(caller: Caller, path: string, value: string): string {
    const missing: string[] = [];
    let above = path;
    for (; !this.nodes.has(above); above = parentPath(above)) missing.unshift(above);
    const inherited = this.nodes.get(above)?.permissions ?? { owner: 0, others: 'none', grants: [] };
    this.written.push(above);
    const permissions = caller.privileged ? inherited : { ...inherited, owner: caller.domid };
    for (const created of missing) this.#set(created, { value: created === path ? value : '', permissions });
    return 'OK';
  }

  #set(path: string, node: ModelNode): void {
    this.nodes.set(path, node);
    this.written.push(path);
  }

  #children(path: string): string[] {
    return [...this.nodes.keys()].filter(
      (known) => known !== '/' && parentPath(known) === path && known === joinPath(path, leafName(known)),
    );
  }

  #may({ domid, privileged }: Caller, { permissions }: ModelNode, writes: boolean, owns: boolean): boolean {
    if (privileged || permissions.owner === domid) return true;
    if (owns) return false;
    const access = permissions.grants.find((grant) => grant.domid === domid)?.access ?? permissions.others;
    return access === 'both' || access === (writes ? 'write' : 'read');
  }
}
