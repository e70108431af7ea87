/** Event channels with Xen's semantics (`xen/common/event_channel.c`), and the wake-up of the thread that listens. */
import { ErrnoError } from '../errors.ts';
import { type Domid, type EventPort, eventPort } from '../identity.ts';
import { wake } from './attachment.ts';
import * as L from './layout.ts';
import type { DomainOf, Machine } from './machine.ts';

export class PortTable {
  readonly #machine: Machine;
  readonly #words: Int32Array;
  readonly #domain: DomainOf;
  readonly #owner: Domid;

  constructor(machine: Machine, owner: DomainOf) {
    this.#machine = machine;
    this.#words = machine.words;
    this.#domain = owner;
    this.#owner = owner.domid;
  }

  allocateUnbound(remote: Domid, attachment: number): EventPort {
    this.#machine.lock(L.LOCK);
    try {
      const port = this.#allocate(attachment);
      const record = this.#record(this.#owner, port);
      this.#words[record + L.PORT_REMOTE_DOMAIN] = remote;
      Atomics.store(this.#words, record + L.PORT_STATE, L.PORT_UNBOUND);
      return port;
    } finally {
      this.#machine.unlock(L.LOCK);
    }
  }

  bindInterdomain(remote: Domid, remotePort: EventPort, attachment: number): EventPort {
    const action = `binding port ${remotePort}`;
    const context = { domid: remote };
    this.#machine.lock(L.LOCK);
    try {
      if (this.#machine.generation(remote) === 0) throw new ErrnoError('ESRCH', action, context, 'no such domain');
      if (remotePort >= this.#machine.layout.limits.ports) throw new ErrnoError('EINVAL', action, context);
      const peer = this.#record(remote, remotePort);
      if (
        this.#words[peer + L.PORT_STATE] !== L.PORT_UNBOUND ||
        this.#words[peer + L.PORT_REMOTE_DOMAIN] !== this.#owner
      )
        throw new ErrnoError('EINVAL', action, context, 'that port was not allocated for this domain');
      const port = this.#allocate(attachment);
      const record = this.#record(this.#owner, port);
      this.#words[record + L.PORT_REMOTE_DOMAIN] = remote;
      this.#words[record + L.PORT_REMOTE_PORT] = remotePort;
      this.#words[peer + L.PORT_REMOTE_PORT] = port;
      Atomics.store(this.#words, record + L.PORT_STATE, L.PORT_INTERDOMAIN);
      Atomics.store(this.#words, peer + L.PORT_STATE, L.PORT_INTERDOMAIN);
      // As in Xen: the other side may have notified before we were there.
      this.#raise(this.#owner, port);
      return port;
    } finally {
      this.#machine.unlock(L.LOCK);
    }
  }

  /** Makes an attachment the listener of a port that the domain builder allocated. */
  adopt(port: EventPort, attachment: number): void {
    const flags = this.#record(this.#owner, port) + L.PORT_FLAGS;
    const keep = (1 << L.PORT_ATTACHMENT_SHIFT) - 1;
    Atomics.and(this.#words, flags, keep);
    Atomics.or(this.#words, flags, attachment << L.PORT_ATTACHMENT_SHIFT);
  }

  notify(port: EventPort): void {
    const record = this.#record(this.#owner, port);
    if (Atomics.load(this.#words, record + L.PORT_STATE) !== L.PORT_INTERDOMAIN) return;
    this.#raise(this.#words[record + L.PORT_REMOTE_DOMAIN]!, this.#words[record + L.PORT_REMOTE_PORT]!);
  }

  /** Begins the handling of an event: true once for each, the port being masked then. */
  begin(port: number): boolean {
    const flags = this.#record(this.#owner, port) + L.PORT_FLAGS;
    if ((Atomics.or(this.#words, flags, L.PORT_MASKED) & L.PORT_MASKED) !== 0) return false;
    if ((Atomics.and(this.#words, flags, ~L.PORT_PENDING) & L.PORT_PENDING) !== 0) return true;
    this.unmask(port); // it was for whoever had the port before
    return false;
  }

  unmask(port: number): void {
    const flags = this.#record(this.#owner, port) + L.PORT_FLAGS;
    const old = Atomics.and(this.#words, flags, ~L.PORT_MASKED);
    if ((old & L.PORT_PENDING) !== 0) this.#deliver(old, port);
  }

  /** Closes a port; the other end becomes unbound again, to be bound anew (as Xen does). */
  close(port: EventPort): void {
    this.#machine.lock(L.LOCK);
    if (this.#machine.isAlive(this.#owner, this.#domain.generation)) this.#close(port);
    this.#machine.unlock(L.LOCK);
  }

  /** Closes every port: the domain is being destroyed. */
  reset(): void {
    this.#machine.lock(L.LOCK);
    for (let port = 1; port < this.#machine.layout.limits.ports; port++) this.#close(port);
    this.#machine.unlock(L.LOCK);
  }

  #close(port: number): void {
    const words = this.#words;
    const record = this.#record(this.#owner, port);
    if (words[record + L.PORT_STATE] === L.PORT_FREE) return;
    if (words[record + L.PORT_STATE] === L.PORT_INTERDOMAIN) {
      const peer = this.#record(words[record + L.PORT_REMOTE_DOMAIN]!, words[record + L.PORT_REMOTE_PORT]!);
      words[peer + L.PORT_REMOTE_DOMAIN] = this.#owner;
      Atomics.store(words, peer + L.PORT_STATE, L.PORT_UNBOUND);
    }
    Atomics.store(words, record + L.PORT_STATE, L.PORT_FREE);
    Atomics.store(words, record + L.PORT_FLAGS, 0);
  }

  #allocate(attachment: number): EventPort {
    this.#machine.checkAlive(this.#domain, 'allocating an event channel');
    const { ports } = this.#machine.layout.limits;
    for (let port = 1; port < ports; port++) {
      const record = this.#record(this.#owner, port);
      if (this.#words[record + L.PORT_STATE] !== L.PORT_FREE) continue;
      Atomics.store(this.#words, record + L.PORT_FLAGS, attachment << L.PORT_ATTACHMENT_SHIFT);
      return eventPort(port);
    }
    throw new ErrnoError(
      'ENOSPC',
      `allocating an event channel (limit ${ports - 1} ports)`,
      { domid: this.#owner },
      'close some, or raise the limit',
    );
  }

  #record(domid: number, port: number): number {
    return this.#machine.layout.ports + (domid * this.#machine.layout.limits.ports + port) * L.PORT_WORDS;
  }

  #raise(domid: number, port: number): void {
    const old = Atomics.or(this.#words, this.#record(domid, port) + L.PORT_FLAGS, L.PORT_PENDING);
    if ((old & (L.PORT_PENDING | L.PORT_MASKED)) === 0) this.#deliver(old, port);
  }

  #deliver(flags: number, port: number): void {
    const { layout } = this.#machine;
    const index = flags >>> L.PORT_ATTACHMENT_SHIFT;
    if (index === L.NO_ATTACHMENT) return;
    const attachment = layout.attachments + index * layout.attachmentWords;
    Atomics.or(this.#words, attachment + L.ATTACHMENT_READY + (port >>> 5), 1 << (port & 31));
    Atomics.or(this.#words, attachment + L.ATTACHMENT_SELECTOR, 1 << (port >>> 5));
    wake(this.#words, attachment);
  }
}
