import { execFileSync } from 'node:child_process';
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statfsSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ConfigurationError } from '@pvkit/ring';
import { afterAll, describe, expect, it } from 'vitest';
import { blockDeviceCompliance } from './compliance.ts';
import { IoVector } from './device.ts';
import { FileDevice } from './file-device.ts';
import { patternBytes, vectorOf } from './testing/memory-device.ts';

const TMPFS_MAGIC = 0x0102_1994;
const directories = {
  tmpfs: mkdtempSync('/dev/shm/pvkit-file-device-'),
  disk: mkdtempSync(join(tmpdir(), 'pvkit-file-device-')),
};
afterAll(() => {
  for (const directory of Object.values(directories)) rmSync(directory, { recursive: true });
});

let made = 0;
const image = (where: keyof typeof directories, content: Uint8Array | string): string => {
  const path = join(directories[where], `disk-${made++}.img`);
  writeFileSync(path, content);
  return path;
};

describe.each(['tmpfs', 'disk'] as const)('on %s', (where) => {
  blockDeviceCompliance(`FileDevice on ${where}`, async ({ content, readOnly }) => {
    const path = image(where, content);
    const device = await FileDevice.open(path, { readOnly });
    return {
      device,
      async close() {
        await device.close();
        rmSync(path);
      },
    };
  });

  it('changes exactly the bytes of the file that are written', async () => {
    const content = patternBytes(64 * 512);
    const path = image(where, content);
    const device = await FileDevice.open(path);
    const data = patternBytes(3 * 512, 9);
    await device.writev(5, vectorOf(data, 1, 700));
    await device.flush();
    await device.close();
    content.set(data, 5 * 512);
    expect(Buffer.compare(readFileSync(path), content)).toBe(0);
  });

  it('fails reads with EIO where the file has been truncated, and goes on elsewhere', async () => {
    const content = patternBytes(64 * 512);
    const path = image(where, content);
    const device = await FileDevice.open(path);
    truncateSync(path, 32 * 512 + 100);
    const read = async (sector: number, count: number) => {
      const bytes = new Uint8Array(count * 512);
      await device.readv(sector, IoVector.of(bytes));
      return bytes;
    };
    await expect(read(40, 1)).rejects.toMatchObject({ code: 'ERR_PV_ERRNO', errno: 'EIO' });
    await expect(read(31, 2)).rejects.toThrow('the file ends before that');
    expect(Buffer.compare(await read(0, 32), content.subarray(0, 32 * 512))).toBe(0);
    await device.close();
  });

  it('reads what is in memory without waiting', async () => {
    const content = patternBytes(64 * 512);
    const path = image(where, content);
    const device = await FileDevice.open(path);
    const bytes = new Uint8Array(16 * 512);
    const done = device.tryReadv(3, vectorOf(bytes, 1, 700, 4096));
    // A file that was just written is in the page cache, if the file system can tell.
    if (where === 'tmpfs') expect(done).toBe(true);
    if (done) expect(Buffer.compare(bytes, content.subarray(3 * 512, 19 * 512))).toBe(0);
    expect(() => device.tryReadv(60, IoVector.of(bytes))).toThrow('outside a device');
    await device.close();
    expect(() => device.tryReadv(0, IoVector.of(bytes))).toThrow('closed');
  });

  it.each([
    ['qcow2', 'QFI\xfb'],
    ['VHD', 'conectix'],
    ['VHDX', 'vhdxfile'],
    ['VMDK', 'KDMV'],
    ['QED', 'QED\0'],
  ])('refuses an image that is %s by its head', async (name, magic) => {
    const path = image(where, Buffer.concat([Buffer.from(magic, 'latin1'), Buffer.alloc(1024 - magic.length)]));
    await expect(FileDevice.open(path)).rejects.toThrow(ConfigurationError);
    await expect(FileDevice.open(path)).rejects.toThrow(`'${path}' has format ${name}`);
  });

  it.each([0, 1, 511, 513, 1000])('refuses a file of %i bytes', async (size) => {
    const path = image(where, Buffer.alloc(size));
    await expect(FileDevice.open(path)).rejects.toThrow(`${size} bytes, not a multiple of 512`);
  });

  it('refuses what is no file, naming it', async () => {
    const directory = directories[where];
    await expect(FileDevice.open(join(directory, 'absent'))).rejects.toThrow(`absent' can't be opened: ENOENT`);
    await expect(FileDevice.open(directory)).rejects.toThrow(ConfigurationError);
    await expect(FileDevice.open(directory, { readOnly: true })).rejects.toThrow('not a regular file');
    const fifo = join(directory, 'fifo');
    execFileSync('mkfifo', [fifo]);
    await expect(FileDevice.open(fifo)).rejects.toThrow('not a regular file');
    await expect(FileDevice.open('/dev/null')).rejects.toThrow('not a regular file');
  });

  it('holds no file open after a refusal', async () => {
    const path = image(where, Buffer.alloc(100));
    await expect(FileDevice.open(path)).rejects.toThrow();
    await expect(FileDevice.open(directories[where], { readOnly: true })).rejects.toThrow();
    expect(openFiles()).not.toContain(path);
    expect(openFiles()).not.toContain(directories[where]);
  });

  it('close waits for what is under way, and only then closes the file', async () => {
    const content = patternBytes(2048 * 512);
    const path = image(where, content);
    const device = await FileDevice.open(path);
    const bytes = new Uint8Array(content.byteLength);
    const events: string[] = [];
    const work = [
      device.readv(0, vectorOf(bytes, 100_000, 300_001)),
      device.writev(0, IoVector.of(content.slice(0, 512 * 512))),
      device.flush(),
    ].map((promise) => Promise.resolve(promise).then(() => events.push('done')));
    const closing = device.close().then(() => events.push('closed'));
    await Promise.all([...work, closing]);
    expect(events).toEqual(['done', 'done', 'done', 'closed']);
    expect(Buffer.compare(bytes, content)).toBe(0);
  });
});

it('finds tmpfs where the tests expect it', () => {
  expect(statfsSync(directories.tmpfs).type).toBe(TMPFS_MAGIC);
});

it('serves an image that another process has made read-only to it', async () => {
  const path = image('disk', patternBytes(512));
  const handle = await open(path, 'r');
  const device = await FileDevice.open(path, { readOnly: true });
  expect(() => device.writev(0, IoVector.of(new Uint8Array(512)))).toThrow('EROFS');
  await device.flush();
  await device.close();
  await handle.close();
});

/** What this process has open, by path. */
function openFiles(): string[] {
  return readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return ''; // closed since, as the directory itself
    }
  });
}
