/**
 * The ports of `@pvkit/ring` as a guest has them in an engine without anything of its own: each method is a call to the
 * host, with numbers, strings and whole ArrayBuffers. Runs in the engine, so it uses nothing but the language.
 */
import type {
  DomainIdentity,
  Domid,
  EventChannels,
  EventPort,
  GrantAccess,
  GrantCopyBatch,
  GrantedPages,
  GrantReference,
  Grants,
  MappedPages,
  Platform,
  PlatformUsage,
  Runtime,
  SharedPages,
  Timer,
} from '@pvkit/ring';

/** What the host offers, as properties of the global `pvkitHost`. Pages are numbered by the host. */
export interface HostCalls {
  /** A {@link DomainIdentity} as JSON. */
  identity(): string;
  now(): number;
  /** `milliseconds` 0: after the running turn. The host calls `wakeTimer` once. */
  startTimer(timer: number, milliseconds: number): void;
  cancelTimer(timer: number): void;
  encodeUtf8(text: string): ArrayBuffer;
  decodeUtf8(bytes: ArrayBuffer): string;
  /** A {@link StoreRing} as JSON. */
  openStoreRing(): string;
  /** A {@link SharedRun} as JSON. */
  share(to: number, pageCount: number, access: string): string;
  /** Returns the number of the pages; `references` is a JSON array. */
  map(from: number, references: string, access: string): number;
  /** One grant copy; returns its status. From the granted page, `bytes` is filled and comes back. */
  copyToGrant(domid: number, reference: number, offset: number, bytes: ArrayBuffer): number;
  copyFromGrant(domid: number, reference: number, offset: number, length: number): ArrayBuffer | number;
  /** 1 when nobody had them mapped any more. */
  release(pages: number): number;
  load32(pages: number, offset: number): number;
  store32(pages: number, offset: number, value: number): void;
  read(pages: number, offset: number, length: number): ArrayBuffer;
  write(pages: number, offset: number, bytes: ArrayBuffer): void;
  allocateUnbound(remote: number): number;
  bindInterdomain(remote: number, remotePort: number): number;
  /** The host calls `wakePort` for each event. */
  listen(port: number): void;
  unmask(port: number): void;
  notify(port: number): void;
  closePort(port: number): void;
  /** A {@link PlatformUsage} as JSON. */
  usage(): string;
  closePlatform(): void;
  /** The program has ended well, with a result as JSON. */
  finished(result: string): void;
  failed(reason: string): void;
}

export interface SharedRun {
  readonly pages: number;
  readonly references: readonly GrantReference[];
}

export interface StoreRing {
  readonly pages: number;
  readonly port: EventPort;
}

/** What the guest offers to the host, as properties of the global object. */
export interface GuestCalls {
  wakeTimer(timer: number): void;
  wakePort(port: number): void;
}

declare const pvkitHost: HostCalls;

const exact = (source: Uint8Array, start: number, length: number): ArrayBuffer => {
  const copy = new Uint8Array(length);
  for (let index = 0; index < length; index++) copy[index] = source[start + index]!;
  return copy.buffer;
};

class HostPages implements GrantedPages, MappedPages {
  readonly pageCount: number;
  readonly access: GrantAccess;
  readonly references: readonly GrantReference[];
  readonly #pages: number;

  constructor(pages: number, pageCount: number, access: GrantAccess, references: readonly GrantReference[]) {
    this.#pages = pages;
    this.pageCount = pageCount;
    this.access = access;
    this.references = references;
  }

