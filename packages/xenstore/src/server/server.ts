/**
 * A xenstored: a {@link Store} served to connections. Free of Node; sockets come from `@pvkit/xenstore/unix`, domains'
 * rings from a {@link DomainHost}.
 */
import { DOMID_FIRST_RESERVED, ErrnoError, type MessageTransport, type Runtime } from '@pvkit/ring';
import { INTRODUCE_DOMAIN, RELEASE_DOMAIN } from '../path.ts';
import type { QuotaKeeper, Quotas } from '../store/quota.ts';
import { Store } from '../store/store.ts';
import { isXsdError, operationName, type Packet, type XsdError } from '../wire.ts';
import { Connection, type ConnectionIdentity, type ConnectionOwner } from './connection.ts';
import { handleRequest } from './dispatch.ts';
import type { DomainHost } from './host.ts';

export interface XenstoreServerOptions {
  readonly runtime: Runtime;
  /** Where domains come from. Without one, INTRODUCE answers `ENOSYS` and permissions may name any domain. */
  readonly host?: DomainHost;
  /** Limits of unprivileged domains that differ from C xenstored's; 0 for none. */
  readonly quotas?: Partial<Quotas>;
}

/** Plain counters since the start, and what is open now. */
export interface XenstoreServerCounters {
  readonly requests: number;
  readonly errors: number;
  readonly connections: number;
  readonly domains: number;
  readonly watches: number;
}

interface IntroducedDomain {
  /** Undefined once the ring could no longer be believed. */
  connection: Connection | undefined;
  /** `@releaseDomain` has been fired for its shutdown. */
  shutdown: boolean;
}

const controlDomain: ConnectionIdentity = { domid: 0, privileged: true };

export class XenstoreServer implements ConnectionOwner {
  /** Observe every request (`xenstored.request`). */
  observesRequests = false;
  readonly store: Store;
  readonly #runtime: Runtime;
  readonly #host: DomainHost | undefined;
  readonly #connections = new Set<Connection>();
  readonly #domains = new Map<number, IntroducedDomain>();
  #withOutput: Connection[] = [];
  #requests = 0;
  #errors = 0;
  #closed = false;

  constructor(options: XenstoreServerOptions) {
    this.#runtime = options.runtime;
    this.#host = options.host;
    this.store = new Store({ quotas: options.quotas ?? {}, observe: () => options.runtime.observe });
  }

  get quotas(): QuotaKeeper {
    return this.store.quotas;
  }

