/** One frontend device: looks at its nodes and its backend's and does what the life cycle says. Free of `node:` modules. */
import { ConfigurationError, DOMID_FIRST_RESERVED, type Domid, ErrnoError, isDomid, type Platform } from '@pvkit/ring';
import type { WatchHandle, XenstoreClient } from '@pvkit/xenstore';
import { DeviceNodes } from './device-nodes.ts';
import { type Nodes, requireDecimal } from './keys.ts';
import { type FrontendLifeCycle, frontendAction } from './life-cycle.ts';
import { Reconciler } from './reconciler.ts';
import { stateName, XenbusState } from './state.ts';
import { waitUntil } from './toolstack.ts';

/** How long a backend may take to leave a predecessor's connection: as long as libxl waits for it. */
const BEGIN_ANEW_MS = 10_000;

export interface FrontendDeviceContext {
  readonly client: XenstoreClient;
  readonly platform: Platform;
  /** Path of our directory, absolute or relative to the domain's home, for example `device/vbd/51712`. */
  readonly path: string;
  readonly backend: Domid;
}

/** A device class's part of a frontend. Its methods are called one at a time. */
export interface FrontendInstance {
  /** Nodes of the backend's directory that {@link publish} wants. */
  readonly featureKeys: readonly string[];
  /** Nodes of the backend's directory that {@link connect} wants. */
  readonly propertyKeys: readonly string[];
  /** Sets up the rings; returns the nodes to publish. `failed` ends the connection. */
  publish(backend: Nodes, failed: (reason: Error) => void): Readonly<Record<string, string>>;
  /** Takes over the device's properties: the device is usable, or has changed. @throws ProtocolError for unusable ones. */
  connect(backend: Nodes): void;
  /** Fails what is under way and lets go of rings and pages. Idempotent. */
  disconnect(reason: Error): void;
}

export class FrontendDevice {
  readonly context: FrontendDeviceContext;
  readonly #cycle: FrontendLifeCycle;
  readonly #instance: FrontendInstance;
  readonly #own: DeviceNodes;
  readonly #backend: DeviceNodes;
  readonly #reconciler: Reconciler;
  readonly #watches: WatchHandle[] = [];
  #published = false;
  #failure: Error | undefined;
  #settle: { resolve: () => void; reject: (error: Error) => void } | undefined;
  readonly #closedPromise: Promise<void>;
  #resolveClosed: () => void = () => {};

