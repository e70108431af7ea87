/** The ports of `@pvkit/ring` over `/dev/xen`. */
import { type DomainIdentity, type Platform, type PlatformUsage, type Runtime, standardRuntime } from '@pvkit/ring';
import { LinuxEventChannels } from './evtchn.ts';
import { LinuxGrants } from './grants.ts';

export interface XenPlatformOptions {
  /** The domain that this process runs in. */
  readonly identity: DomainIdentity;
  readonly runtime?: Runtime | undefined;
}

/**
 * Opens the ports of the domain that this process runs in. The process stays alive until the platform is closed.
 * @throws ErrnoError that names the module to load or the permission to fix.
 */
export function openXenPlatform(options: XenPlatformOptions): Platform {
  return new XenPlatform(options.identity, options.runtime ?? standardRuntime());
}

class XenPlatform implements Platform {
  readonly identity: DomainIdentity;
  readonly runtime: Runtime;
  readonly grants: LinuxGrants;
  readonly events: LinuxEventChannels;

  constructor(identity: DomainIdentity, runtime: Runtime) {
    const context = { instance: identity.instance };
    this.identity = identity;
    this.runtime = runtime;
    this.grants = new LinuxGrants(runtime, context);
    this.events = new LinuxEventChannels(runtime, context);
  }

  usage(): PlatformUsage {
    return {
      grantedPages: this.grants.grantedPages,
      quarantinedPages: 0, // the driver's affair, see endAccess
      mappedPages: this.grants.mappedPages,
      eventPorts: this.events.portCount,
    };
  }

  close(): void {
    this.events.closeAll();
    this.grants.closeAll();
  }
}
