/**
 * Numbers that Xen hands out, branded so that one kind cannot pass for another.
 */
import { ConfigurationError } from './errors.ts';

declare const brand: unique symbol;
type Branded<T, Name extends string> = T & { readonly [brand]: Name };

/** Domain id, 0 to 0x7fef (`DOMID_FIRST_RESERVED`, `xen/include/public/xen.h`). */
export type Domid = Branded<number, 'Domid'>;
/** Local event channel port, 1 to 2^17-1 (`EVTCHN_FIFO_NR_CHANNELS`, `event_channel.h`). */
export type EventPort = Branded<number, 'EventPort'>;
/** Index of an entry of a domain's grant table, 32 bits (`grant_ref_t`, `grant_table.h`). */
export type GrantReference = Branded<number, 'GrantReference'>;
/** Name of one xenbus instance: `xen` for the machine's own, `loopback:<name>`, `remote:<address>`. */
export type InstanceName = Branded<string, 'InstanceName'>;

export const DOMID_FIRST_RESERVED = 0x7ff0;
export const EVTCHN_NR_CHANNELS = 1 << 17;

/** A domain: domids are reused and instances are several, so a bare number does not tell. */
export interface DomainIdentity {
  readonly instance: InstanceName;
  readonly domid: Domid;
  /** Distinguishes successive domains that had the same domid. */
  readonly generation: number;
}

const isInteger = (value: number, low: number, high: number) =>
  Number.isInteger(value) && value >= low && value <= high;

export const isDomid = (value: number): value is Domid => isInteger(value, 0, DOMID_FIRST_RESERVED - 1);
export const isEventPort = (value: number): value is EventPort => isInteger(value, 1, EVTCHN_NR_CHANNELS - 1);
export const isGrantReference = (value: number): value is GrantReference => isInteger(value, 0, 0xffff_ffff);

/** @throws ConfigurationError unless `value` is a domid that a domain can have. */
export function domid(value: number): Domid {
  if (!isDomid(value)) throw new ConfigurationError(`${value} is not a domain id (0 to ${DOMID_FIRST_RESERVED - 1})`);
  return value;
}

/** @throws ConfigurationError unless `value` is a port number that Xen can hand out. */
export function eventPort(value: number): EventPort {
  if (!isEventPort(value)) throw new ConfigurationError(`${value} is not an event channel port`);
  return value;
}

/** @throws ConfigurationError unless `value` is an unsigned 32-bit integer. */
export function grantReference(value: number): GrantReference {
  if (!isGrantReference(value)) throw new ConfigurationError(`${value} is not a grant reference`);
  return value;
}

/** @throws ConfigurationError unless `name` is `xen`, or `loopback:` or `remote:` and a name. */
export function instanceName(name: string): InstanceName {
  if (!/^(xen|(loopback|remote):[!-~]+)$/.test(name)) throw new ConfigurationError(`'${name}' is not an instance name`);
  return name as InstanceName;
}

export const sameDomain = (a: DomainIdentity, b: DomainIdentity): boolean =>
  a.domid === b.domid && a.generation === b.generation && a.instance === b.instance;
