export { defaultQuotas, type QuotaName, type Quotas } from '../store/quota.ts';
export type { ConnectionIdentity } from './connection.ts';
export type { DomainHost, DomainTransport } from './host.ts';
export { XenstoreServer, type XenstoreServerCounters, type XenstoreServerOptions } from './server.ts';
