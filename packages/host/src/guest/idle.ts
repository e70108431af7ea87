import { BlockFrontend } from '@pvkit/blkback';
import { parseState, Reconciler, XenbusState } from '@pvkit/xenbus';
import type { LoopbackGuest } from '@pvkit/xenbus/loopback';
import type { GuestMessage } from './protocol.ts';

/** Connects to every disk of the guest, now and later, until `ends`. */
export async function runIdle(
  { client, platform }: LoopbackGuest,
  report: (message: GuestMessage) => void,
  ends: Promise<void>,
): Promise<void> {
  /** By path; without a value while it connects, which lasts as long as its backend takes. */
  const disks = new Map<string, BlockFrontend | undefined>();
  const connect = async (path: string): Promise<void> => {
    disks.set(path, undefined);
    try {
      const disk = await BlockFrontend.connect(client, platform, path);
      disks.set(path, disk);
      report({ kind: 'connected', path, bytes: disk.geometry.sectors * 512 });
      await disk.closed;
      await disk.close();
      report({ kind: 'disconnected', path, reason: 'closed' });
    } catch (error) {
      report({ kind: 'disconnected', path, reason: error instanceof Error ? error.message : String(error) });
    }
    disks.delete(path);
    scan.look(); // it may be back already
  };
  const scan = new Reconciler(
    async () => {
      for (const devid of (await client.directoryOptional('device/vbd')) ?? []) {
        const path = `device/vbd/${devid}`;
        const state = parseState(await client.readOptional(`${path}/state`));
        if (!disks.has(path) && state === XenbusState.Initialising) void connect(path);
      }
    },
    (error) => report({ kind: 'failed', reason: String(error) }),
  );
  const watch = await client.watchCallback('device/vbd', scan.look);
  await ends;
  await watch.close();
  await scan.stop();
  await Promise.all([...disks.values()].map((disk) => disk?.close()));
}
