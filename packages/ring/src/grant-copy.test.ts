import { describe, expect, it } from 'vitest';
import { GrantStatus } from './errors.ts';
import { GrantCopyBatch } from './grant-copy.ts';
import { domid, grantReference } from './identity.ts';
import { PAGE_SIZE } from './platform.ts';

const reference = grantReference(9);

describe('GrantCopyBatch', () => {
  it('keeps each operation as a row, refused until a platform says otherwise', () => {
    const batch = new GrantCopyBatch(domid(3), 2);
    const local = new Uint8Array(PAGE_SIZE * 2);
    batch.statuses.fill(GrantStatus.GNTST_okay);
    expect(batch.addFromGrant(grantReference(0xffffffff), 0, local, PAGE_SIZE, PAGE_SIZE)).toBe(0);
    expect(batch.addToGrant(reference, PAGE_SIZE - 1, local, 2 * PAGE_SIZE - 1, 1)).toBe(1);
    expect(batch.count).toBe(2);
    expect([...batch.references]).toEqual([0xffffffff, 9]);
    expect([...batch.offsets]).toEqual([0, PAGE_SIZE - 1]);
    expect([...batch.lengths]).toEqual([PAGE_SIZE, 1]);
    expect([...batch.localOffsets]).toEqual([PAGE_SIZE, 2 * PAGE_SIZE - 1]);
    expect([...batch.toGrant]).toEqual([0, 1]);
    expect(batch.locals[0]).toBe(local);
    expect([...batch.statuses]).toEqual(new Array(2).fill(GrantStatus.GNTST_general_error));
  });

  it('is full at its capacity, and free again after clear', () => {
    const batch = new GrantCopyBatch(domid(3), 1);
    const local = new Uint8Array(4);
    batch.addFromGrant(reference, 0, local, 0, 4);
    expect(() => batch.addFromGrant(reference, 0, local, 0, 4)).toThrow(/full \(1 operation/);
    batch.clear();
    expect(batch.count).toBe(0);
    expect(batch.addToGrant(reference, 0, local, 0, 4)).toBe(0);
  });

  it.each([
    ['offset before the page', -1, 0, 1],
    ['across the page', PAGE_SIZE - 1, 0, 2],
    ['offset behind the page', PAGE_SIZE, 0, 1],
    ['no bytes', 0, 0, 0],
    ['less than a byte', 0, 0, 0.5],
    ['negative length', 8, 8, -1],
    ['length NaN', 0, 0, Number.NaN],
    ['offset NaN', Number.NaN, 0, 1],
    ['before the buffer', 0, -1, 1],
    ['across the buffer', 0, 16, 17],
    ['buffer offset NaN', 0, Number.NaN, 1],
  ])('refuses what is not inside page and buffer: %s', (_, offset, localOffset, length) => {
    const batch = new GrantCopyBatch(domid(3), 1);
    const local = new Uint8Array(32);
    expect(() => batch.addFromGrant(reference, offset, local, localOffset, length)).toThrow(RangeError);
    expect(() => batch.addToGrant(reference, offset, local, localOffset, length)).toThrow(RangeError);
    expect(batch.count).toBe(0);
  });
});
