/** Event channels through `/dev/xen/evtchn` (`xen/sys/evtchn.h`). */
import { closeSync } from 'node:fs';
import {
  type Domid,
  ErrnoError,
  type ErrorContext,
  type EventChannels,
  type EventPort,
  eventPort,
  type Runtime,
} from '@pvkit/ring';
import { IoctlArgument, openDevice } from './device.ts';
import {
  IOCTL_EVTCHN_BIND_INTERDOMAIN,
  IOCTL_EVTCHN_BIND_UNBOUND_PORT,
  IOCTL_EVTCHN_NOTIFY,
  IOCTL_EVTCHN_RESET,
  IOCTL_EVTCHN_UNBIND,
} from './sys/ioctl.ts';
import { addressOf, lastErrno, lastError, libc } from './sys/libc.ts';
import { pollReadable, type ReadablePoll } from './sys/poll.ts';

/** Handlers run in one turn of the event loop before others get theirs. */
const EVENTS_PER_TURN = 64;

interface PortState {
  handler: (() => void) | undefined;
  /** The driver gave us an event, and holds back the next until the port is written back. */
  masked: boolean;
  /** An event that no handler has had yet. */
  waiting: boolean;
}

export class LinuxEventChannels implements EventChannels {
  readonly #runtime: Runtime;
  readonly #context: ErrorContext;
  readonly #fd: number;
  readonly #poll: ReadablePoll;
  readonly #ports = new Map<number, PortState>();
  readonly #argument = new IoctlArgument();
  readonly #events = new Uint32Array(EVENTS_PER_TURN);
  readonly #eventsAddress = addressOf(this.#events.buffer);
  readonly #unmasked = new Uint32Array(1);
  readonly #unmaskedAddress = addressOf(this.#unmasked.buffer);
  #closed = false;

  /** @throws ErrnoError when the device cannot be opened. */
  constructor(runtime: Runtime, context: ErrorContext) {
    this.#runtime = runtime;
    this.#context = context;
    this.#fd = openDevice('evtchn');
    this.#poll = pollReadable(this.#fd, () => this.#dispatch());
  }

  /** Ports that are open. */
  get portCount(): number {
    return this.#ports.size;
  }

  allocateUnbound(remote: Domid): EventPort {
    this.#argument.words(1)[0] = remote;
    return this.#bind(IOCTL_EVTCHN_BIND_UNBOUND_PORT, `allocating an event channel for domain ${remote}`);
  }

  bindInterdomain(remote: Domid, remotePort: EventPort): EventPort {
    const words = this.#argument.words(2);
    words[0] = remote;
    words[1] = remotePort;
    return this.#bind(IOCTL_EVTCHN_BIND_INTERDOMAIN, `binding event channel ${remotePort} of domain ${remote}`);
  }

  #bind(request: number, action: string): EventPort {
    this.#checkOpen();
    const port = this.#argument.call(this.#fd, request);
    if (port < 0) throw lastError(action, this.#context);
    this.#ports.set(port, { handler: undefined, masked: false, waiting: false });
    return eventPort(port);
  }

  listen(port: EventPort, handler: () => void): void {
    const state = this.#port(port);
    if (state.handler !== undefined) throw new ErrnoError('EBUSY', `listening to port ${port}`, this.#context);
    state.handler = handler;
    // Binding interdomain raises an event at once, which may have come before there was a listener.
    if (state.waiting) this.#deliverLater(port, state);
  }

  unmask(port: EventPort): void {
    const state = this.#ports.get(port);
    if (state === undefined || !state.masked || state.waiting) return;
    state.masked = false;
    this.#unmasked[0] = port;
    if (libc().write(this.#fd, this.#unmaskedAddress, 4) < 0) throw lastError(`unmasking port ${port}`, this.#context);
  }

  notify(port: EventPort): void {
    this.#port(port);
    this.#argument.words(1)[0] = port;
    // The driver succeeds when the other end has closed.
    if (this.#argument.call(this.#fd, IOCTL_EVTCHN_NOTIFY) < 0)
      throw lastError(`notifying port ${port}`, this.#context);
  }

  close(port: EventPort): void {
    if (!this.#ports.delete(port)) return;
    this.#argument.words(1)[0] = port;
    if (this.#argument.call(this.#fd, IOCTL_EVTCHN_UNBIND) < 0) throw lastError(`closing port ${port}`, this.#context);
  }

  /** Ends delivery; ports stay bound until {@link closeAll}. */
  stop(): void {
    this.#poll.close();
    for (const state of this.#ports.values()) state.handler = undefined;
  }

  /** Closes every port and the device. Idempotent. */
  closeAll(): void {
    if (this.#closed) return;
    this.stop();
    for (const port of [...this.#ports.keys()]) this.close(eventPort(port));
    this.#closed = true;
    closeSync(this.#fd);
  }

  /** Reads what has come. A turn takes no more than one buffer: the poll calls again for the rest. */
  #dispatch(): void {
    const bytes = libc().read(this.#fd, this.#eventsAddress, this.#events.byteLength);
    if (bytes < 0) {
      this.#readFailed();
      return;
    }
    for (let index = 0; index < bytes >>> 2; index++) {
      const state = this.#ports.get(this.#events[index]!);
      if (state === undefined) continue; // came before the port was closed
      state.masked = true;
      this.#deliver(state);
    }
  }

  #readFailed(): void {
    const errno = lastErrno();
    switch (errno) {
      case 'EAGAIN':
      case 'EINTR':
        return;
      case 'EFBIG':
        this.#recover();
        return;
      default:
        this.#poll.close();
        throw new ErrnoError(errno, 'reading /dev/xen/evtchn', this.#context);
    }
  }

  /**
   * The driver's ring overflowed: events of closed ports stay in it and take the room of others. Which were lost is
   * unknown, so every port gets one; drivers expect spurious events.
   */
  #recover(): void {
    this.#argument.call(this.#fd, IOCTL_EVTCHN_RESET);
    this.#runtime.observe?.('linux.event-ring-overflow', { ports: this.#ports.size });
    for (const [port, state] of this.#ports) {
      if (state.masked) continue;
      state.masked = true;
      this.#deliverLater(port, state);
    }
  }

  #deliver(state: PortState): void {
    state.waiting = state.handler === undefined;
    if (state.handler === undefined) return;
    try {
      state.handler();
    } catch (error) {
      // A bug of ours: it surfaces as an uncaught error, and the other ports get their events.
      this.#runtime.nextTurn(() => {
        throw error;
      });
    }
  }

  #deliverLater(port: number, state: PortState): void {
    state.waiting = true;
    this.#runtime.nextTurn(() => {
      if (this.#ports.get(port) === state && state.waiting) this.#deliver(state);
    });
  }

  #port(port: EventPort): PortState {
    const state = this.#ports.get(port);
    if (state === undefined) throw new ErrnoError('EINVAL', `use of port ${port}, which is not open`, this.#context);
    return state;
  }

  #checkOpen(): void {
    if (this.#closed) throw new ErrnoError('ESRCH', 'use of a closed platform', this.#context);
  }
}
