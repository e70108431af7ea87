/**
 * Serves every backend device of some classes: discovers directories below `backend/<class>` of our domain, however and
 * in whatever order they appear, and gives each a {@link BackendDevice}.
 */
import { DOMID_FIRST_RESERVED, type DomainIdentity, type Domid, isDomid, type Platform } from '@pvkit/ring';
import type { WatchHandle, XenstoreClient } from '@pvkit/xenstore';
import { BackendDevice, type BackendDriver } from './backend-device.ts';
import { DEVID_MAX, parseDecimal } from './keys.ts';
import { homePath } from './toolstack.ts';

export interface BackendBusOptions {
  readonly client: XenstoreClient;
  readonly platform: Platform;
  readonly drivers: readonly BackendDriver[];
  /** The domain that has a domid now; generation 0 where the instance can't tell. */
  readonly identify?: (domid: Domid) => DomainIdentity | undefined;
}

export class BackendBus {
  readonly #options: BackendBusOptions;
  readonly #devices = new Map<string, BackendDevice>();
  readonly #watches: WatchHandle[] = [];
  #closing: Promise<void> | undefined;

  private constructor(options: BackendBusOptions) {
    this.#options = options;
  }

  /** Begins to serve; devices that exist already are served too. */
  static async open(options: BackendBusOptions): Promise<BackendBus> {
    const bus = new BackendBus(options);
    const { client } = options;
    try {
      for (const driver of options.drivers) {
        const root = bus.#root(driver);
        bus.#watches.push(await client.watchCallback(root, (path) => bus.#look(driver, root, path)));
      }
      // A domain that dies without any state change: its directories go, or its frontend nodes become unreadable.
      bus.#watches.push(await client.watchCallback('@releaseDomain', () => bus.#lookAtAll()));
    } catch (error) {
      await bus.close();
      throw error;
    }
    return bus;
  }

  /** The devices being served, in no order to rely on. */
  get devices(): readonly BackendDevice[] {
    return [...this.#devices.values()];
  }

  /** Stops discovery and closes every device in order: intake, drain, unbind, unmap. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await Promise.all(this.#watches.map((watch) => watch.close()));
    await Promise.all(this.devices.map((device) => device.close()));
    this.#devices.clear();
  }

  #root(driver: BackendDriver): string {
    return `${homePath(this.#options.platform.identity.domid)}/backend/${driver.deviceClass}`;
  }

  #look(driver: BackendDriver, root: string, path: string): void {
    if (this.#closing !== undefined) return;
    const [domidText, devidText] = path.slice(root.length + 1).split('/');
    if (domidText !== undefined && devidText !== undefined) {
      this.#lookAt(driver, root, domidText, devidText);
      return;
    }
    // An event for the root or for a domain's directory: something below may have come or gone.
    this.#lookAtAll();
    void this.#scan(driver, root, domidText).catch((error) =>
      this.#options.platform.runtime.observe?.('xenbus.scan-failed', { path, error }),
    );
  }

  #lookAtAll(): void {
    for (const device of this.#devices.values()) device.look();
  }

  async #scan(driver: BackendDriver, root: string, only: string | undefined): Promise<void> {
    const { client } = this.#options;
    const domids = only === undefined || only === '' ? ((await client.directoryOptional(root)) ?? []) : [only];
    for (const domidText of domids) {
      const devids = (await client.directoryOptional(`${root}/${domidText}`)) ?? [];
      for (const devidText of devids) this.#lookAt(driver, root, domidText, devidText);
    }
  }

  #lookAt(driver: BackendDriver, root: string, domidText: string, devidText: string): void {
    if (this.#closing !== undefined) return;
    const path = `${root}/${domidText}/${devidText}`;
    let device = this.#devices.get(path);
    if (device === undefined) {
      const domid = parseDecimal(domidText, 0, DOMID_FIRST_RESERVED - 1);
      const devid = parseDecimal(devidText, 0, DEVID_MAX);
      if (domid === undefined || devid === undefined || !isDomid(domid)) return;
      const { client, platform, identify } = this.#options;
      const frontend = identify?.(domid) ?? { instance: platform.identity.instance, domid, generation: 0 };
      const context = { client, platform, path, deviceClass: driver.deviceClass, frontend, devid };
      device = new BackendDevice(driver, context, (again) => {
        this.#devices.delete(path);
        if (again) this.#lookAt(driver, root, domidText, devidText);
      });
      this.#devices.set(path, device);
    }
    device.look();
  }
}
