import { existsSync } from 'node:fs';
import { domid, ErrnoError, instanceName } from '@pvkit/ring';
import { describe, expect, it } from 'vitest';
import { deviceHint, isXenDomain, missingDevices, readU64, writeU64 } from './device.ts';
import { openXenPlatform } from './platform.ts';
import { openXenbusTransport } from './xenbus-transport.ts';

describe('what to do about a device that does not open', () => {
  it('names the module to load', () => {
    expect(deviceHint('evtchn', 'ENOENT', true)).toBe('load the kernel module: modprobe xen-evtchn');
    expect(deviceHint('gntdev', 'ENODEV', true)).toBe('load the kernel module: modprobe xen-gntdev');
    expect(deviceHint('gntalloc', 'ENXIO', true)).toBe('load the kernel module: modprobe xen-gntalloc');
  });

  it('names the permission to fix', () => {
    for (const errno of ['EACCES', 'EPERM'])
      expect(deviceHint('gntdev', errno, true)).toMatch(/root.*permission on \/dev\/xen\/gntdev/);
  });

  it('says when there is no Xen', () => {
    expect(deviceHint('evtchn', 'ENOENT', false)).toBe('this machine is not a Xen domain');
    expect(deviceHint('evtchn', 'EMFILE', false)).toBeUndefined();
  });

  it.runIf(!existsSync('/dev/xen/xenbus'))('knows what its module is when it has none', () => {
    expect(deviceHint('xenbus', 'ENOENT', true)).toMatch(/CONFIG_XEN/);
  });
});

describe.skipIf(existsSync('/dev/xen'))('a machine without Xen', () => {
  const notXen = /^opening \/dev\/xen\/\w+: ENOENT \(this machine is not a Xen domain\)$/;

  it('is told so by everything that needs a device', () => {
    expect(isXenDomain()).toBe(false);
    const errors = missingDevices(['xenbus', 'evtchn', 'gntdev', 'gntalloc']);
    expect(errors.map((error) => error.errno)).toEqual(['ENOENT', 'ENOENT', 'ENOENT', 'ENOENT']);
    for (const error of errors) expect(error.message).toMatch(notXen);
    expect(() => openXenbusTransport()).toThrow(notXen);
    const identity = { instance: instanceName('xen'), domid: domid(0), generation: 0 };
    expect(() => openXenPlatform({ identity })).toThrow(ErrnoError);
  });
});

it('keeps 64-bit file offsets whole', () => {
  const words = new Uint32Array(4);
  for (const value of [0, 4096, 2 ** 32 - 4096, 2 ** 32, 2 ** 52 + 4096]) {
    writeU64(words, 1, value);
    expect(readU64(words, 1)).toBe(value);
  }
});
