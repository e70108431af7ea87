/** Checks of grants. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { type Domid, domid, GrantCopyBatch, grantReference, PAGE_SIZE, type Platform } from '@pvkit/ring';
import { type Check, statusOfThrown } from './support.ts';

/** An unused reference: far beyond what a grant table of the default size holds. */
const BAD_REFERENCE = grantReference(0x3_ffff);

/** Address ranges of this process. */
const mappings = () => readFileSync('/proc/self/maps', 'latin1').split('\n').length;

export function grantChecks(platform: Platform, self: Domid): Check[] {
  const { grants } = platform;
  return [
    {
      name: 'grants: words and bytes go both ways through a mapping',
      run: () => {
        const ours = grants.share(self, 16, 'read-write');
        const theirs = grants.map(self, ours.references, 'read-write');
        ours.store32(8, 0xdead_beef);
        theirs.store32(15 * PAGE_SIZE + 4092, 77);
        assert.deepEqual([theirs.load32(8), ours.load32(15 * PAGE_SIZE + 4092)], [0xdead_beef, 77]);
        const sent = Uint8Array.from({ length: 16 * PAGE_SIZE }, (_, index) => (index * 7 + (index >>> 12)) & 255);
        ours.write(0, sent, 0, sent.length);
        const received = new Uint8Array(sent.length);
        theirs.read(0, received, 0, received.length);
        assert(Buffer.from(sent).equals(received), 'bytes differ');
        assert.deepEqual(platform.usage(), { grantedPages: 16, quarantinedPages: 0, mappedPages: 16, eventPorts: 0 });
        theirs.unmap();
        theirs.unmap();
        assert.equal(
          statusOfThrown(() => theirs.load32(0)),
          'GNTST_bad_handle',
        );
        assert.equal(ours.endAccess(), true);
        assert.equal(
          statusOfThrown(() => ours.store32(0, 1)),
          'GNTST_bad_handle',
        );
        return { references: [ours.references[0], ours.references[15]] };
      },
    },
    {
      name: 'grants: fresh pages are zero, address ranges are used again',
      run: () => {
        for (let round = 0; round < 50; round++) {
          const ours = grants.share(self, 2, 'read-write');
          const theirs = grants.map(self, ours.references, 'read-only');
          const words = new Int32Array(2048).fill(-1);
          theirs.readWords(0, words, 2048);
          assert(
            words.every((word) => word === 0),
            `round ${round}: a fresh page is not zero`,
          );
          ours.writeWords(0, words.fill(round + 1), 2048);
          assert.equal(
            statusOfThrown(() => theirs.store32(0, 1)),
            'GNTST_permission_denied',
          );
          assert.equal(theirs.load32(4), round + 1);
          theirs.unmap();
          ours.endAccess();
        }
        return {};
      },
    },
    {
      name: 'grants: a bad reference fails the whole mapping, and says why',
      run: () => {
        const ours = grants.share(self, 1, 'read-write');
        const readOnly = grants.share(self, 1, 'read-only');
        const good = ours.references[0]!;
        const bad = statusOfThrown(() => grants.map(self, [good, BAD_REFERENCE], 'read-write'));
        const denied = statusOfThrown(() => grants.map(self, readOnly.references, 'read-write'));
        const nobody = statusOfThrown(() => grants.map(domid(4711), [good], 'read-write'));
        assert.deepEqual([bad, nobody], ['GNTST_bad_gntref', 'GNTST_bad_domain']);
        const before = mappings();
        for (let round = 0; round < 200; round++)
          statusOfThrown(() => grants.map(self, [BAD_REFERENCE, good], 'read-only'));
        const grown = mappings() - before;
        assert(grown < 20, `200 refused mappings left ${grown} address ranges behind`);
        assert.equal(platform.usage().mappedPages, 0);
        ours.endAccess();
        readOnly.endAccess();
        return { bad, denied, nobody, grown };
      },
    },
    {
      name: 'grants: copies go both ways, a bad one has its own status',
      run: () => {
        const ours = grants.share(self, 2, 'read-write');
        const readOnly = grants.share(self, 1, 'read-only');
        const local = grants.allocateBuffer(2 * PAGE_SIZE);
        const heap = Buffer.from('from an ordinary buffer');
        const batch = new GrantCopyBatch(self, 5);
        ours.write(100, Buffer.from('granted'), 0, 7);
        batch.addFromGrant(ours.references[0]!, 100, local, 4093, 7); // across a page of ours
        batch.addFromGrant(BAD_REFERENCE, 0, local, 0, 64);
        batch.addToGrant(ours.references[1]!, 50, heap, 5, 8);
        batch.addToGrant(readOnly.references[0]!, 0, heap, 0, 8);
        grants.copy(batch);
        const statuses = [...batch.statuses.subarray(0, batch.count)];
        assert.deepEqual([statuses[0], statuses[1], statuses[2]], [0, -3, 0]);
        assert.notEqual(statuses[3], 0);
        assert.equal(Buffer.from(local).toString('latin1', 4093, 4100), 'granted');
        const back = new Uint8Array(8);
        ours.read(PAGE_SIZE + 50, back, 0, 8);
        assert.equal(Buffer.from(back).toString(), 'an ordin');
        ours.endAccess();
        readOnly.endAccess();
        return { statuses };
      },
    },
    {
      name: 'grants: pages beyond the limit are refused, and come back',
      run: () => {
        assert.equal(
          statusOfThrown(() => grants.share(self, 100_000, 'read-write')),
          'GNTST_no_space',
        );
        const held = grants.share(self, 512, 'read-write');
        held.endAccess();
        return {};
      },
    },
  ];
}
