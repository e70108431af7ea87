import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Access, parseDomid, permissions, permissionsFromStrings, permissionsToStrings } from './permissions.ts';

const access = fc.constantFrom<Access[]>('none', 'read', 'write', 'both');
const domid = fc.nat(65535);

describe('permissions', () => {
  it('round-trip through their strings', () => {
    fc.assert(
      fc.property(
        fc.record({ owner: domid, others: access, grants: fc.array(fc.record({ domid, access })) }),
        (value) => void expect(permissionsFromStrings(permissionsToStrings(value))).toEqual(value),
      ),
    );
  });

  it('are spelled as on the wire, the owner with what everyone else may do', () => {
    expect(permissionsToStrings(permissions(0, [{ domid: 1, access: 'read' }]))).toEqual(['n0', 'r1']);
    expect(permissionsToStrings(permissions(3, [{ domid: 0, access: 'both' }], 'write'))).toEqual(['w3', 'b0']);
  });

  it('give strangers nothing unless said', () => expect(permissions(1).others).toBe('none'));

  it.each([[[]], [['']], [['n']], [['0']], [['x0']], [['n-1']], [['n0x1']], [['n1e3']], [['n 1']], [['n65536']]])(
    'refuses %j',
    (strings) => expect(permissionsFromStrings(strings)).toBeUndefined(),
  );

  it('refuses a list with one bad entry', () => expect(permissionsFromStrings(['n0', 'r1', 'q2'])).toBeUndefined());
});

describe('parseDomid', () => {
  it('takes decimals from 0 to 65535 and nothing else', () => {
    fc.assert(fc.property(domid, (value) => void expect(parseDomid(String(value))).toBe(value)));
    for (const text of ['', ' 1', '1 ', '+1', '-1', '0x1', '1e2', '65536', '99999999999', '１', '1\0'])
      expect(parseDomid(text)).toBeUndefined();
    expect(parseDomid('007')).toBe(7);
  });
});
