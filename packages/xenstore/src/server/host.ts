/** What the server needs of the machine that its domains run on. */
import type { MessageTransport } from '@pvkit/ring';
import type { XenstoreRingError } from '../transport/ring.ts';

/** A domain's ring. */
export interface DomainTransport extends MessageTransport {
  /** Tells the domain why the server is about to close the connection. */
  setError?(error: XenstoreRingError): void;
}

export interface DomainHost {
  /** Is there a domain of this id? Permissions naming one that does not exist have no effect. */
  exists(domid: number): boolean;
  /**
   * Makes a domain's xenstore page and event channel usable.
   * @param gfn the page's frame number as INTRODUCE gave it; the page is also granted by reference 1
   * @param port the domain's unbound event channel
   * @throws ErrnoError whose errno the caller of INTRODUCE gets, if it is one of the wire's
   */
  connect(domid: number, gfn: number, port: number): DomainTransport;
}
