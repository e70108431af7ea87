/** A guest of a loopback machine whose processor is QuickJS: the host's side of the bridge. */
import { domid, eventPort, GrantCopyBatch, grantReference, type SharedPages } from '@pvkit/ring';
import type { LoopbackPlatform } from '@pvkit/ring/loopback';
import { getQuickJS, type QuickJSContext, type QuickJSHandle } from 'quickjs-emscripten';
import type { GuestCalls, HostCalls, SharedRun, StoreRing } from './guest-bridge.ts';

const MEMORY_LIMIT = 64 * 1024 * 1024;

interface HeldPages {
  readonly pages: SharedPages;
  readonly release: () => boolean;
}

/** Runs `code` as a domain's only program until it says that it has finished; its result as it reported it. */
export async function runInQuickJs(code: string, platform: LoopbackPlatform): Promise<unknown> {
  const vm = (await getQuickJS()).newContext();
  vm.runtime.setMemoryLimit(MEMORY_LIMIT);
  try {
    return await new Promise<unknown>((resolve, reject) => {
      const guest = new Guest(vm, platform, resolve, reject);
      guest.start(code);
    });
  } finally {
    vm.dispose();
  }
}

class Guest {
  readonly #vm: QuickJSContext;
  readonly #platform: LoopbackPlatform;
  readonly #held = new Map<number, HeldPages>();
  readonly #timers = new Map<number, () => void>();
  readonly #settled: { readonly resolve: (result: unknown) => void; readonly reject: (error: Error) => void };
  #pagesMade = 0;
  #ended = false;

  constructor(
    vm: QuickJSContext,
    platform: LoopbackPlatform,
    resolve: (result: unknown) => void,
    reject: (error: Error) => void,
  ) {
    this.#vm = vm;
    this.#platform = platform;
    this.#settled = { resolve, reject };
  }

