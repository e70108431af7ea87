/** One backend device: looks at its nodes, its frontend's and does what the life cycle says. */
import type { DomainIdentity, Platform } from '@pvkit/ring';
import { PvError } from '@pvkit/ring';
import type { WatchHandle, XenstoreClient } from '@pvkit/xenstore';
import { DeviceNodes } from './device-nodes.ts';
import { type Nodes, quote } from './keys.ts';
import { type BackendLifeCycle, backendAction } from './life-cycle.ts';
import { Reconciler } from './reconciler.ts';
import { stateName, XenbusState } from './state.ts';
import { homePath } from './toolstack.ts';

/** Where a backend device stands and what it may use. */
export interface BackendDeviceContext {
  readonly client: XenstoreClient;
  readonly platform: Platform;
  /** Absolute path of our directory, `/local/domain/<us>/backend/<class>/<domid>/<devid>`. */
  readonly path: string;
  readonly deviceClass: string;
  /** From our own path, never from what the frontend wrote. */
  readonly frontend: DomainIdentity;
  readonly devid: number;
}

/** A device class's part of a backend. Its methods are called one at a time. */
export interface BackendInstance {
  /** Nodes of our directory that {@link open} wants. */
  readonly ownKeys: readonly string[];
  /** Nodes of the frontend's directory that {@link connect} wants, `queue-0/ring-ref` and the like included. */
  readonly frontendKeys: readonly string[];
  /** Opens the host device; returns the features to publish with InitWait. */
  open(own: Nodes): Promise<Readonly<Record<string, string>>>;
  /**
   * Sets up our end of the rings; returns the properties to publish with Connected. `failed` ends the connection.
   * @throws when what the frontend published can't be used; nothing is then held.
   */
  connect(frontend: Nodes, failed: (reason: Error) => void): Promise<Readonly<Record<string, string>>>;
  /** Waits for what is under way and lets go of the rings. Idempotent; also after a connect that failed. */
  disconnect(): Promise<void>;
  /** Lets go of the host device. Idempotent. */
  close(): Promise<void>;
  /** One line of figures, for status displays. */
  status(): Readonly<Record<string, number | string>>;
}

export interface BackendDriver {
  /** Name of the class's directory, for example `vbd`. */
  readonly deviceClass: string;
  readonly lifeCycle: BackendLifeCycle;
  create(context: BackendDeviceContext): BackendInstance;
}

/** Linux's `EINVAL`, the number that `xenbus_dev_fatal` reports for a peer's nonsense. */
const EINVAL = 22;

export class BackendDevice {
  readonly context: BackendDeviceContext;
  readonly #driver: BackendDriver;
  readonly #instance: BackendInstance;
  readonly #own: DeviceNodes;
  readonly #reconciler: Reconciler;
  readonly #gone: (again: boolean) => void;
  #frontendPath: string | undefined;
  #frontendWatch: WatchHandle | undefined;
  #state: XenbusState | undefined;
  #opened = false;
  #connected = false;
  #failure: Error | undefined;

