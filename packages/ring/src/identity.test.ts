import { describe, expect, it } from 'vitest';
import { ConfigurationError } from './errors.ts';
import { domid, eventPort, grantReference, instanceName, sameDomain } from './identity.ts';

describe('identities', () => {
  it.each([
    { name: 'domid', make: domid, good: [0, 1, 0x7fef], bad: [-1, 0x7ff0, 0xffff, 1.5, Number.NaN, Infinity] },
    { name: 'eventPort', make: eventPort, good: [1, 131071], bad: [0, -1, 131072, 1.5, Number.NaN] },
    { name: 'grantReference', make: grantReference, good: [0, 8, 0xffffffff], bad: [-1, 2 ** 32, 0.5, Number.NaN] },
  ])('$name has the range that Xen gives it', ({ make, good, bad }) => {
    for (const value of good) expect(make(value)).toBe(value);
    for (const value of bad) expect(() => make(value), String(value)).toThrow(ConfigurationError);
  });

  it.each(['xen', 'loopback:a', 'remote:host.example:1234', 'loopback:~!'])('%s names an instance', (name) => {
    expect(instanceName(name)).toBe(name);
  });

  it.each(['', 'xen:', 'xen:a', 'Xen', 'loopback:', 'loopback', 'remote:a b', 'remote:a\n', 'loopback:ä', ' xen'])(
    '%j does not',
    (name) => expect(() => instanceName(name)).toThrow(ConfigurationError),
  );

  it('tells domains apart by instance, domid and generation', () => {
    const domain = { instance: instanceName('xen'), domid: domid(1), generation: 7 };
    expect(sameDomain(domain, { ...domain })).toBe(true);
    expect(sameDomain(domain, { ...domain, instance: instanceName('loopback:xen') })).toBe(false);
    expect(sameDomain(domain, { ...domain, domid: domid(2) })).toBe(false);
    expect(sameDomain(domain, { ...domain, generation: 8 })).toBe(false);
  });
});
