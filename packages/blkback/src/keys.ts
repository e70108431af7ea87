/** The xenstore nodes of the block class (`xen/include/public/io/blkif.h`), as records. Pure. */
import {
  EVTCHN_NR_CHANNELS,
  type EventPort,
  eventPort,
  type GrantReference,
  grantReference,
  PAGE_SIZE,
  ProtocolError,
} from '@pvkit/ring';
import { flag, type Nodes, optionalDecimal, quote, requireDecimal } from '@pvkit/xenbus';
import type { BlockGeometry } from './device.ts';
import { VDISK_READONLY, XEN_IO_PROTO_ABI_ARM, XEN_IO_PROTO_ABI_X86_64 } from './protocol.ts';

/** What a frontend publishes with Initialised. */
export interface FrontendRing {
  readonly ringReference: GrantReference;
  readonly eventChannel: EventPort;
}

export const FRONTEND_RING_KEYS = [
  'ring-ref',
  'ring-page-order',
  'event-channel',
  'protocol',
  'multi-queue-num-queues',
];

/** @throws ProtocolError for a missing or malformed node, or one that asks for what the backend does not offer. */
export function parseFrontendRing(nodes: Nodes): FrontendRing {
  const { protocol } = nodes;
  if (protocol !== undefined && protocol !== XEN_IO_PROTO_ABI_X86_64 && protocol !== XEN_IO_PROTO_ABI_ARM)
    throw new ProtocolError(`ring layout '${quote(protocol)}' is not served (${XEN_IO_PROTO_ABI_X86_64} is)`);
  if (
    optionalDecimal(nodes, 'ring-page-order', 0, 0, 0) !== 0 ||
    optionalDecimal(nodes, 'multi-queue-num-queues', 1, 1, 1) !== 1
  )
    throw new ProtocolError('the frontend asks for a ring that was not offered');
  return {
    // Reference 0 is reserved: every peer takes it for a missing one.
    ringReference: grantReference(requireDecimal(nodes, 'ring-ref', 1, 0xffff_ffff)),
    eventChannel: eventPort(requireDecimal(nodes, 'event-channel', 1, EVTCHN_NR_CHANNELS - 1)),
  };
}

export function formatFrontendRing({ ringReference, eventChannel }: FrontendRing): Record<string, string> {
  return {
    'ring-ref': String(ringReference),
    'event-channel': String(eventChannel),
    protocol: XEN_IO_PROTO_ABI_X86_64,
  };
}

export const BACKEND_PROPERTY_KEYS = ['sectors', 'sector-size', 'physical-sector-size', 'info', 'feature-flush-cache'];

/** A disk is not larger than what 53 bits of sectors hold: 4 ZiB. */
const SECTORS_MAX = Number.MAX_SAFE_INTEGER;
/** A larger logical sector would not fit a page, and so not a request of whole pages. */
const SECTOR_SIZE_MAX = PAGE_SIZE;
const PHYSICAL_SECTOR_SIZE_MAX = 65_536;

/** What the backend publishes with Connected. @throws ProtocolError for unusable properties. */
export function parseBackendProperties(nodes: Nodes): BlockGeometry {
  const sectorSize = requireDecimal(nodes, 'sector-size', 512, SECTOR_SIZE_MAX);
  if (!isPowerOfTwo(sectorSize)) throw new ProtocolError(`node 'sector-size' is ${sectorSize}, not a power of two`);
  const physicalSectorSize = optionalDecimal(nodes, 'physical-sector-size', 512, PHYSICAL_SECTOR_SIZE_MAX, sectorSize);
  return {
    sectors: requireDecimal(nodes, 'sectors', 0, SECTORS_MAX),
    sectorSize,
    physicalSectorSize: physicalSectorSize % sectorSize === 0 ? physicalSectorSize : sectorSize,
    readOnly: (requireDecimal(nodes, 'info', 0, 0xffff_ffff) & VDISK_READONLY) !== 0,
    flushable: flag(nodes, 'feature-flush-cache'),
  };
}

export function formatBackendProperties(geometry: BlockGeometry): Record<string, string> {
  return {
    sectors: String(geometry.sectors),
    'sector-size': String(geometry.sectorSize),
    'physical-sector-size': String(geometry.physicalSectorSize),
    info: String(geometry.readOnly ? VDISK_READONLY : 0),
    'feature-flush-cache': geometry.flushable ? '1' : '0',
  };
}

const isPowerOfTwo = (value: number): boolean => (value & (value - 1)) === 0;

/** The toolstack's nodes of the backend directory that say what to serve. */
export interface BackendRequest {
  /** Path of the image or device: `params`. */
  readonly target: string;
  readonly readOnly: boolean;
}

export const BACKEND_REQUEST_KEYS = ['params', 'mode'];

/** @throws ProtocolError when the toolstack's nodes do not say what to serve. */
export function parseBackendRequest(nodes: Nodes): BackendRequest {
  const { params, mode } = nodes;
  if (params === undefined || params === '') throw new ProtocolError("node 'params' names no image");
  if (mode !== undefined && mode !== 'r' && mode !== 'w')
    throw new ProtocolError(`node 'mode' is '${quote(mode)}', neither r nor w`);
  return { target: params, readOnly: mode === 'r' };
}
