/** Disks as `xl` users write them (xl-disk-configuration(5)), and the device that a toolstack makes of one. Pure. */
import { ConfigurationError, type Domid } from '@pvkit/ring';
import type { DeviceDescription } from '@pvkit/xenbus';

export interface DiskSpec {
  /** The image's path, as written. */
  readonly target: string;
  /** Virtual device as the guest names it, for example `xvda`. */
  readonly vdev: string;
  readonly devid: number;
  readonly readOnly: boolean;
}

const POSITIONAL = ['target', 'format', 'vdev', 'access'] as const;

/** Keys of the syntax that pvkit has no use for: to take them and ignore them would promise what does not happen. */
const KNOWN_ELSEWHERE = [
  'backend',
  'backend-domain',
  'backend-type',
  'backendtype',
  'cdrom',
  'devtype',
  'script',
  'direct-io-safe',
  'discard',
  'no-discard',
  'colo',
  'specification',
  'transport',
];

/**
 * Reads `format=raw,vdev=xvda,access=rw,target=/path` or the positional `/path,raw,xvda,rw`. `target=` takes the rest of
 * the text, commas included.
 * @throws ConfigurationError naming the text and what is wrong with it.
 */
export function parseDiskSpec(text: string): DiskSpec {
  const fail = (reason: string) => new ConfigurationError(`disk '${text}': ${reason}`);
  const fields = new Map<string, string>();
  let positional = 0;
  let rest = text.trim();
  while (rest !== '') {
    const comma = rest.startsWith('target=') ? -1 : rest.indexOf(',');
    const part = (comma === -1 ? rest : rest.slice(0, comma)).trim();
    rest = comma === -1 ? '' : rest.slice(comma + 1).trimStart();
    const named = /^([a-z-]+)=(.*)$/s.exec(part);
    const key = named?.[1] ?? POSITIONAL[positional++];
    if (key === undefined) throw fail(`'${part}' is one part too many`);
    if (KNOWN_ELSEWHERE.includes(key) || (named === null && KNOWN_ELSEWHERE.includes(part)))
      throw fail(`'${part}' is not served by pvkit`);
    if (!(POSITIONAL as readonly string[]).includes(key)) throw fail(`'${key}' is not a disk option`);
    if (fields.has(key)) throw fail(`'${key}' is given twice`);
    fields.set(key, named?.[2] ?? part);
  }
  const target = fields.get('target');
  if (target === undefined || target === '') throw fail("'target' is missing");
  const format = fields.get('format') ?? 'raw';
  if (format !== 'raw' && format !== '') throw fail(`format '${format}' is not served (raw is)`);
  const vdev = fields.get('vdev');
  if (vdev === undefined || vdev === '') throw fail("'vdev' is missing, for example vdev=xvda");
  const devid = parseVdev(vdev);
  if (devid === undefined) throw fail(`'${vdev}' is not a virtual device, for example xvda`);
  const access = fields.get('access') ?? 'rw';
  if (!['r', 'ro', 'w', 'rw', ''].includes(access)) throw fail(`access '${access}' is neither ro nor rw`);
  return { target, vdev, devid, readOnly: access === 'r' || access === 'ro' };
}

/**
 * The device number of a virtual device (xen-vbd-interface(7)): `xvda` to `xvd…`, `hda` to `hdd`, `sda` to `sdp`, each
 * with a partition or not, or the number itself. Undefined for anything else.
 */
export function parseVdev(text: string): number | undefined {
  if (/^(0x[0-9a-f]{1,8}|[1-9]\d{0,9})$/.test(text)) {
    const number = Number(text);
    return number < 2 ** 29 ? number : undefined;
  }
  const match = /^(xvd|hd|sd)([a-z]{1,3})(\d{0,3})$/.exec(text);
  if (match === null) return undefined;
  const [, prefix = '', letters = '', digits = ''] = match;
  if (/^0\d/.test(digits)) return undefined;
  const partition = digits === '' ? 0 : Number(digits);
  let disk = 0;
  for (const letter of letters) disk = disk * 26 + (letter.charCodeAt(0) - 96);
  disk -= 1;
  switch (prefix) {
    case 'xvd':
      if (disk <= 15 && partition <= 15) return (202 << 8) | (disk << 4) | partition;
      return disk < 1 << 20 && partition <= 255 ? (1 << 28) | (disk << 8) | partition : undefined;
    case 'sd':
      return disk <= 15 && partition <= 15 ? (8 << 8) | (disk << 4) | partition : undefined;
    default:
      if (disk > 3 || partition > 63) return undefined;
      return ((disk < 2 ? 3 : 22) << 8) | ((disk & 1) << 6) | partition;
  }
}

/** The device that libxl would make of a disk (`device_disk_add`, `tools/libs/light/libxl_disk.c`). */
export function diskDevice(spec: DiskSpec, frontend: Domid, backend: Domid): DeviceDescription {
  return {
    deviceClass: 'vbd',
    devid: spec.devid,
    frontend,
    backend,
    backendNodes: {
      params: spec.target,
      type: 'phy',
      dev: spec.vdev,
      mode: spec.readOnly ? 'r' : 'w',
      'device-type': 'disk',
      removable: '0',
      bootable: '1',
      specification: 'xen',
      'hotplug-status': 'connected',
    },
    frontendNodes: { 'virtual-device': String(spec.devid), 'device-type': 'disk', trusted: '1' },
  };
}
