import { describe, expect, it } from 'vitest';
import {
  ConfigurationError,
  ErrnoError,
  GrantError,
  GrantStatus,
  grantStatusName,
  ProtocolError,
  PvError,
} from './errors.ts';

describe('the error family', () => {
  it('says where, what and why', () => {
    const context = { instance: 'xen', domid: 3, device: 'vbd/51712' };
    const error = new GrantError('GNTST_bad_gntref', 'mapping grant reference 9', context);
    expect(error.message).toBe('instance xen, domain 3, device vbd/51712: mapping grant reference 9: GNTST_bad_gntref');
    expect(error.context).toEqual(context);
    expect(new ErrnoError('ENOSPC', 'creating a domain', {}, 'destroy one').message).toBe(
      'creating a domain: ENOSPC (destroy one)',
    );
    expect(new ProtocolError('too far', { domid: 0 }).message).toBe('domain 0: too far');
  });

  it('has a stable code and a name for each kind', () => {
    const errors = [
      new GrantError('GNTST_eagain', 'a'),
      new ErrnoError('EIO', 'a'),
      new ProtocolError('a'),
      new ConfigurationError('a'),
    ];
    expect(errors.map(({ name, code }) => [name, code])).toEqual([
      ['GrantError', 'ERR_PV_GRANT'],
      ['ErrnoError', 'ERR_PV_ERRNO'],
      ['ProtocolError', 'ERR_PV_PROTOCOL'],
      ['ConfigurationError', 'ERR_PV_CONFIGURATION'],
    ]);
    for (const error of errors) expect(error).toBeInstanceOf(PvError);
  });

  it('keeps the cause, and has none where there is none', () => {
    const cause = new Error('below');
    expect(new ProtocolError('above', {}, cause).cause).toBe(cause);
    expect('cause' in new ProtocolError('above')).toBe(false);
  });
});

describe('GrantStatus', () => {
  it('has the numbers of grant_table.h', () => {
    // Successive from 0, GNTST_okay, down to -13, GNTST_no_space.
    expect(Object.values(GrantStatus)).toEqual(Array.from({ length: 14 }, (_, index) => 0 - index));
    expect([GrantStatus.GNTST_bad_gntref, GrantStatus.GNTST_permission_denied, GrantStatus.GNTST_eagain]).toEqual([
      -3, -8, -12,
    ]);
  });

  it('has a name for every status, and one for those of the future', () => {
    for (const [name, status] of Object.entries(GrantStatus)) expect(grantStatusName(status)).toBe(name);
    expect(grantStatusName(-14)).toBe('GNTST_general_error');
    expect(grantStatusName(1)).toBe('GNTST_general_error');
  });
});
