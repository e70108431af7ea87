/**
 * Permissions of a node (`docs/misc/xenstore.txt`, GET_PERMS). On the wire they are a list of strings: the first names
 * the owner, and its letter is what **everyone without an entry of their own** may do; the others grant domains access.
 */

/** `w`, `r`, `b`, `n` of the wire. */
export type Access = 'none' | 'read' | 'write' | 'both';

export interface Grant {
  readonly domid: number;
  readonly access: Access;
}

/** An immutable access control list. The owner can always read and write. */
export interface Permissions {
  readonly owner: number;
  /** What domains without a grant may do. */
  readonly others: Access;
  readonly grants: readonly Grant[];
}

/** Permissions with nothing for strangers unless said. */
export function permissions(owner: number, grants: readonly Grant[] = [], others: Access = 'none'): Permissions {
  return { owner, others, grants };
}

/** Domain ids on the wire are decimal, 0 to 65535. */
export const DOMID_WIRE_MAX = 65535;

const letters: Readonly<Record<Access, string>> = { none: 'n', read: 'r', write: 'w', both: 'b' };
const accesses = new Map<string, Access>([
  ['n', 'none'],
  ['r', 'read'],
  ['w', 'write'],
  ['b', 'both'],
]);

/** Bits of {@link accessBits}. */
export const ACCESS_READ = 1;
export const ACCESS_WRITE = 2;
export const ACCESS_OWNER = 4;

export function accessBits(access: Access): number {
  switch (access) {
    case 'none':
      return 0;
    case 'read':
      return ACCESS_READ;
    case 'write':
      return ACCESS_WRITE;
    case 'both':
      return ACCESS_READ | ACCESS_WRITE;
  }
}

export function permissionsToStrings({ owner, others, grants }: Permissions): string[] {
  return [`${letters[others]}${owner}`, ...grants.map(({ domid, access }) => `${letters[access]}${domid}`)];
}

/** Reads the strings of GET_PERMS or SET_PERMS; undefined when there are none or one is malformed. */
export function permissionsFromStrings(strings: readonly string[]): Permissions | undefined {
  const entries: Grant[] = [];
  for (const text of strings) {
    const access = accesses.get(text.charAt(0));
    const domid = parseDomid(text.slice(1));
    if (access === undefined || domid === undefined) return undefined;
    entries.push({ domid, access });
  }
  const [first, ...grants] = entries;
  return first === undefined ? undefined : { owner: first.domid, others: first.access, grants };
}

/** A decimal domain id, 0 to 65535, without sign, blank or other base; undefined for anything else. */
export function parseDomid(text: string): number | undefined {
  if (!/^\d{1,5}$/.test(text)) return undefined;
  const value = Number(text);
  return value <= DOMID_WIRE_MAX ? value : undefined;
}
