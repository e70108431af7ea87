export * from './client.ts';
export * from './errors.ts';
export { NodeOperations } from './node-operations.ts';
export * from './path.ts';
export {
  type Access,
  type Grant,
  type Permissions,
  parseDomid,
  permissions,
  permissionsFromStrings,
  permissionsToStrings,
} from './permissions.ts';
export * from './transport/memory.ts';
export * from './transport/ring.ts';
export { type WatchEvent, XenstoreWatch } from './watch.ts';
export * from './wire.ts';
