/** For tests: a device class whose backend only records what is asked of it. */
import type { BackendDeviceContext, BackendDriver, BackendInstance } from '../backend-device.ts';
import type { Nodes } from '../keys.ts';
import { vbdBackendLifeCycle } from '../life-cycle.ts';

export class FakeInstance implements BackendInstance {
  readonly ownKeys = ['params'];
  readonly frontendKeys = ['ring-ref', 'queue-0/ring-ref'];
  readonly context: BackendDeviceContext;
  readonly #driver: FakeDriver;
  opened = false;
  connected = false;
  /** Ends the connection, as a ring that can't be believed does. */
  fail: (reason: Error) => void = () => {};

  constructor(context: BackendDeviceContext, driver: FakeDriver) {
    this.context = context;
    this.#driver = driver;
  }

  open(own: Nodes): Promise<Record<string, string>> {
    this.#driver.record('open', own);
    if (this.#driver.openFailure !== undefined) throw this.#driver.openFailure;
    if (this.opened) this.#driver.faults.push('open when open');
    this.opened = true;
    return Promise.resolve({ 'feature-x': '1' });
  }

  connect(frontend: Nodes, failed: (reason: Error) => void): Promise<Record<string, string>> {
    this.#driver.record('connect', frontend);
    if (!this.opened) this.#driver.faults.push('connect when not open');
    if (this.connected) this.#driver.faults.push('connect when connected');
    if (this.#driver.connectFailure !== undefined) throw this.#driver.connectFailure;
    this.connected = true;
    this.fail = failed;
    return Promise.resolve({ property: '2' });
  }

  async disconnect(): Promise<void> {
    if (!this.connected) return;
    this.#driver.record('disconnect', {});
    await this.#driver.draining;
    this.connected = false;
  }

  close(): Promise<void> {
    if (this.connected) this.#driver.faults.push('close when connected');
    if (this.opened) this.#driver.record('close', {});
    this.opened = false;
    return Promise.resolve();
  }

  status(): Record<string, number> {
    return { connected: this.connected ? 1 : 0 };
  }
}

export class FakeDriver implements BackendDriver {
  readonly deviceClass: string;
  readonly lifeCycle = vbdBackendLifeCycle;
  readonly instances: FakeInstance[] = [];
  /** Calls of all instances, in order: a name and the nodes that came with it. */
  readonly calls: [string, Nodes][] = [];
  /** What the bus did against the rules. */
  readonly faults: string[] = [];
  openFailure: Error | undefined;
  connectFailure: Error | undefined;
  /** What a disconnect waits for. */
  draining: Promise<void> | undefined;

  constructor(deviceClass = 'vtest') {
    this.deviceClass = deviceClass;
  }

  create(context: BackendDeviceContext): FakeInstance {
    const instance = new FakeInstance(context, this);
    this.instances.push(instance);
    return instance;
  }

  record(name: string, nodes: Nodes): void {
    this.calls.push([name, nodes]);
  }

  get names(): string[] {
    return this.calls.map(([name]) => name);
  }

  /** Instances that hold something. */
  get holding(): FakeInstance[] {
    return this.instances.filter(({ opened, connected }) => opened || connected);
  }
}
