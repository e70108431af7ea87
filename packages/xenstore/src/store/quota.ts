/**
 * Limits for unprivileged domains, with the defaults and names of C xenstored (`xenstore-control quota`), and what each
 * domain uses of them.
 */
import type { Observer } from '@pvkit/ring';

export const defaultQuotas = {
  /** Nodes that a domain owns. */
  nodes: 1000,
  /** Watches that a domain has set. */
  watches: 128,
  /** Requests whose reply the domain has not taken. */
  outstanding: 20,
  /** Bytes of replies and events that wait for the domain. */
  memory: 2_621_440,
  /** Transactions that a domain has open. */
  transactions: 10,
  /** Nodes that one transaction has touched. */
  'transaction-nodes': 1024,
  /** Entries of a node's permissions. */
  'node-permissions': 5,
  /** Bytes of a path, without a leading `/local/domain/<domid>/`. */
  'path-max': 2048,
  /** Bytes of one node: header, permissions, value, names of the children. */
  'node-size': 2048,
};
export type QuotaName = keyof typeof defaultQuotas;
export type Quotas = Readonly<Record<QuotaName, number>>;

export const quotaNames = Object.keys(defaultQuotas) as readonly QuotaName[];
export const isQuotaName = (name: string): name is QuotaName => Object.hasOwn(defaultQuotas, name);

/** What a domain holds at the moment. */
export interface Account {
  nodes: number;
  watches: number;
  transactions: number;
}

/** Who asks: a connection's domain, and the one that it stands for (SET_TARGET). */
export interface Caller {
  readonly domid: number;
  /** Privileged callers have every access and no quota. */
  readonly privileged: boolean;
  readonly target: number | undefined;
}

export class QuotaKeeper {
  readonly #limits: Record<QuotaName, number>;
  readonly #accounts = new Map<number, Account>();
  readonly #observe: () => Observer | undefined;

  constructor(limits: Partial<Quotas>, observe: () => Observer | undefined) {
    this.#limits = { ...defaultQuotas, ...limits };
    this.#observe = observe;
  }

  /** The limit, 0 for none. */
  limit(quota: QuotaName): number {
    return this.#limits[quota];
  }

  setLimit(quota: QuotaName, value: number): void {
    this.#limits[quota] = value;
  }

  account(domid: number): Account {
    let account = this.#accounts.get(domid);
    if (account === undefined) {
      account = { nodes: 0, watches: 0, transactions: 0 };
      this.#accounts.set(domid, account);
    }
    return account;
  }

  /** Domains that own, watch or have open anything. */
  accounts(): ReadonlyMap<number, Readonly<Account>> {
    return this.#accounts;
  }

  /** Forgets an account of zeros, so that dead domains leave nothing. */
  forget(domid: number): void {
    const account = this.#accounts.get(domid);
    if (account !== undefined && account.nodes === 0 && account.watches === 0 && account.transactions === 0)
      this.#accounts.delete(domid);
  }

  /** True, and observed as `xenstored.quota-refused`, when `value` is more than the caller may have. */
  refuses(caller: Caller, quota: QuotaName, value: number): boolean {
    if (caller.privileged) return false;
    const limit = this.#limits[quota];
    if (limit === 0 || value <= limit) return false;
    this.#observe()?.('xenstored.quota-refused', { domid: caller.domid, quota, limit, value });
    return true;
  }
}
