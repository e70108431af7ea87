import { closeSync, constants, openSync } from 'node:fs';
import { domid, GrantCopyBatch, grantReference } from '@pvkit/ring';
import { describe, expect, it } from 'vitest';
import { CopyTable } from './copy-table.ts';

// What the kernel makes of the table is shown by the self-test on Xen; here, what becomes of a call it refuses.
describe.runIf(process.platform === 'linux')('the table of grant copies', () => {
  const reference = grantReference(8);

  it('gives every operation of a refused call the general error', () => {
    const fd = openSync('/dev/null', constants.O_RDWR);
    const table = new CopyTable();
    const batch = new GrantCopyBatch(domid(1), 70);
    const local = new Uint8Array(4096);
    for (let count = 1; count <= batch.capacity; count += 23) {
      batch.clear();
      for (let index = 0; index < count; index++) batch.addToGrant(reference, 0, local, 0, 4096);
      batch.statuses.fill(0);
      expect(table.execute(fd, batch)).toBe('ENOTTY');
      expect([...batch.statuses]).toEqual([...new Array(count).fill(-1), ...new Array(70 - count).fill(0)]);
    }
    closeSync(fd);
  });

  it('makes no call for an empty batch', () => {
    expect(new CopyTable().execute(-1, new GrantCopyBatch(domid(1), 1))).toBeUndefined();
  });

  it('refuses a local buffer that was detached after it was added', () => {
    const batch = new GrantCopyBatch(domid(1), 1);
    const local = new Uint8Array(4096);
    batch.addFromGrant(reference, 0, local, 0, 4096);
    structuredClone(local.buffer, { transfer: [local.buffer] });
    expect(() => new CopyTable().execute(-1, batch)).toThrow(RangeError);
    expect(batch.statuses[0]).toBe(-1);
  });
});
