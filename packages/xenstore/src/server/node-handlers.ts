/** Handlers of the operations on nodes and transactions. */
import { canonicalPath } from '../path.ts';
import { permissionsFromStrings, permissionsToStrings } from '../permissions.ts';
import { noValue } from '../store/tree.ts';
import {
  copyBytes,
  findNul,
  type Packet,
  payloadStrings,
  readLatin1,
  XENSTORE_PAYLOAD_MAX,
  type XsdError,
} from '../wire.ts';
import type { Call, Handler } from './dispatch.ts';

export const read: Handler = (call) => {
  const path = onePath(call, false);
  if (path === undefined) return 'EINVAL';
  const node = call.store.read(call.connection, call.tx, path);
  if (typeof node === 'string') return node;
  call.connection.replyData(call.packet, node.value);
  return undefined;
};

export const directory: Handler = (call) => {
  const path = onePath(call, false);
  if (path === undefined) return 'EINVAL';
  const node = call.store.read(call.connection, call.tx, path);
  if (typeof node === 'string') return node;
  if (node.childBytes > XENSTORE_PAYLOAD_MAX) return 'E2BIG';
  call.connection.replyStrings(call.packet, node.childNames());
  return undefined;
};

export const directoryPart: Handler = (call) => {
  const [text, offsetText, ...more] = payloadStrings(call.packet);
  if (text === undefined || offsetText === undefined || more.length > 0) return 'EINVAL';
  const path = canonical(call, text, false);
  if (path === undefined || !/^\d{1,10}$/.test(offsetText)) return 'EINVAL';
  const node = call.store.read(call.connection, call.tx, path);
  if (typeof node === 'string') return node;
  const generation = String(node.generation);
  const room = XENSTORE_PAYLOAD_MAX - generation.length - 2;
  call.connection.replyStrings(call.packet, [generation, ...namesFrom(node.childNames(), Number(offsetText), room)]);
  return undefined;
};

/** Whole names of the list from byte `offset`, as many as fit into `room` bytes; an empty string marks the end. */
function namesFrom(names: Iterable<string>, offset: number, room: number): string[] {
  const part: string[] = [];
  let at = 0;
  let used = 0;
  for (const name of names) {
    const next = at + name.length + 1;
    if (next > offset) {
      const tail = name.slice(Math.max(0, offset - at));
      used += tail.length + 1;
      if (used > room) return part;
      part.push(tail);
    }
    at = next;
  }
  part.push('');
  return part;
}

export const write: Handler = (call) => {
  const { packet } = call;
  const nul = findNul(packet, packet.start);
  if (nul < 0) return 'EINVAL';
  const path = canonical(call, readLatin1(packet.bytes, packet.start, nul), false);
  if (path === undefined) return 'EINVAL';
  const value = nul + 1 === packet.end ? noValue : copyBytes(packet.bytes, nul + 1, packet.end);
  return acknowledge(call, call.store.write(call.connection, call.tx, path, value));
};

export const mkdir: Handler = (call) => {
  const path = onePath(call, false);
  if (path === undefined) return 'EINVAL';
  return acknowledge(call, call.store.mkdir(call.connection, call.tx, path));
};

export const remove: Handler = (call) => {
  const path = onePath(call, false);
  if (path === undefined) return 'EINVAL';
  return acknowledge(call, call.store.remove(call.connection, call.tx, path));
};

export const getPermissions: Handler = (call) => {
  const path = onePath(call, true);
  if (path === undefined) return 'EINVAL';
  const node = call.store.read(call.connection, call.tx, path);
  if (typeof node === 'string') return node;
  call.connection.replyStrings(call.packet, permissionsToStrings(node.permissions));
  return undefined;
};

export const setPermissions: Handler = (call) => {
  const [text, ...entries] = payloadStrings(call.packet);
  if (text === undefined || entries.length === 0) return 'EINVAL';
  if (call.store.refusesPermissionCount(call.connection, entries.length)) return 'ENOSPC';
  const value = permissionsFromStrings(entries);
  if (value === undefined) return 'EINVAL';
  if (!call.server.domainExists(value.owner)) return 'ENOENT';
  const path = canonical(call, text, true);
  if (path === undefined) return 'EINVAL';
  // A grant to a domain that does not exist must not pass to a later one of the same id (XSA-322).
  const grants = value.grants.filter(({ domid }) => call.server.domainExists(domid));
  return acknowledge(call, call.store.setPermissions(call.connection, call.tx, path, { ...value, grants }));
};

export const transactionStart: Handler = (call) => {
  const { connection } = call;
  if (call.tx !== undefined) return 'EBUSY';
  const id = connection.newTransactionId();
  const tx = call.store.startTransaction(connection, id);
  if (tx === 'ENOSPC') return tx;
  connection.transactions.set(id, tx);
  connection.replyString(call.packet, String(id));
  return undefined;
};

export const transactionEnd: Handler = (call) => {
  const { connection, tx } = call;
  const argument = oneString(call.packet);
  if (argument !== 'T' && argument !== 'F') return 'EINVAL';
  if (tx === undefined) return 'ENOENT';
  connection.transactions.delete(tx.id);
  return acknowledge(call, call.store.endTransaction(connection, tx, argument === 'T'));
};

/** The payload's only string: it must have exactly one NUL, at its end. */
export function oneString(packet: Packet): string | undefined {
  const nul = findNul(packet, packet.start);
  return nul >= 0 && nul === packet.end - 1 ? readLatin1(packet.bytes, packet.start, nul) : undefined;
}

/** The absolute form of a path that the caller sent; undefined when it is malformed or too long. */
export function canonical(call: Call, text: string, allowSpecial: boolean): string | undefined {
  const path = canonicalPath(text, call.connection.basePath, allowSpecial);
  if (path === undefined || call.store.refusesPathLength(call.connection, path)) return undefined;
  return path;
}

function onePath(call: Call, allowSpecial: boolean): string | undefined {
  const text = oneString(call.packet);
  return text === undefined ? undefined : canonical(call, text, allowSpecial);
}

export function acknowledge(call: Call, error: XsdError | undefined): XsdError | undefined {
  if (error === undefined) call.connection.replyOk(call.packet);
  return error;
}
