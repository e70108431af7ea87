/** The block backend: opens the disk that the toolstack's nodes name and serves it to one frontend. */
import { type EventPort, type MappedPages, type Platform, ProtocolError } from '@pvkit/ring';
import {
  type BackendDeviceContext,
  type BackendDriver,
  type BackendInstance,
  type Nodes,
  vbdBackendLifeCycle,
} from '@pvkit/xenbus';
import { BackendQueue } from './backend-queue.ts';
import { BufferPool } from './buffer-pool.ts';
import type { BlockDevice } from './device.ts';
import {
  BACKEND_REQUEST_KEYS,
  type BackendRequest,
  FRONTEND_RING_KEYS,
  formatBackendProperties,
  parseBackendRequest,
  parseFrontendRing,
} from './keys.ts';
import { SECTOR_SIZE } from './protocol.ts';

/** Opens the host device for a request of the toolstack. @throws an error of the family, for the log and the error node. */
export type OpenBlockDevice = (request: BackendRequest, context: BackendDeviceContext) => Promise<BlockDevice>;

/** Refusals are logged one by one up to this many a connection, then counted only: a guest must not fill a log. */
const REFUSALS_LOGGED = 10;

/** Serves the class `vbd` with host devices from `open`. */
export function blockBackendDriver(open: OpenBlockDevice): BackendDriver {
  const pools = new WeakMap<Platform, BufferPool>();
  return {
    deviceClass: 'vbd',
    lifeCycle: vbdBackendLifeCycle,
    create(context) {
      let buffers = pools.get(context.platform);
      if (buffers === undefined) {
        buffers = new BufferPool(context.platform.grants);
        pools.set(context.platform, buffers);
      }
      return new BlockBackend(context, open, buffers);
    },
  };
}

class BlockBackend implements BackendInstance {
  readonly ownKeys = BACKEND_REQUEST_KEYS;
  readonly frontendKeys = FRONTEND_RING_KEYS;
  readonly #context: BackendDeviceContext;
  readonly #openDevice: OpenBlockDevice;
  readonly #buffers: BufferPool;
  #target = '';
  #device: BlockDevice | undefined;
  #ring: MappedPages | undefined;
  #port: EventPort | undefined;
  #queue: BackendQueue | undefined;

  constructor(context: BackendDeviceContext, open: OpenBlockDevice, buffers: BufferPool) {
    this.#context = context;
    this.#openDevice = open;
    this.#buffers = buffers;
  }

  async open(own: Nodes): Promise<Record<string, string>> {
    const request = parseBackendRequest(own);
    this.#target = request.target;
    this.#device = await this.#openDevice(request, this.#context);
    return {};
  }

  connect(frontend: Nodes, failed: (reason: Error) => void): Promise<Record<string, string>> {
    const { platform, frontend: peer } = this.#context;
    const device = this.#device;
    if (device === undefined) throw new ProtocolError('the disk is not open');
    const { ringReference, eventChannel } = parseFrontendRing(frontend);
    this.#ring = platform.grants.map(peer.domid, [ringReference], 'read-write');
    this.#port = platform.events.bindInterdomain(peer.domid, eventChannel);
    let refusals = 0;
    this.#queue = new BackendQueue({
      platform,
      frontend: peer.domid,
      device,
      buffers: this.#buffers,
      ring: this.#ring,
      port: this.#port,
      failed,
      refused: (reason) => {
        refusals++;
        if (refusals <= REFUSALS_LOGGED) this.#observeRefusal(reason, refusals === REFUSALS_LOGGED);
      },
    });
    return Promise.resolve(formatBackendProperties(device.geometry));
  }

  async disconnect(): Promise<void> {
    const { events } = this.#context.platform;
    await this.#queue?.close();
    this.#queue = undefined;
    const port = this.#port;
    const ring = this.#ring;
    this.#port = undefined;
    this.#ring = undefined;
    try {
      if (port !== undefined) events.close(port);
    } finally {
      ring?.unmap();
    }
  }

  async close(): Promise<void> {
    await this.#device?.close();
    this.#device = undefined;
  }

  status(): Record<string, number | string> {
    const bytes = (this.#device?.geometry.sectors ?? 0) * SECTOR_SIZE;
    return { target: this.#target, bytes, ...this.#queue?.counters, in_flight: this.#queue?.inFlight ?? 0 };
  }

  #observeRefusal(reason: string, last: boolean): void {
    const { platform, frontend, deviceClass, devid } = this.#context;
    platform.runtime.observe?.('blkback.request-refused', {
      instance: frontend.instance,
      domid: frontend.domid,
      device: `${deviceClass}/${devid}`,
      reason,
      ...(last ? { note: 'further refusals of this connection are only counted' } : {}),
    });
  }
}
