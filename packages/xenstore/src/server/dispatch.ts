/** The table of operations, and how a request finds its handler. */
import type { Store } from '../store/store.ts';
import type { Transaction } from '../store/transaction.ts';
import { type Packet, type XsdError, XsdSockmsgType } from '../wire.ts';
import type { Connection } from './connection.ts';
import { control } from './control.ts';
import * as domains from './domain-handlers.ts';
import * as nodes from './node-handlers.ts';
import type { XenstoreServer } from './server.ts';
import * as watches from './watch-handlers.ts';

/** A request and what it is about. */
export interface Call {
  readonly server: XenstoreServer;
  readonly store: Store;
  readonly connection: Connection;
  readonly packet: Packet;
  readonly tx: Transaction | undefined;
}

/** Carries a request out and replies, or returns the error to reply with. */
export type Handler = (call: Call) => XsdError | undefined;

export interface Operation {
  readonly handler: Handler;
  /** For the control domain only; others get `EACCES`. */
  readonly privileged?: boolean;
  /** The request's tx_id means nothing. */
  readonly ignoresTransaction?: boolean;
}

const {
  XS_CONTROL,
  XS_DIRECTORY,
  XS_READ,
  XS_GET_PERMS,
  XS_WATCH,
  XS_UNWATCH,
  XS_TRANSACTION_START,
  XS_TRANSACTION_END,
  XS_INTRODUCE,
  XS_RELEASE,
  XS_GET_DOMAIN_PATH,
  XS_WRITE,
  XS_MKDIR,
  XS_RM,
  XS_SET_PERMS,
  XS_IS_DOMAIN_INTRODUCED,
  XS_RESUME,
  XS_SET_TARGET,
  XS_RESET_WATCHES,
  XS_DIRECTORY_PART,
} = XsdSockmsgType;

/** Indexed by type, so that the look-up of a hostile type can only miss. */
export const operations: ReadonlyMap<number, Operation> = new Map<number, Operation>([
  [XS_CONTROL, { handler: control, privileged: true }],
  [XS_DIRECTORY, { handler: nodes.directory }],
  [XS_READ, { handler: nodes.read }],
  [XS_GET_PERMS, { handler: nodes.getPermissions }],
  [XS_WATCH, { handler: watches.watch, ignoresTransaction: true }],
  [XS_UNWATCH, { handler: watches.unwatch, ignoresTransaction: true }],
  [XS_TRANSACTION_START, { handler: nodes.transactionStart }],
  [XS_TRANSACTION_END, { handler: nodes.transactionEnd }],
  [XS_INTRODUCE, { handler: domains.introduce, privileged: true }],
  [XS_RELEASE, { handler: domains.release, privileged: true }],
  [XS_GET_DOMAIN_PATH, { handler: domains.getDomainPath }],
  [XS_WRITE, { handler: nodes.write }],
  [XS_MKDIR, { handler: nodes.mkdir }],
  [XS_RM, { handler: nodes.remove }],
  [XS_SET_PERMS, { handler: nodes.setPermissions }],
  [XS_IS_DOMAIN_INTRODUCED, { handler: domains.isDomainIntroduced, privileged: true }],
  [XS_RESUME, { handler: domains.resume, privileged: true }],
  [XS_SET_TARGET, { handler: domains.setTarget, privileged: true }],
  [XS_RESET_WATCHES, { handler: watches.resetWatches }],
  [XS_DIRECTORY_PART, { handler: nodes.directoryPart }],
]);

/** Carries a request out; returns the error to reply with, if the handler has not replied. */
export function handleRequest(
  server: XenstoreServer,
  store: Store,
  connection: Connection,
  packet: Packet,
): XsdError | undefined {
  const operation = operations.get(packet.type);
  if (operation === undefined) return 'ENOSYS';
  if (operation.privileged && !connection.privileged) return 'EACCES';
  let tx: Transaction | undefined;
  if (packet.txId !== 0 && !operation.ignoresTransaction) {
    tx = connection.transactions.get(packet.txId);
    if (tx === undefined) return 'ENOENT';
  }
  return operation.handler({ server, store, connection, packet, tx });
}
