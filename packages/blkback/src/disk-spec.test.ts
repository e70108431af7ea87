import { ConfigurationError, domid } from '@pvkit/ring';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { diskDevice, parseDiskSpec, parseVdev } from './disk-spec.ts';

describe('a disk as xl users write it', () => {
  it.each([
    ['format=raw,vdev=xvda,access=rw,target=/a.img', '/a.img', 51_712, false],
    ['vdev=xvda,target=/a.img', '/a.img', 51_712, false],
    ['vdev=xvda,access=ro,target=/a.img', '/a.img', 51_712, true],
    ['vdev=xvda,access=r,target=/a.img', '/a.img', 51_712, true],
    ['vdev=xvda,access=w,target=/a.img', '/a.img', 51_712, false],
    ['vdev=hda,target=/with,commas,ro', '/with,commas,ro', 768, false],
    ['target=/a.img,vdev=xvda', undefined, 0, false],
    ['  format=raw , vdev=sda1 , target=/a b.img ', '/a b.img', 2049, false],
    ['/a.img,raw,xvda,rw', '/a.img', 51_712, false],
    ['/a.img,raw,xvda1,ro', '/a.img', 51_713, true],
    ['/a.img,,xvda', '/a.img', 51_712, false],
    ['/a.img,,xvda,', '/a.img', 51_712, false],
    ['/a.img,raw,xvda', '/a.img', 51_712, false],
    ['/a=b.img,raw,xvda', '/a=b.img', 51_712, false],
    ['/a.img,vdev=xvdb', '/a.img', 51_728, false],
    ['access=ro,/a.img,raw,xvda', '/a.img', 51_712, true],
    ['/a.img,raw,51712', '/a.img', 51_712, false],
    ['/a.img,raw,0xca00', '/a.img', 51_712, false],
  ])('%s', (text, target, devid, readOnly) => {
    if (target === undefined) expect(() => parseDiskSpec(text)).toThrow("'vdev' is missing");
    else expect(parseDiskSpec(text)).toMatchObject({ target, devid, readOnly });
  });

  it.each([
    ['', "'target' is missing"],
    ['   ', "'target' is missing"],
    ['format=raw,vdev=xvda,access=rw', "'target' is missing"],
    ['vdev=xvda,target=', "'target' is missing"],
    ['/a.img', "'vdev' is missing"],
    ['/a.img,raw,', "'vdev' is missing"],
    ['/a.img,qcow2,xvda', "format 'qcow2'"],
    ['format=vhd,vdev=xvda,target=/a.img', "format 'vhd'"],
    ['/a.img,raw,xvda,rw,more', "'more' is one part too many"],
    ['/a.img,raw,sdq', "'sdq' is not a virtual device"],
    ['/a.img,raw,xvda,x', "access 'x'"],
    ['vdev=xvda,vdev=xvdb,target=/a.img', "'vdev' is given twice"],
    ['/a.img,raw,xvda,target=/b.img', "'target' is given twice"],
    ['size=5,vdev=xvda,target=/a.img', "'size' is not a disk option"],
    ['cdrom,vdev=hdc,target=/a.iso', "'cdrom' is not served"],
    ['devtype=cdrom,vdev=hdc,target=/a.iso', "'devtype=cdrom' is not served"],
    ['script=block-x,vdev=xvda,target=/a.img', 'is not served'],
    ['backendtype=qdisk,vdev=xvda,target=/a.img', 'is not served'],
    ['direct-io-safe,vdev=xvda,target=/a.img', 'is not served'],
  ])('refuses %s', (text, message) => {
    expect(() => parseDiskSpec(text)).toThrow(ConfigurationError);
    expect(() => parseDiskSpec(text)).toThrow(message);
    expect(() => parseDiskSpec(text)).toThrow(`disk '${text}'`);
  });

  it('takes any target at the end of the line, and any text without a crash', () => {
    const path = fc.stringMatching(/^\/[ -~]{0,40}[!-~]$/);
    fc.assert(
      fc.property(path, fc.boolean(), (target, readOnly) => {
        const text = `format=raw,vdev=xvdc,access=${readOnly ? 'ro' : 'rw'},target=${target}`;
        expect(parseDiskSpec(text)).toEqual({ target, vdev: 'xvdc', devid: 51_744, readOnly });
      }),
    );
    const anything = fc.array(fc.constantFrom(',', '=', 'target', 'vdev', 'raw', 'xvda', '/x', ' ', 'access', 'ro'));
    fc.assert(
      fc.property(
        anything.map((parts) => parts.join('')),
        (text) => {
          try {
            expect(parseDiskSpec(text).target).not.toBe('');
          } catch (error) {
            expect(error).toBeInstanceOf(ConfigurationError);
          }
        },
      ),
    );
  });
});

describe('virtual device numbers (xen-vbd-interface)', () => {
  it.each([
    ['xvda', 51_712],
    ['xvda1', 51_713],
    ['xvda15', 51_727],
    ['xvdb', 51_728],
    ['xvdp', 51_952],
    ['xvdp15', 51_967],
    ['xvda16', 268_435_472],
    ['xvdq', 268_439_552],
    ['xvdq1', 268_439_553],
    ['xvdz', 268_441_856],
    ['xvdaa', 268_442_112],
    ['hda', 768],
    ['hda63', 831],
    ['hdb', 832],
    ['hdc', 5632],
    ['hdd', 5696],
    ['sda', 2048],
    ['sda15', 2063],
    ['sdp', 2288],
    ['51712', 51_712],
    ['0xca00', 51_712],
  ])('%s is %i', (text, devid) => {
    expect(parseVdev(text)).toBe(devid);
  });

  it.each([
    '',
    'xvd',
    'xvdA',
    'vda',
    'hde',
    'hda64',
    'sdq',
    'sda16',
    'xvda256',
    'xvda01',
    'xvda-1',
    ' xvda',
    '0',
    '051712',
    '-1',
    '1e3',
    '0xCA00',
    '536870912',
    '99999999999',
  ])('%j is none', (text) => {
    expect(parseVdev(text)).toBeUndefined();
  });

  it('differ for different names', () => {
    const names = fc.tuple(fc.constantFrom('xvd', 'hd', 'sd'), fc.stringMatching(/^[a-z]{1,2}([1-9]\d?)?$/));
    fc.assert(
      fc.property(names, names, ([a, b], [c, d]) => {
        fc.pre(a + b !== c + d);
        const [first, second] = [parseVdev(a + b), parseVdev(c + d)];
        fc.pre(first !== undefined);
        expect(second).not.toBe(first);
      }),
    );
  });
});

describe('the device of a disk', () => {
  it('has the nodes of libxl', () => {
    const spec = parseDiskSpec('format=raw,vdev=xvda,access=ro,target=/a.img');
    const device = diskDevice(spec, domid(3), domid(0));
    expect(device).toMatchObject({ deviceClass: 'vbd', devid: 51_712, frontend: 3, backend: 0 });
    expect(device.backendNodes).toEqual({
      params: '/a.img',
      type: 'phy',
      dev: 'xvda',
      mode: 'r',
      'device-type': 'disk',
      removable: '0',
      bootable: '1',
      specification: 'xen',
      'hotplug-status': 'connected',
    });
    expect(device.frontendNodes).toEqual({ 'virtual-device': '51712', 'device-type': 'disk', trusted: '1' });
  });
});
