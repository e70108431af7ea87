/** `pvkit demo`, which `npm start` runs: a loopback guest reads and writes a real disk image, in front of your eyes. */
import { createHash } from 'node:crypto';
import { closeSync, createReadStream, openSync, readSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { diskDevice, parseVdev } from '@pvkit/blkback';
import { FileDevice } from '@pvkit/blkback/file';
import { domid } from '@pvkit/ring';
import { addDevice, type BackendBus, removeDevice } from '@pvkit/xenbus';
import { listenUnix } from '@pvkit/xenstore/unix';
import logUpdate from 'log-update';
import { checkImage, makeDemoImage } from '../demo-image.ts';
import { GuestWorker } from '../guest/handle.ts';
import type { GuestMessage } from '../guest/protocol.ts';
import { openLoopbackInstance, serveDisks } from '../instance.ts';
import { createLog, type Logger, logObserver } from '../log.ts';
import { followLogLevel, type LogLevel } from '../log-level.ts';
import { loopbackSocket, runtimeDirectory } from '../paths.ts';
import { Shutdown } from '../shutdown.ts';
import { formatBytes, progressBar, statusLine } from '../status.ts';

export interface DemoOptions {
  readonly disk?: string;
  readonly check?: boolean;
  readonly logLevel: LogLevel;
  readonly socket?: string;
}

const STATUS_MS = 500;
const REMOVAL_MS = 10_000;

/** Runs the demonstration. @returns whether everything that it shows held. */
export async function runDemo(options: DemoOptions): Promise<boolean> {
  const log = createLog(options.logLevel);
  const shutdown = new Shutdown(log);
  try {
    return await demonstrate(options, log, shutdown);
  } finally {
    await shutdown.run();
  }
}

async function demonstrate(options: DemoOptions, log: Logger, shutdown: Shutdown): Promise<boolean> {
  const say = (text: string) => process.stdout.write(`${text}\n`);
  const image = prepareImage(options, shutdown, say);
  // Opened once beforehand, so that a bad path is one sentence before anything starts.
  await (await FileDevice.open(image)).close();

  const instance = await openLoopbackInstance('demo', logObserver(log));
  shutdown.add('the loopback machine', () => instance.close());
  const machine = instance.machine!;
  const level = await followLogLevel(instance.client, log);
  shutdown.add('the log level', () => level.close());
  const socket = options.socket ?? loopbackSocket();
  const listener = await listenUnix(socket, (transport) => machine.store.connect(transport));
  shutdown.add('the xenstore socket', () => listener.close());
  say(`xenstore: XENSTORED_PATH=${socket} xenstore-ls -f      (or: npm run pvkit -- xenstore ls)`);
  const bus = await serveDisks(instance);
  shutdown.add('the block backend', () => bus.close());

  const guest = await machine.createGuest('demo');
  const devid = parseVdev('xvda')!;
  const disk = diskDevice({ target: image, vdev: 'xvda', devid, readOnly: false }, guest.domid, domid(0));
  await addDevice(machine.client, disk);
  shutdown.add('disk xvda', async () => {
    await removeDevice(machine.client, disk, { timeoutMs: REMOVAL_MS, timer: instance.platform.runtime.timer });
  });

  const outcome = new Promise<boolean>((resolve) => {
    const start = performance.now();
    let readMatches = false;
    const onMessage = async (message: GuestMessage): Promise<void> => {
      switch (message.kind) {
        case 'connected':
          say(`guest ${guest.domid}: ${message.path} connected, ${formatBytes(message.bytes)}, read through one ring:`);
          break;
        case 'progress':
          showProgress(message.done, message.total, performance.now() - start);
          break;
        case 'read': {
          logUpdate.done();
          const expected = await sha256Of(image);
          readMatches = expected === message.sha256;
          say(
            `guest read ${formatBytes(message.bytes)} in ${(message.milliseconds / 1000).toFixed(2)} s, SHA-256 ${message.sha256}`,
          );
          say(`image                            SHA-256 ${expected} ${verdict(readMatches)}`);
          worker.continue();
          break;
        }
        case 'written': {
          const found = createHash('sha256')
            .update(readRange(image, message.position, message.bytes))
            .digest('hex');
          const held = found === message.sha256;
          say(`guest wrote ${formatBytes(message.bytes)}, flushed, read back; the image holds it ${verdict(held)}`);
          readMatches &&= held;
          worker.continue();
          break;
        }
        case 'restored': {
          const clean = options.disk === undefined ? checkImage(image) : undefined;
          say(`guest put back what was there${clean === undefined ? '' : `; e2fsck -fn ${verdict(clean)}`}`);
          resolve(readMatches && clean !== false);
          break;
        }
        case 'failed':
          logUpdate.done();
          log.error(`the guest failed: ${message.reason}`);
          resolve(false);
          break;
        case 'disconnected':
          break;
      }
    };
    const worker = new GuestWorker(
      machine.guestHandle(guest),
      { kind: 'disk-check', path: `device/vbd/${devid}` },
      (message) => {
        onMessage(message).catch((error) => {
          log.error({ err: error }, 'the demonstration failed');
          resolve(false);
        });
      },
    );
    shutdown.add('the guest', () => worker.shutdown());
  });

  const held = await Promise.race([outcome, shutdown.requested.then(() => false)]);
  if (options.check === true || !held) return held;
  await showStatus(bus, log, shutdown);
  return true;
}

function prepareImage(options: DemoOptions, shutdown: Shutdown, say: (text: string) => void): string {
  if (options.disk !== undefined) return resolve(options.disk);
  const image = join(runtimeDirectory(), `demo-${process.pid}.img`);
  shutdown.add('the demonstration image', () => rmSync(image, { force: true }));
  say(`making ${image}`);
  say(`made ${makeDemoImage(image)}`);
  return image;
}

/** Stays up until somebody asks for the end. */
async function showStatus(bus: BackendBus, log: Logger, shutdown: Shutdown): Promise<void> {
  process.stdout.write('serving until Ctrl-C\n');
  const show = () => {
    if (process.stdout.isTTY) logUpdate(bus.devices.map(statusLine).join('\n'));
  };
  const timer = setInterval(show, STATUS_MS);
  show();
  const signal = await shutdown.requested;
  clearInterval(timer);
  if (process.stdout.isTTY) logUpdate.done();
  log.info(`${signal}: closing every device in order`);
}

function showProgress(done: number, total: number, milliseconds: number): void {
  if (process.stdout.isTTY) logUpdate(progressBar('reading', done, total, milliseconds));
}

const verdict = (held: boolean): string => (held ? '✓' : '✗ DIFFERS');

async function sha256Of(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1024 * 1024 })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

function readRange(path: string, position: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  const file = openSync(path, 'r');
  try {
    let done = 0;
    while (done < length) {
      const count = readSync(file, bytes, done, length - done, position + done);
      if (count === 0) break;
      done += count;
    }
  } finally {
    closeSync(file);
  }
  return bytes;
}