  /**
   * `gone` is called once our directory has disappeared and everything is let go; `again` when something happened there
   * meanwhile, so that it may be back, as another device.
   */
  constructor(driver: BackendDriver, context: BackendDeviceContext, gone: (again: boolean) => void) {
    this.context = context;
    this.#driver = driver;
    this.#instance = driver.create(context);
    this.#own = new DeviceNodes(context.client, context.path);
    this.#gone = gone;
    this.#reconciler = new Reconciler(
      () => this.#reconcile(),
      (error) => this.#observe('reconcile-failed', { error }),
    );
  }

  get state(): XenbusState | undefined {
    return this.#state;
  }

  get name(): string {
    return `${this.context.deviceClass}/${this.context.devid}`;
  }

  status(): Readonly<Record<string, number | string>> {
    return this.#instance.status();
  }

  /** Something about this device may have changed. */
  look(): void {
    this.#reconciler.look();
  }

  /**
   * Ends serving: tells a connected frontend by going to Closing and Closed, lets go of everything. The directory stays,
   * for the toolstack to remove or a successor to serve.
   */
  async close(): Promise<void> {
    await this.#reconciler.stop();
    const wasConnected = this.#connected;
    // A store that is gone must not keep us from letting go.
    if (wasConnected) await this.#switch(XenbusState.Closing).catch(() => undefined);
    await this.#release();
    if (wasConnected) await this.#switch(XenbusState.Closed).catch(() => undefined);
    await this.#unwatch();
  }

  async #reconcile(): Promise<void> {
    while (!this.#reconciler.stopped) {
      const own = await this.#own.ownState();
      this.#state = own;
      const nodes = own === undefined ? {} : await this.#own.read(['frontend', 'online']);
      await this.#watchFrontend(nodes.frontend);
      const peer = await this.#peerState();
      const action = backendAction(
        {
          own,
          peer,
          online: nodes.online !== '0',
          opened: this.#opened,
          connected: this.#connected,
          failed: this.#failure !== undefined,
        },
        this.#driver.lifeCycle,
      );
      if (action !== 'wait')
        this.#observe('action', { action, own: own === undefined ? 'gone' : stateName(own), peer: stateName(peer) });
      switch (action) {
        case 'wait':
          return;
        case 'initialise':
          if (!(await this.#initialise())) return;
          break;
        case 'connect':
          await this.#connect();
          break;
        case 'announce-close':
          await this.#switch(XenbusState.Closing);
          break;
        case 'close':
          await this.#release();
          await this.#switch(XenbusState.Closed);
          break;
        case 'restart':
          await this.#instance.disconnect();
          this.#connected = false;
          await this.#switch(XenbusState.InitWait);
          break;
        case 'forget':
          await this.#release();
          await this.#unwatch();
          void this.#reconciler.stop();
          this.#gone(this.#reconciler.asked);
          return;
      }
    }
  }

  /** The frontend's state; a domain that is gone has none, whatever its nodes still say. */
  async #peerState(): Promise<XenbusState> {
    const { client, frontend } = this.context;
    if (this.#frontendPath === undefined) return XenbusState.Unknown;
    const [state, alive] = await Promise.all([
      new DeviceNodes(client, this.#frontendPath).peerState(),
      client.isDomainIntroduced(frontend.domid),
    ]);
    return alive ? state : XenbusState.Unknown;
  }

  /** False when the device can't be opened: it waits in its state, with an error node, for its nodes to change. */
  async #initialise(): Promise<boolean> {
    await this.#release();
    this.#failure = undefined;
    try {
      const features = await this.#instance.open(await this.#own.read(this.#instance.ownKeys));
      this.#opened = true;
      await this.#own.clearError(this.#home());
      await this.#own.publish(XenbusState.InitWait, features);
      return true;
    } catch (error) {
      await this.#instance.close();
      this.#opened = false;
      await this.#report('open-failed', error);
      return false;
    }
  }

  async #connect(): Promise<void> {
    const frontend = new DeviceNodes(this.context.client, this.#frontendPath!);
    try {
      const nodes = await frontend.read(this.#instance.frontendKeys);
      const properties = await this.#instance.connect(nodes, (reason) => this.#fail(reason));
      this.#connected = true;
      await this.#own.publish(XenbusState.Connected, properties);
    } catch (error) {
      await this.#instance.disconnect();
      this.#connected = false;
      this.#failure = error instanceof Error ? error : new Error(String(error));
      await this.#report('connect-failed', error);
    }
  }

  /** The connection can't go on; called by the instance at any time. */
  #fail(reason: Error): void {
    if (this.#failure !== undefined) return;
    this.#failure = reason;
    void this.#report('disconnected', reason).finally(() => this.#reconciler.look());
  }

  async #release(): Promise<void> {
    await this.#instance.disconnect();
    this.#connected = false;
    await this.#instance.close();
    this.#opened = false;
  }

  async #switch(state: XenbusState): Promise<void> {
    if (await this.#own.publish(state)) this.#state = state;
  }

  /** Watches the frontend that our own directory names; libxl writes it, below the home of the domain in our path. */
  async #watchFrontend(path: string | undefined): Promise<void> {
    if (path === this.#frontendPath || path === undefined) return;
    await this.#unwatch();
    this.#frontendPath = undefined;
    if (!path.startsWith(`${homePath(this.context.frontend.domid)}/`)) {
      this.#observe('foreign-frontend', { path: quote(path) });
      return;
    }
    this.#frontendWatch = await this.context.client.watchCallback(`${path}/state`, () => this.look());
    this.#frontendPath = path;
  }

  async #unwatch(): Promise<void> {
    await this.#frontendWatch?.close();
    this.#frontendWatch = undefined;
  }

  async #report(event: string, error: unknown): Promise<void> {
    const message = error instanceof Error ? error.message : String(error);
    this.#observe(event, { error, reason: message });
    const text = error instanceof PvError ? message : `internal error: ${message}`;
    await this.#own.writeError(this.#home(), EINVAL, text).catch(() => undefined);
  }

  #home(): string {
    return homePath(this.context.platform.identity.domid);
  }

  #observe(event: string, facts: Record<string, unknown>): void {
    const { platform, frontend } = this.context;
    platform.runtime.observe?.(`xenbus.backend-${event}`, {
      instance: frontend.instance,
      domid: frontend.domid,
      device: this.name,
      ...facts,
    });
  }
}