  start(code: string): void {
    const vm = this.#vm;
    const object = vm.newObject();
    for (const [name, call] of Object.entries(this.#hostCalls())) {
      const handle = vm.newFunction(name, (...args) =>
        this.#toGuest(Reflect.apply(call, undefined, args.map(this.#fromGuest))),
      );
      vm.setProp(object, name, handle);
      handle.dispose();
    }
    vm.setProp(vm.global, 'pvkitHost', object);
    object.dispose();
    this.#turn(() => vm.unwrapResult(vm.evalCode(code, 'guest.js')).dispose());
  }

  /** One turn of the guest's event loop: something happens, then what it promised. */
  #turn(action: () => void): void {
    if (this.#ended) return;
    try {
      action();
      this.#vm.unwrapResult(this.#vm.runtime.executePendingJobs());
    } catch (error) {
      this.#end(() => this.#settled.reject(error instanceof Error ? error : new Error(String(error))));
    }
  }

  #call(name: keyof GuestCalls, argument: number): void {
    this.#turn(() => {
      const vm = this.#vm;
      const [call, value] = [vm.getProp(vm.global, name), vm.newNumber(argument)];
      vm.unwrapResult(vm.callFunction(call, vm.undefined, value)).dispose();
      call.dispose();
      value.dispose();
    });
  }

  /** The engine goes away afterwards, in a later turn: the call that ended the guest comes from within it. */
  #end(settle: () => void): void {
    if (this.#ended) return;
    this.#ended = true;
    for (const cancel of this.#timers.values()) cancel();
    setImmediate(settle);
  }

  readonly #fromGuest = (handle: QuickJSHandle): unknown => {
    const vm = this.#vm;
    switch (vm.typeof(handle)) {
      case 'number':
        return vm.getNumber(handle);
      case 'string':
        return vm.getString(handle);
      default:
        return vm.getArrayBuffer(handle).consume(({ value }) => Uint8Array.from(value).buffer);
    }
  };

  #toGuest(value: unknown): QuickJSHandle {
    const vm = this.#vm;
    if (typeof value === 'number') return vm.newNumber(value);
    if (typeof value === 'string') return vm.newString(value);
    return value instanceof ArrayBuffer ? vm.newArrayBuffer(value) : vm.undefined;
  }

  #hold(pages: SharedPages, release: () => boolean): number {
    this.#held.set(++this.#pagesMade, { pages, release });
    return this.#pagesMade;
  }

  #pages(number: number): SharedPages {
    const held = this.#held.get(number);
    if (held === undefined) throw new RangeError(`there are no pages ${number}`);
    return held.pages;
  }

  #startTimer(timer: number, milliseconds: number): void {
    const wake = () => {
      this.#timers.delete(timer);
      this.#call('wakeTimer', timer);
    };
    if (milliseconds > 0) {
      const handle = setTimeout(wake, milliseconds);
      this.#timers.set(timer, () => clearTimeout(handle));
    } else {
      const handle = setImmediate(wake);
      this.#timers.set(timer, () => clearImmediate(handle));
    }
  }

  #hostCalls(): HostCalls {
    const { identity, grants, events } = this.#platform;
    const access = (text: string) => (text === 'read-only' ? 'read-only' : 'read-write');
    return {
      identity: () => JSON.stringify(identity),
      now: () => performance.now(),
      startTimer: (timer, milliseconds) => this.#startTimer(timer, milliseconds),
      cancelTimer: (timer) => this.#timers.get(timer)?.(),
      encodeUtf8: (text) => Uint8Array.from(Buffer.from(text)).buffer,
      decodeUtf8: (bytes) => Buffer.from(bytes).toString(),
      openStoreRing: () => {
        const { pages, port } = this.#platform.openStoreRing();
        const ring: StoreRing = { pages: this.#hold(pages, () => true), port };
        return JSON.stringify(ring);
      },
      share: (to, pageCount, mode) => {
        const shared = grants.share(domid(to), pageCount, access(mode));
        const run: SharedRun = { pages: this.#hold(shared, () => shared.endAccess()), references: shared.references };
        return JSON.stringify(run);
      },
      map: (from, references, mode) => {
        const list: number[] = JSON.parse(references);
        const mapped = grants.map(domid(from), list.map(grantReference), access(mode));
        return this.#hold(mapped, () => {
          mapped.unmap();
          return true;
        });
      },
      copyToGrant: (peer, reference, offset, bytes) => {
        const batch = new GrantCopyBatch(domid(peer), 1);
        batch.addToGrant(grantReference(reference), offset, new Uint8Array(bytes), 0, bytes.byteLength);
        grants.copy(batch);
        return batch.statuses[0]!;
      },
      copyFromGrant: (peer, reference, offset, length) => {
        const bytes = new Uint8Array(length);
        const batch = new GrantCopyBatch(domid(peer), 1);
        batch.addFromGrant(grantReference(reference), offset, bytes, 0, length);
        grants.copy(batch);
        return batch.statuses[0] === 0 ? bytes.buffer : batch.statuses[0]!;
      },
      release: (pages) => (this.#held.get(pages)?.release() === false ? 0 : 1),
      load32: (pages, offset) => this.#pages(pages).load32(offset),
      store32: (pages, offset, value) => this.#pages(pages).store32(offset, value),
      read: (pages, offset, length) => {
        const bytes = new Uint8Array(length);
        this.#pages(pages).read(offset, bytes, 0, length);
        return bytes.buffer;
      },
      write: (pages, offset, bytes) => this.#pages(pages).write(offset, new Uint8Array(bytes), 0, bytes.byteLength),
      allocateUnbound: (remote) => events.allocateUnbound(domid(remote)),
      bindInterdomain: (remote, port) => events.bindInterdomain(domid(remote), eventPort(port)),
      listen: (port) => events.listen(eventPort(port), () => this.#call('wakePort', port)),
      unmask: (port) => events.unmask(eventPort(port)),
      notify: (port) => events.notify(eventPort(port)),
      closePort: (port) => events.close(eventPort(port)),
      usage: () => JSON.stringify(this.#platform.usage()),
      closePlatform: () => this.#platform.close(),
      finished: (result) => this.#end(() => this.#settled.resolve(JSON.parse(result))),
      failed: (reason) => this.#end(() => this.#settled.reject(new Error(`the guest failed: ${reason}`))),
    };
  }
}
