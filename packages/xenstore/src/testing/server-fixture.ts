/** For tests: a server in this process, clients of any identity, and what was observed. */
import { ErrnoError, type MessageTransport, type Runtime, standardRuntime } from '@pvkit/ring';
import { XenstoreClient } from '../client.ts';
import type { DomainHost } from '../server/host.ts';
import { XenstoreServer, type XenstoreServerOptions } from '../server/server.ts';
import { memoryTransportPair } from '../transport/memory.ts';
import { RawClient } from './raw-client.ts';

export interface Observed {
  readonly event: string;
  readonly facts: Readonly<Record<string, unknown>>;
}

export class ServerFixture {
  readonly observed: Observed[] = [];
  readonly runtime: Runtime;
  readonly server: XenstoreServer;
  /** The domains' ends of the connections that INTRODUCE made, by domid. */
  readonly domainEnds = new Map<number, MessageTransport>();
  /** Domains that exist on the machine. */
  readonly existing = new Set<number>();

  constructor(options: Omit<XenstoreServerOptions, 'runtime'> & { readonly withHost?: boolean } = {}) {
    this.runtime = standardRuntime((event, facts) => this.observed.push({ event, facts }));
    const { withHost, ...rest } = options;
    this.server = new XenstoreServer({
      runtime: this.runtime,
      ...rest,
      ...(withHost ? { host: this.#makeHost() } : {}),
    });
  }

  /** The client's end of a new connection. */
  transport(domid: number): MessageTransport {
    const [clientEnd, serverEnd] = memoryTransportPair(this.runtime);
    this.server.connect(serverEnd, { domid, privileged: domid === 0 });
    return clientEnd;
  }

  client(domid = 0): XenstoreClient {
    return new XenstoreClient(this.transport(domid), this.runtime);
  }

  /** `D3` is domain 3, which is connected already if it was introduced; other names are the control domain. */
  raw(name = 'A'): RawClient {
    const domid = /^D\d+$/.test(name) ? Number(name.slice(1)) : 0;
    const introduced = this.domainEnds.get(domid);
    this.domainEnds.delete(domid);
    return new RawClient(introduced ?? this.transport(domid));
  }

  refusals(): unknown[] {
    return this.observed.filter(({ event }) => event === 'xenstored.quota-refused').map(({ facts }) => facts);
  }

  count(event: string): number {
    return this.observed.filter((observed) => observed.event === event).length;
  }

  #makeHost(): DomainHost {
    return {
      exists: (domid) => this.existing.has(domid),
      connect: (domid) => {
        if (!this.existing.has(domid)) throw new ErrnoError('ENOENT', 'map the xenstore page', { domid });
        const [domainEnd, serverEnd] = memoryTransportPair(this.runtime);
        this.domainEnds.set(domid, domainEnd);
        return serverEnd;
      },
    };
  }
}
