/** Random requests and random ring headers from a guest: whatever it writes, nothing escapes and nothing stays held. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { FileDevice } from '@pvkit/blkback/file';
import { XenbusState } from '@pvkit/xenbus';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { patternBytes } from '../../packages/blkback/src/testing/memory-device.ts';
import { Neighbour, NOTHING, TestHost, turns } from './test-host.ts';

const SECTORS = 2048;

it('whatever it writes into its ring, nothing escapes', async () => {
  const directory = mkdtempSync('/dev/shm/pvkit-fuzz-');
  const image = join(directory, 'victim.img');
  writeFileSync(image, patternBytes(SECTORS * 512, 5));
  const host = await TestHost.create(new Map([[image, await FileDevice.open(image)]]));
  const neighbour = await Neighbour.create(host);
  const hostile = await host.guest(image);
  let raw = await hostile.connectRaw();
  raw.deaf = true;
  let pages = raw.share(4);
  const word = fc.oneof(
    fc.integer(),
    fc.integer({ min: 0, max: 64 }),
    fc.constantFrom(0, -1, 0x0101, 0x0b00, 0x0700, 0xff00, 0x0c01),
  );
  const slot = fc.record({
    words: fc.array(word, { minLength: 28, maxLength: 28 }),
    operation: fc.constantFrom(0, 1, 2, 3, 5, 6, 255),
    count: fc.constantFrom(0, 1, 2, 11, 12, 255),
    granted: fc.boolean(),
    near: fc.boolean(),
  });
  const header = fc.record({ offset: fc.constantFrom(0, 4, 8, 12, 16, 60), value: fc.oneof(fc.nat(80), fc.integer()) });
  const step = fc.record({
    slots: fc.array(slot, { maxLength: 8 }),
    headers: fc.array(header, { maxLength: 2 }),
    corrupt: fc.integer({ min: 0, max: 9 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 6 }), async (steps) => {
      let index = raw.ringPages.load32(8); // as many requests as were answered
      for (const { slots, headers, corrupt } of steps) {
        for (const { words, operation, count, granted, near } of slots) {
          const cells = Int32Array.from(words);
          cells[0] = operation | (count << 8);
          if (near) [cells[4], cells[5]] = [cells[4]! & 0x7ff, 0];
          if (granted)
            for (let segment = 0; segment < 11; segment++) {
              cells[6 + segment * 2] = pages.references[segment % 4]!;
              cells[7 + segment * 2] = near ? 0x0700 : cells[7 + segment * 2]!;
            }
          raw.ringPages.writeWords(64 + (index % 32) * 112, cells, 28);
          index = (index + 1) >>> 0;
        }
        raw.ringPages.store32(0, index);
        if (corrupt === 0) for (const { offset, value } of headers) raw.ringPages.store32(offset, value);
        hostile.guest.platform.events.notify(raw.port);
        await turns(3);
      }
      const state = await host.machine.client.read(`${hostile.back}/state`);
      if (state === String(XenbusState.Connected) && raw.ringPages.load32(8) === index) return;
      // The ring is not what it was: begin anew.
      raw.close();
      await hostile.write({ state: String(XenbusState.Closed) });
      await hostile.backendIs(XenbusState.Closed);
      host.devices.set(image, await FileDevice.open(image));
      await hostile.write({ state: String(XenbusState.Initialising) });
      raw = await hostile.connectRaw();
      raw.deaf = true;
      pages = raw.share(4);
    }),
    { numRuns: 400, interruptAfterTimeLimit: 4000, markInterruptAsFailure: false },
  );
  raw.close();
  expect(host.events('xenbus.backend-reconcile-failed')).toEqual([]);
  for (const { error } of host.events('xenbus.backend-disconnected'))
    expect(error).toHaveProperty('code', 'ERR_PV_PROTOCOL');
  await neighbour.goesOn();
  await neighbour.stop();
  expect(await host.close()).toEqual(NOTHING);
  rmSync(directory, { recursive: true });
});
