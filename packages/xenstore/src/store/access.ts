import { ACCESS_OWNER, ACCESS_READ, ACCESS_WRITE, accessBits, type Permissions } from '../permissions.ts';
import type { Caller } from './quota.ts';

/** What `caller` may do with a node of these permissions: `ACCESS_*` bits. */
export function allowedAccess(caller: Caller, permissions: Permissions): number {
  const { domid, privileged, target } = caller;
  if (privileged || permissions.owner === domid || permissions.owner === target)
    return ACCESS_READ | ACCESS_WRITE | ACCESS_OWNER;
  for (const grant of permissions.grants)
    if (grant.domid === domid || grant.domid === target) return accessBits(grant.access);
  return accessBits(permissions.others);
}

export const mayRead = (caller: Caller, permissions: Permissions): boolean =>
  (allowedAccess(caller, permissions) & ACCESS_READ) !== 0;
