/**
 * The one error family of pvkit. Every error says what failed and, where known, on which instance, domain and device.
 *
 * - {@link GrantError}: what Xen said of a grant operation (`GNTST_*`, `xen/include/public/grant_table.h`);
 * - {@link ErrnoError}: what a kernel, or an xenstored, said (an errno by name);
 * - {@link ProtocolError}: what the other side of a ring or a node broke;
 * - {@link ConfigurationError}: what the operator asked for wrongly.
 */

/** Where an error happened. Absent fields are unknown or do not apply. */
export interface ErrorContext {
  readonly instance?: string | undefined;
  readonly domid?: number | undefined;
  /** Device as `<class>/<devid>`, for example `vbd/51712`. */
  readonly device?: string | undefined;
}

export abstract class PvError extends Error {
  /** Stable identifier, `ERR_PV_…`; compare this, not the message. */
  abstract readonly code: string;
  readonly context: ErrorContext;

  constructor(message: string, context: ErrorContext = {}, cause?: unknown) {
    super(describe(message, context), cause === undefined ? undefined : { cause });
    this.name = new.target.name;
    this.context = context;
  }
}

function describe(message: string, { instance, domid, device }: ErrorContext): string {
  const where = [
    instance === undefined ? '' : `instance ${instance}`,
    domid === undefined ? '' : `domain ${domid}`,
    device === undefined ? '' : `device ${device}`,
  ].filter((part) => part !== '');
  return where.length === 0 ? message : `${where.join(', ')}: ${message}`;
}

/** Status of one grant operation (`GNTST_*`, `xen/include/public/grant_table.h`). */
export const GrantStatus = {
  GNTST_okay: 0,
  GNTST_general_error: -1,
  GNTST_bad_domain: -2,
  GNTST_bad_gntref: -3,
  GNTST_bad_handle: -4,
  GNTST_bad_virt_addr: -5,
  GNTST_bad_dev_addr: -6,
  GNTST_no_device_space: -7,
  GNTST_permission_denied: -8,
  GNTST_bad_page: -9,
  GNTST_bad_copy_arg: -10,
  GNTST_address_too_big: -11,
  GNTST_eagain: -12,
  GNTST_no_space: -13,
} as const;
export type GrantStatusName = keyof typeof GrantStatus;

/** The `GNTST_*` name of a status; an unknown value reads as `GNTST_general_error`. */
export function grantStatusName(status: number): GrantStatusName {
  for (const name of Object.keys(GrantStatus) as GrantStatusName[]) if (GrantStatus[name] === status) return name;
  return 'GNTST_general_error';
}

export class GrantError extends PvError {
  readonly code = 'ERR_PV_GRANT';
  readonly status: GrantStatusName;

  constructor(status: GrantStatusName, action: string, context: ErrorContext = {}) {
    super(`${action}: ${status}`, context);
    this.status = status;
  }
}

export class ErrnoError extends PvError {
  readonly code = 'ERR_PV_ERRNO';
  /** Name of the errno, for example `ENOENT`. */
  readonly errno: string;

  constructor(errno: string, action: string, context: ErrorContext = {}, hint?: string) {
    super(`${action}: ${errno}${hint === undefined ? '' : ` (${hint})`}`, context);
    this.errno = errno;
  }
}

export class ProtocolError extends PvError {
  readonly code = 'ERR_PV_PROTOCOL';
}

export class ConfigurationError extends PvError {
  readonly code = 'ERR_PV_CONFIGURATION';
}
