/** The block frontend: a {@link BlockDevice} whose disk is behind a ring. Free of `node:` modules. */
import { ErrnoError, type Platform } from '@pvkit/ring';
import {
  FrontendDevice,
  type FrontendDeviceContext,
  type FrontendInstance,
  type Nodes,
  vbdFrontendLifeCycle,
} from '@pvkit/xenbus';
import type { XenstoreClient } from '@pvkit/xenstore';
import { type BlockDevice, type BlockGeometry, checkRequest, type IoVector } from './device.ts';
import { FrontendQueue } from './frontend-queue.ts';
import { BACKEND_PROPERTY_KEYS, formatFrontendRing, parseBackendProperties } from './keys.ts';

export class BlockFrontend implements BlockDevice {
  readonly #instance: Instance;
  readonly #device: FrontendDevice;

  private constructor(instance: Instance, device: FrontendDevice) {
    this.#instance = instance;
    this.#device = device;
  }

  /**
   * Connects to the disk whose frontend directory is `path`, for example `device/vbd/51712`.
   * @throws ConfigurationError when there is none; ErrnoError `ENODEV` when the backend closes instead of connecting.
   */
  static async connect(client: XenstoreClient, platform: Platform, path: string): Promise<BlockFrontend> {
    const made: { instance?: Instance } = {};
    const device = await FrontendDevice.connect({ client, platform, path }, vbdFrontendLifeCycle, (context) => {
      made.instance = new Instance(context);
      return made.instance;
    });
    return new BlockFrontend(made.instance!, device);
  }

  get geometry(): BlockGeometry {
    return this.#instance.geometry;
  }

  /** Resolves when the device has closed, whoever closed it. */
  get closed(): Promise<void> {
    return this.#device.closed;
  }

  readv(sector: number, vector: IoVector): Promise<void> {
    return this.#transfer(sector, vector, false);
  }

  writev(sector: number, vector: IoVector): Promise<void> {
    return this.#transfer(sector, vector, true);
  }

  flush(): Promise<void> | undefined {
    const queue = this.#instance.usableQueue();
    return this.geometry.flushable ? queue.flush() : undefined;
  }

  /**
   * A buffer whose transfers need no copy where the platform allows that, else an ordinary one. It may begin and end at
   * any sector of it. Unsafe: the backend may change its content at any moment, and it must not be touched once the
   * device has closed.
   */
  unsafeAllocateBuffer(byteLength: number): Uint8Array {
    return this.#instance.usableQueue().unsafeAllocateBuffer(byteLength) ?? new Uint8Array(byteLength);
  }

  close(): Promise<void> {
    return this.#device.close();
  }

  #transfer(sector: number, vector: IoVector, write: boolean): Promise<void> {
    const queue = this.#instance.usableQueue();
    checkRequest(this.geometry, sector, vector.byteLength);
    if (!write) return queue.read(sector, vector);
    if (this.geometry.readOnly) throw new ErrnoError('EROFS', `write at sector ${sector}`, this.#instance.where);
    return queue.write(sector, vector);
  }
}

class Instance implements FrontendInstance {
  readonly featureKeys = [];
  readonly propertyKeys = BACKEND_PROPERTY_KEYS;
  readonly where;
  geometry: BlockGeometry = { sectors: 0, sectorSize: 512, physicalSectorSize: 512, readOnly: true, flushable: false };
  readonly #context: FrontendDeviceContext;
  #queue: FrontendQueue | undefined;

  constructor(context: FrontendDeviceContext) {
    this.#context = context;
    const { instance, domid } = context.platform.identity;
    this.where = { instance, domid, device: context.path };
  }

  usableQueue(): FrontendQueue {
    if (this.#queue === undefined) throw new ErrnoError('ESHUTDOWN', 'the device is closed', this.where);
    return this.#queue;
  }

  publish(_backend: Nodes, failed: (reason: Error) => void): Record<string, string> {
    const { platform, backend } = this.#context;
    const queue = new FrontendQueue({ platform, backend, context: this.where, failed });
    this.#queue = queue;
    return formatFrontendRing({ ringReference: queue.ringReference, eventChannel: queue.port });
  }

  connect(backend: Nodes): void {
    this.geometry = parseBackendProperties(backend);
  }

  disconnect(reason: Error): void {
    this.#queue?.close(reason);
    this.#queue = undefined;
  }
}