  private constructor(
    context: FrontendDeviceContext,
    backendPath: string,
    cycle: FrontendLifeCycle,
    instance: FrontendInstance,
  ) {
    this.context = context;
    this.#cycle = cycle;
    this.#instance = instance;
    this.#own = new DeviceNodes(context.client, context.path);
    this.#backend = new DeviceNodes(context.client, backendPath);
    this.#reconciler = new Reconciler(
      () => this.#reconcile(),
      (error) => this.#stepFailed(error instanceof Error ? error : new Error(String(error))),
    );
    this.#closedPromise = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
  }

  /**
   * Finds the backend in our directory, connects to it and resolves once the device is usable.
   * @throws ConfigurationError when there is no such device; ProtocolError for one whose `backend-id` is no number;
   * ErrnoError `ENODEV` when it closes instead of connecting, `ETIMEDOUT` when it keeps a predecessor's connection.
   */
  static async connect(
    { client, platform, path }: { client: XenstoreClient; platform: Platform; path: string },
    cycle: FrontendLifeCycle,
    create: (context: FrontendDeviceContext) => FrontendInstance,
  ): Promise<FrontendDevice> {
    const nodes = await new DeviceNodes(client, path).read(['backend', 'backend-id', 'state']);
    if (nodes.backend === undefined || nodes.state === undefined)
      throw new ConfigurationError(`there is no device at '${path}' of this domain`, platform.identity);
    const backend = requireDecimal(nodes, 'backend-id', 0, DOMID_FIRST_RESERVED - 1);
    if (!isDomid(backend)) throw new ConfigurationError(`backend-id ${backend} of '${path}' is no domain`);
    const context = { client, platform, path, backend };
    const device = new FrontendDevice(context, nodes.backend, cycle, create(context));
    try {
      await device.#open(nodes.backend);
    } catch (error) {
      await device.close();
      throw error;
    }
    return device;
  }

  /** Resolves when the device has closed, whoever closed it. */
  get closed(): Promise<void> {
    return this.#closedPromise;
  }

  async #open(backendPath: string): Promise<void> {
    const usable = new Promise<void>((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    usable.catch(() => undefined); // reported by the await below, or by the watch that failed first
    const { client, path } = this.context;
    const own = await this.#own.ownState();
    if (own !== undefined && own !== XenbusState.Initialising) await this.#beginAnew(backendPath);
    this.#watches.push(await client.watchCallback(`${backendPath}/state`, this.#reconciler.look));
    this.#watches.push(await client.watchCallback(`${path}/state`, this.#reconciler.look));
    await usable;
  }

  /** Closes what a predecessor left, so that the backend lets go of its rings before ours are published. */
  async #beginAnew(backendPath: string): Promise<void> {
    const { client, platform } = this.context;
    const until = async (what: string, holds: (peer: XenbusState) => boolean) => {
      const options = { timeoutMs: BEGIN_ANEW_MS, timer: platform.runtime.timer };
      const condition = async () => holds(await this.#backend.peerState());
      if (!(await waitUntil(client, `${backendPath}/state`, options, condition)))
        throw new ErrnoError('ETIMEDOUT', `waiting for the backend to ${what}`, this.#where());
    };
    await this.#own.publish(XenbusState.Closed);
    await until('close', (peer) => peer === XenbusState.Closed || peer === XenbusState.Unknown);
    await this.#own.publish(XenbusState.Initialising);
    await until('begin anew', (peer) => peer !== XenbusState.Closed);
  }

  /** Closes from our side: Closing, tear down, Closed. Idempotent. */
  async close(): Promise<void> {
    await this.#reconciler.stop();
    await Promise.all(this.#watches.splice(0).map((watch) => watch.close()));
    if (this.#published) {
      await this.#own.publish(XenbusState.Closing).catch(() => false);
      this.#disconnect(new ErrnoError('ESHUTDOWN', 'the device was closed', this.#where()));
      await this.#own.publish(XenbusState.Closed).catch(() => false);
    }
    this.#ended(new ErrnoError('ESHUTDOWN', 'the device was closed', this.#where()));
  }

  async #reconcile(): Promise<void> {
    while (!this.#reconciler.stopped) {
      const [own, peer] = await Promise.all([this.#own.ownState(), this.#backend.peerState()]);
      const view = { own, peer, published: this.#published, failed: this.#failure !== undefined };
      const action = frontendAction(view, this.#cycle);
      if (action !== 'wait')
        this.context.platform.runtime.observe?.('xenbus.frontend-action', {
          ...this.#where(),
          action,
          own: own === undefined ? 'gone' : stateName(own),
          peer: stateName(peer),
        });
      switch (action) {
        case 'wait':
          return;
        case 'publish': {
          const features = await this.#backend.read(this.#instance.featureKeys);
          const nodes = this.#instance.publish(features, (reason) => this.#fail(reason));
          this.#published = true;
          await this.#own.publish(this.#cycle.publishedState, nodes);
          break;
        }
        case 'connect':
          this.#instance.connect(await this.#backend.read(this.#instance.propertyKeys));
          await this.#own.publish(XenbusState.Connected);
          this.#settle?.resolve();
          break;
        case 'refresh':
          this.#instance.connect(await this.#backend.read(this.#instance.propertyKeys));
          this.#settle?.resolve();
          return;
        case 'close': {
          const reason = this.#failure ?? new ErrnoError('ENODEV', 'the backend closed the device', this.#where());
          this.#disconnect(reason);
          await this.#own.publish(XenbusState.Closed);
          this.#ended(reason);
          break;
        }
        case 'forget':
          this.#disconnect(new ErrnoError('ENODEV', 'the device was removed', this.#where()));
          this.#ended(new ErrnoError('ENODEV', 'the device was removed', this.#where()));
          return;
      }
    }
  }

  /** A step that fails while it closes because of a failure can't do better: the store itself is out of reach. */
  #stepFailed(error: Error): void {
    if (this.#failure === undefined) {
      this.#fail(error);
      return;
    }
    this.#disconnect(this.#failure);
    this.#ended(this.#failure);
  }

  #fail(reason: Error): void {
    if (this.#failure !== undefined) return;
    this.#failure = reason;
    this.context.platform.runtime.observe?.('xenbus.frontend-failed', { ...this.#where(), error: reason });
    this.#reconciler.look();
  }

  #disconnect(reason: Error): void {
    this.#instance.disconnect(reason);
    this.#published = false;
  }

  #ended(reason: Error): void {
    this.#settle?.reject(reason);
    this.#resolveClosed();
  }

  #where() {
    const { instance, domid } = this.context.platform.identity;
    return { instance, domid, device: this.context.path };
  }
}