  load32(offset: number): number {
    return pvkitHost.load32(this.#pages, offset);
  }

  store32(offset: number, value: number): void {
    pvkitHost.store32(this.#pages, offset, value >>> 0);
  }

  readWords(offset: number, target: Int32Array, count: number): void {
    target.set(new Int32Array(pvkitHost.read(this.#pages, offset, count * 4)));
  }

  writeWords(offset: number, source: Int32Array, count: number): void {
    pvkitHost.write(this.#pages, offset, source.slice(0, count).buffer);
  }

  read(offset: number, target: Uint8Array, targetOffset: number, length: number): void {
    target.set(new Uint8Array(pvkitHost.read(this.#pages, offset, length)), targetOffset);
  }

  write(offset: number, source: Uint8Array, sourceOffset: number, length: number): void {
    pvkitHost.write(this.#pages, offset, exact(source, sourceOffset, length));
  }

  endAccess(): boolean {
    return pvkitHost.release(this.#pages) === 1;
  }

  unmap(): void {
    pvkitHost.release(this.#pages);
  }
}

const timers = new Map<number, () => void>();
let timersStarted = 0;

function startTimer(milliseconds: number, callback: () => void): Timer {
  const timer = ++timersStarted;
  timers.set(timer, callback);
  pvkitHost.startTimer(timer, milliseconds);
  return {
    cancel: () => {
      if (timers.delete(timer)) pvkitHost.cancelTimer(timer);
    },
  };
}

/** One thread and no shared memory of its own, so a plain load and store are as atomic as any. */
export const runtime: Runtime = {
  load: (words, index) => words[index]!,
  store: (words, index, value) => {
    words[index] = value;
  },
  now: () => pvkitHost.now(),
  timer: startTimer,
  nextTurn: (callback) => void startTimer(0, callback),
  encodeUtf8: (text) => new Uint8Array(pvkitHost.encodeUtf8(text)),
  decodeUtf8: (bytes) => pvkitHost.decodeUtf8(exact(bytes, 0, bytes.length)),
};

const grants: Grants = {
  share(to: Domid, pageCount: number, access: GrantAccess): GrantedPages {
    const { pages, references }: SharedRun = JSON.parse(pvkitHost.share(to, pageCount, access));
    return new HostPages(pages, pageCount, access, references);
  },
  map(from: Domid, references: readonly GrantReference[], access: GrantAccess): MappedPages {
    const pages = pvkitHost.map(from, JSON.stringify(references), access);
    return new HostPages(pages, references.length, access, references);
  },
  copy(batch: GrantCopyBatch): void {
    for (let index = 0; index < batch.count; index++) {
      const local = batch.locals[index]!;
      const start = batch.localOffsets[index]!;
      const where = [batch.domid, batch.references[index]!, batch.offsets[index]!] as const;
      if (batch.toGrant[index] === 1) {
        batch.statuses[index] = pvkitHost.copyToGrant(...where, exact(local, start, batch.lengths[index]!));
        continue;
      }
      const copied = pvkitHost.copyFromGrant(...where, batch.lengths[index]!);
      batch.statuses[index] = typeof copied === 'number' ? copied : 0;
      if (typeof copied !== 'number') local.set(new Uint8Array(copied), start);
    }
  },
  allocateBuffer: (byteLength) => new Uint8Array(byteLength),
};

const listeners = new Map<number, () => void>();

const events: EventChannels = {
  allocateUnbound: (remote) => pvkitHost.allocateUnbound(remote) as EventPort,
  bindInterdomain: (remote, port) => pvkitHost.bindInterdomain(remote, port) as EventPort,
  listen(port, handler) {
    listeners.set(port, handler);
    pvkitHost.listen(port);
  },
  unmask: (port) => pvkitHost.unmask(port),
  notify: (port) => pvkitHost.notify(port),
  close(port) {
    listeners.delete(port);
    pvkitHost.closePort(port);
  },
};

const identity: DomainIdentity = JSON.parse(pvkitHost.identity());

export const platform: Platform = {
  identity,
  runtime,
  grants,
  events,
  usage: (): PlatformUsage => JSON.parse(pvkitHost.usage()),
  close: () => pvkitHost.closePlatform(),
};

/** The ring to xenstored that every domain is born with. */
export function openStoreRing(): { readonly pages: SharedPages; readonly port: EventPort } {
  const { pages, port }: StoreRing = JSON.parse(pvkitHost.openStoreRing());
  return { pages: new HostPages(pages, 1, 'read-write', []), port };
}

const guestCalls: GuestCalls = {
  wakeTimer(timer) {
    const callback = timers.get(timer);
    timers.delete(timer);
    callback?.();
  },
  wakePort: (port) => listeners.get(port)?.(),
};
Object.assign(globalThis, guestCalls);

/** Runs the guest's program and tells the host how it ended. */
export function runProgram(program: () => Promise<object>): void {
  program().then(
    (result) => pvkitHost.finished(JSON.stringify(result)),
    (error) =>
      pvkitHost.failed(error instanceof Error ? `${error.name}: ${error.message}\n${error.stack}` : String(error)),
  );
}