  /** Serves a connection, by default as the control domain. */
  connect(transport: MessageTransport, identity: ConnectionIdentity = controlDomain): void {
    if (this.#closed) transport.close();
    else this.#start(new Connection(this, transport, identity));
  }

  /** INTRODUCE: connects a domain, or connects it anew; `@introduceDomain` fires the first time. */
  introduce(domid: number, gfn: number, port: number): XsdError | undefined {
    if (domid === 0 || domid >= DOMID_FIRST_RESERVED) return 'EINVAL';
    if (this.#host === undefined) return 'ENOSYS';
    const known = this.#domains.get(domid);
    known?.connection?.close('introduced again');
    let connection: Connection;
    try {
      const transport = this.#host.connect(domid, gfn, port);
      connection = new Connection(this, transport, { domid, privileged: false });
    } catch (error) {
      this.observe('xenstored.introduce-failed', { domid, gfn, port, error });
      return error instanceof ErrnoError && isXsdError(error.errno) ? error.errno : 'EIO';
    }
    if (known === undefined) this.#domains.set(domid, { connection, shutdown: false });
    else known.connection = connection;
    this.#start(connection);
    if (known === undefined) this.store.fireSpecial(INTRODUCE_DOMAIN, domid);
    this.observe('xenstored.introduced', { domid, again: known !== undefined });
    this.turnEnds();
    return undefined;
  }

  /** RELEASE: as {@link domainDestroyed}, for a domain that was introduced. */
  release(domid: number): XsdError | undefined {
    if (!this.#domains.has(domid)) return 'ENOENT';
    this.domainDestroyed(domid);
    return undefined;
  }

  /**
   * A domain is gone: ends its connections, removes the nodes that it owned and its entries in others' permissions, and
   * fires `@releaseDomain` if it was introduced.
   */
  domainDestroyed(domid: number): void {
    const introduced = this.#domains.delete(domid);
    for (const connection of this.#connections) {
      if (connection.domid === domid && !connection.privileged) connection.close('its domain is gone');
      if (connection.target === domid) connection.target = undefined;
      for (const tx of connection.transactions.values()) tx.domainGone(domid);
    }
    this.store.removeDomain(domid);
    if (introduced) this.store.fireSpecial(RELEASE_DOMAIN, domid);
    this.observe('xenstored.released', { domid });
    this.turnEnds();
  }

  /** A domain has shut down or crashed but still exists: `@releaseDomain` fires, once until {@link resume}. */
  domainShutdown(domid: number): void {
    const domain = this.#domains.get(domid);
    if (domain === undefined || domain.shutdown) return;
    domain.shutdown = true;
    this.store.fireSpecial(RELEASE_DOMAIN, domid);
    this.turnEnds();
  }

  resume(domid: number): XsdError | undefined {
    const domain = this.#domains.get(domid);
    if (domain === undefined) return 'ENOENT';
    domain.shutdown = false;
    return undefined;
  }

  setTarget(domid: number, target: number): XsdError | undefined {
    const domain = this.#domains.get(domid);
    if (domain === undefined || !this.isIntroduced(target)) return 'ENOENT';
    if (domain.connection === undefined) return 'EINVAL';
    domain.connection.target = target;
    return undefined;
  }

  isIntroduced(domid: number): boolean {
    return domid === 0 || this.#domains.has(domid);
  }

  /** May permissions name this domain? */
  domainExists(domid: number): boolean {
    return domid === 0 || this.#host === undefined || this.#domains.has(domid) || this.#host.exists(domid);
  }

  /** RESET_WATCHES, and the end of a connection: drops its watches and transactions. */
  resetConnection(connection: Connection): void {
    this.store.removeAllWatches(connection);
    for (const tx of connection.transactions.values()) this.store.endTransaction(connection, tx, false);
    connection.transactions.clear();
  }

  counters(): XenstoreServerCounters {
    return {
      requests: this.#requests,
      errors: this.#errors,
      connections: this.#connections.size,
      domains: this.#domains.size,
      watches: this.store.watches.count,
    };
  }

  observe(event: string, facts: Readonly<Record<string, unknown>>): void {
    this.#runtime.observe?.(event, facts);
  }

  /** Ends every connection. Idempotent. */
  close(): void {
    this.#closed = true;
    for (const connection of this.#connections) connection.close();
    this.#domains.clear();
  }

  dispatch(connection: Connection, packet: Packet): void {
    this.#requests++;
    connection.replied = false;
    let error: XsdError | undefined;
    try {
      error = handleRequest(this, this.store, connection, packet);
    } catch (thrown) {
      this.observe('xenstored.internal-error', {
        domid: connection.domid,
        operation: operationName(packet.type),
        error: thrown,
      });
      error = 'EIO';
    }
    if (this.observesRequests)
      this.observe('xenstored.request', {
        domid: connection.domid,
        operation: operationName(packet.type),
        txId: packet.txId,
        error,
      });
    if (error === undefined || connection.replied) return;
    this.#errors++;
    connection.replyError(packet, error);
  }

  hasOutput(connection: Connection): void {
    this.#withOutput.push(connection);
  }

  turnEnds(): void {
    const connections = this.#withOutput;
    if (connections.length === 0) return;
    this.#withOutput = [];
    for (const connection of connections) connection.flush();
  }

  stalled(connection: Connection, limit: number): void {
    this.observe('xenstored.stalled', { domid: connection.domid, quota: 'outstanding', limit });
  }

  ended(connection: Connection, reason: string | undefined): void {
    this.#connections.delete(connection);
    this.resetConnection(connection);
    const domain = this.#domains.get(connection.domid);
    if (domain?.connection === connection) domain.connection = undefined;
    this.observe('xenstored.disconnected', { domid: connection.domid, reason });
  }

  #start(connection: Connection): void {
    this.#connections.add(connection);
    connection.start();
    this.observe('xenstored.connected', { domid: connection.domid, privileged: connection.privileged });
  }
}
