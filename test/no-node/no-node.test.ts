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
import { type DomainIdentity, GrantStatus, type PlatformUsage } from '@pvkit/ring';
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

const NOTHING: PlatformUsage = { grantedPages: 0, quarantinedPages: 0, mappedPages: 0, eventPorts: 0 };

/** A machine with one guest that has no disk yet; when it has been used, nobody may hold anything of it. */
async function withGuest<T>(use: (machine: LoopbackMachine, guest: DomainIdentity) => Promise<T>): Promise<T> {
  const machine = await LoopbackMachine.create({ name: 'no-node', limits: LIMITS });
  try {
    const guest = await machine.createGuest('quickjs');
    const result = await use(machine, guest);
    await machine.destroyGuest(guest);
    expect(machine.platform.usage()).toEqual(NOTHING);
    return result;
  } finally {
    await machine.close();
  }
}

/** Runs a guest's program to its end. */
async function run({ code }: Bundle, { hypervisor }: LoopbackMachine, guest: DomainIdentity): Promise<unknown> {
  const ports = hypervisor.openPlatform(guest);
  try {
    return await runInQuickJs(code, ports);
  } finally {
    ports.close();
  }
}

describe('in QuickJS', () => {
  it('reads a whole disk, writes, flushes, reads back and closes', async () => {
    const image = join(directory, 'disk.img');
    const before = randomFillSync(Buffer.alloc(4 * 1024 * 1024));
    writeFileSync(image, before);
    const program = await bundleGuest({ file: 'disk-program.ts' });
    const result = (await withGuest(async (machine, guest) => {
      const { client, hypervisor, platform } = machine;
      const drivers = [blockBackendDriver(({ target, readOnly }) => FileDevice.open(target, { readOnly }))];
      const bus = await BackendBus.open({ client, platform, drivers, identify: (id) => hypervisor.identify(id) });
      try {
        const disk = parseDiskSpec(`format=raw,vdev=xvda,access=rw,target=${image}`);
        await addDevice(client, diskDevice(disk, guest.domid, platform.identity.domid));
        return await run(program, machine, guest);
      } finally {
        await bus.close();
      }
    })) as ProgramResult;
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
    const program = await bundleGuest({ text });
    expect(await withGuest((machine, guest) => run(program, machine, guest))).toEqual([]);
  });

  it('maps, copies, binds and is refused through the same ports', async () => {
    const result = await withGuest(async (machine, guest) => {
      const { grants, events } = machine.platform;
      const pages = grants.share(guest.domid, 2, 'read-write');
      const port = events.allocateUnbound(guest.domid);
      pages.write(4096, new Uint8Array([1, 2, 3, 4]), 0, 4);
      const rung = new Promise<void>((resolve) => events.listen(port, resolve));
      // In the engine there is nothing to hand the numbers over but the program itself.
      const text = `
        import { GrantCopyBatch } from '@pvkit/ring';
        import { platform, runProgram, runtime } from './guest-bridge.ts';
        const [first, second] = ${JSON.stringify(pages.references)};
        const { grants, events } = platform;
        runProgram(async () => {
          const mapped = grants.map(0, [first, second], 'read-write');
          const words = new Int32Array(2);
          mapped.readWords(4096, words, 1);
          mapped.store32(0, 0xfedcba98);
          mapped.writeWords(8, Int32Array.of(-1, 7), 2);
          const local = Uint8Array.from([9, 9, 9, 9, 5, 6]);
          const batch = new GrantCopyBatch(0, 3);
          batch.addFromGrant(second, 1, local, 1, 2);
          batch.addToGrant(second, 100, local, 4, 2);
          batch.addFromGrant(4000, 0, local, 0, 1);
          grants.copy(batch);
          const port = events.bindInterdomain(0, ${port});
          events.notify(port);
          const held = platform.usage();
          mapped.unmap();
          events.close(port);
          const refused = [];
          for (const wrong of [() => grants.map(0, [4000], 'read-only'), () => events.bindInterdomain(0, ${port + 1}), () => mapped.load32(0)])
            try { wrong(); } catch (error) { refused.push(error.message); }
          let early = true;
          const cancelled = runtime.timer(1, () => { early = false; });
          cancelled.cancel();
          await new Promise((resolve) => runtime.timer(5, resolve));
          platform.close();
          return {
            word: words[0], local: [...local], statuses: [...batch.statuses], held, refused, early,
            text: runtime.decodeUtf8(runtime.encodeUtf8('é€😀')),
          };
        });`;
      const said = await run(await bundleGuest({ text }), machine, guest);
      await rung;
      const written = new Uint8Array(2);
      pages.read(4196, written, 0, 2);
      const seen = { word: pages.load32(0), next: pages.load32(8), last: pages.load32(12), written: [...written] };
      events.close(port);
      pages.endAccess();
      return { said, seen };
    });
    expect(result).toEqual({
      said: {
        word: 0x04030201,
        local: [9, 2, 3, 9, 5, 6],
        statuses: [0, 0, GrantStatus.GNTST_bad_gntref],
        held: { ...NOTHING, mappedPages: 2, eventPorts: 1 },
        refused: [
          expect.stringContaining('GNTST_bad_gntref'),
          expect.stringContaining('EINVAL'),
          expect.stringContaining('given back'),
        ],
        early: true,
        text: 'é€😀',
      },
      seen: { word: 0xfedcba98, next: 0xffffffff, last: 7, written: [5, 6] },
    });
  });
});
