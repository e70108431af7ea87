#!/usr/bin/env node
/**
 * Checks the ports on the Xen domain that it runs in, most usefully Dom0 as root: grants to itself, binds event channels
 * to itself, asks xenstore. Prints one JSON line a check and ends with status 1 when any failed. With `--figures` prints
 * what the hot calls cost, too.
 */
import assert from 'node:assert/strict';
import { type Domid, domid, instanceName, type Platform } from '@pvkit/ring';
import { missingDevices } from './device.ts';
import { openXenPlatform } from './platform.ts';
import { eventChecks, eventPair } from './selftest/events.ts';
import { figures } from './selftest/figures.ts';
import { grantChecks } from './selftest/grants.ts';
import { StoreProbe, storeChecks, XS_READ } from './selftest/store.ts';
import { type Check, errnoOfThrown } from './selftest/support.ts';

async function report(check: Check): Promise<boolean> {
  try {
    const details = await check.run();
    console.log(JSON.stringify({ check: check.name, ok: true, ...details }));
    return true;
  } catch (error) {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    console.log(JSON.stringify({ check: check.name, ok: false, error: text }));
    return false;
  }
}

function closeCheck(platform: Platform, self: Domid, store: StoreProbe): Check {
  return {
    name: 'close: gives everything back, twice is once',
    run: () => {
      const ours = platform.grants.share(self, 3, 'read-write');
      platform.grants.map(self, ours.references, 'read-write');
      eventPair(platform, self);
      const buffer = platform.grants.allocateBuffer(100).fill(1);
      platform.close();
      platform.close();
      assert.deepEqual(platform.usage(), { grantedPages: 0, quarantinedPages: 0, mappedPages: 0, eventPorts: 0 });
      assert.equal(
        errnoOfThrown(() => platform.grants.share(self, 1, 'read-write')),
        'ESRCH',
      );
      assert.equal(
        errnoOfThrown(() => platform.events.allocateUnbound(self)),
        'ESRCH',
      );
      assert.equal(buffer[0], 0);
      store.transport.close();
      return {};
    },
  };
}

async function main(): Promise<void> {
  const missing = missingDevices(['xenbus', 'evtchn', 'gntdev', 'gntalloc']);
  for (const error of missing) console.log(JSON.stringify({ check: 'devices', ok: false, error: error.message }));
  if (missing.length > 0) {
    process.exitCode = 1;
    return;
  }
  const store = new StoreProbe();
  const self = domid(Number((await store.request(XS_READ, 'domid\0')).body));
  const platform = openXenPlatform({ identity: { instance: instanceName('xen'), domid: self, generation: 0 } });
  const checks = [
    ...storeChecks(store),
    ...grantChecks(platform, self),
    ...eventChecks(platform, self),
    ...(process.argv.includes('--figures') ? figures(platform, self, store) : []),
    closeCheck(platform, self, store),
  ];
  let failed = 0;
  for (const check of checks) if (!(await report(check))) failed++;
  console.log(JSON.stringify({ checks: checks.length, failed }));
  if (failed > 0) process.exitCode = 1;
}

await main();
