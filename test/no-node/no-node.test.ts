/**
 * "Embeds in a unikernel": the block frontend and all below it run in an engine that has the language and nothing else
 * (QuickJS: no Atomics, timers, TextEncoder, Buffer, process), against a backend of a loopback machine in this process.
 */
import { randomFillSync } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { blockBackendDriver, diskDevice, parseDiskSpec } from '@pvkit/blkback';
import { FileDevice } from '@pvkit/blkback/file';
import { addDevice, BackendBus } from '@pvkit/xenbus';
import { LoopbackMachine } from '@pvkit/xenbus/loopback';
import { afterAll, describe, expect, it } from 'vitest';
import { type Bundle, bundleGuest } from './bundle.ts';
import type { ProgramResult } from './disk-program.ts';
import { runInQuickJs } from './engine.ts';

const directory = mkdtempSync(join(tmpdir(), 'pvkit-no-node-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));
const LIMITS = { frames: 8192, domains: 8, pagesPerDomain: 4096, grantEntries: 4096, maptrackEntries: 1024, ports: 64 };

describe('the bundle', () => {
  it('has the frontend, and needs nothing of any platform', async () => {
    const { code, foreignGlobals } = await bundleGuest({ file: 'disk-program.ts' });
    expect(code).toContain('BlockFrontend');
    expect(foreignGlobals).toEqual([]);
  });

  it.each(['ring', 'xenstore', 'xenbus', 'blkback'])(
    'the whole entry point of @pvkit/%s imports nothing of Node',
    async (name) => {
      const { code } = await bundleGuest({ text: `export * from '@pvkit/${name}';` });
      expect(code.length).toBeGreaterThan(1000);
    },
  );

  it('is refused with an import of a Node module, and what needs a global is found', async () => {
    await expect(bundleGuest({ text: "import 'node:fs';" })).rejects.toThrow(/node:fs/);
    await expect(bundleGuest({ text: "export * from '@pvkit/blkback/file';" })).rejects.toThrow(/node:/);
    const { foreignGlobals } = await bundleGuest({
      text: 'const process = 1; console.log(process, Buffer.from([1]), globalThis.setTimeout, new TextEncoder());',
    });
    expect(foreignGlobals.toSorted()).toEqual(['Buffer', 'TextEncoder', 'console', 'setTimeout']);
  });
});

/** Runs a program as the only guest of a machine, with `image` as its disk. */
async function runGuest({ code }: Bundle, image: string): Promise<unknown> {
  const machine = await LoopbackMachine.create({ name: 'no-node', limits: LIMITS });
  const { client, hypervisor, platform } = machine;
  const drivers = [blockBackendDriver(({ target, readOnly }) => FileDevice.open(target, { readOnly }))];
  const bus = await BackendBus.open({ client, platform, drivers, identify: (id) => hypervisor.identify(id) });
  try {
    const guest = await machine.createGuest('quickjs');
    const disk = parseDiskSpec(`format=raw,vdev=xvda,access=rw,target=${image}`);
    await addDevice(client, diskDevice(disk, guest.domid, platform.identity.domid));
    const ports = hypervisor.openPlatform(guest);
    try {
      return await runInQuickJs(code, ports);
    } finally {
      ports.close();
      await bus.close();
      await machine.destroyGuest(guest);
      expect(ports.usage()).toEqual({ grantedPages: 0, quarantinedPages: 0, mappedPages: 0, eventPorts: 0 });
      expect(platform.usage()).toEqual({ grantedPages: 0, quarantinedPages: 0, mappedPages: 0, eventPorts: 0 });
    }
  } finally {
    await bus.close();
    await machine.close();
  }
}

describe('in QuickJS', () => {
  it('reads a whole disk, writes, flushes, reads back and closes', async () => {
    const image = join(directory, 'disk.img');
    const before = randomFillSync(Buffer.alloc(4 * 1024 * 1024));
    writeFileSync(image, before);
    const result = (await runGuest(await bundleGuest({ file: 'disk-program.ts' }), image)) as ProgramResult;
    const after = readFileSync(image);
    const { position, bytes } = result.written;
    expect(result).toEqual({
      crc32: crc32(before),
      bytes: before.length,
      written: { position, bytes, crc32: crc32(after.subarray(position, position + bytes)) },
      stateAfterClose: '6',
      errorAfterClose: expect.stringContaining('ESHUTDOWN'),
      held: { grantedPages: 0, mappedPages: 0, eventPorts: 0 },
    });
    // Written where it was meant to be, and nowhere else.
    expect(crc32(after.subarray(position, position + bytes))).not.toBe(
      crc32(before.subarray(position, position + bytes)),
    );
    before.copy(after, position, position, position + bytes);
    expect(after.equals(before)).toBe(true);
  });

  it('is an engine without what the frontend must not need', async () => {
    const text = `
      import { platform, runProgram } from './guest-bridge.ts';
      runProgram(async () => {
        platform.close();
        return ['Buffer', 'process', 'setTimeout', 'setImmediate', 'TextEncoder', 'AbortSignal', 'performance', 'require']
          .filter((name) => name in globalThis);
      });`;
    const image = join(directory, 'none.img');
    writeFileSync(image, Buffer.alloc(4096));
    expect(await runGuest(await bundleGuest({ text }), image)).toEqual([]);
  });
});
