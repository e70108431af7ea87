/** `pvkit host`: serves the backends of this domain, on Xen or on a loopback machine of its own. */
import { diskDevice, parseDiskSpec } from '@pvkit/blkback';
import { FileDevice } from '@pvkit/blkback/file';
import { ConfigurationError, type DomainIdentity, domid } from '@pvkit/ring';
import { addDevice } from '@pvkit/xenbus';
import type { LoopbackMachine } from '@pvkit/xenbus/loopback';
import { listenUnix } from '@pvkit/xenstore/unix';
import { type GuestConfig, type HostConfig, readConfig } from '../config.ts';
import { GuestWorker } from '../guest/handle.ts';
import { kernelBlkback, openInstance, serveDisks } from '../instance.ts';
import { createLog, type Logger, logObserver } from '../log.ts';
import { followLogLevel, logLevel } from '../log-level.ts';
import { loopbackSocket } from '../paths.ts';
import { Shutdown } from '../shutdown.ts';
import { statusLine } from '../status.ts';

export interface HostOptions {
  readonly config?: string;
  readonly instance?: string;
  readonly socket?: string;
  readonly logLevel?: string;
  /** Disks of a loopback guest named `guest`, as `xl` users write them. */
  readonly disk: readonly string[];
}

export async function runHost(options: HostOptions): Promise<void> {
  const config = withFlags(readConfig(options.config), options);
  const log = createLog(config.log_level);
  const shutdown = new Shutdown(log);
  try {
    await start(config, log, shutdown);
    log.info(`${await shutdown.requested}: closing every device in order`);
  } finally {
    await shutdown.run();
  }
}

/** Flags win over the file. */
function withFlags(config: HostConfig, options: HostOptions): HostConfig {
  const instance = options.instance ?? config.instance;
  if (instance !== 'auto' && instance !== 'xen' && instance !== 'loopback')
    throw new ConfigurationError(`instance '${instance}' is none of auto, xen, loopback`);
  const guest: GuestConfig[] = [...config.guest];
  if (options.disk.length > 0) {
    if (guest.some(({ name }) => name === 'guest'))
      throw new ConfigurationError("--disk makes a guest named 'guest', which the configuration file has already");
    guest.push({ name: 'guest', disk: options.disk.map(parseDiskSpec) });
  }
  const socket = options.socket ?? config.socket;
  return {
    ...config,
    instance,
    guest,
    log_level: options.logLevel === undefined ? config.log_level : logLevel(options.logLevel),
    ...(socket === undefined ? {} : { socket }),
  };
}

async function start(config: HostConfig, log: Logger, shutdown: Shutdown): Promise<void> {
  const instance = await openInstance(config.instance, logObserver(log));
  shutdown.add(`instance ${instance.name}`, () => instance.close());
  const { machine } = instance;
  if (machine === undefined) {
    if (config.guest.length > 0)
      throw new ConfigurationError(
        'guests and --disk are for loopback instances; on Xen, attach disks with xl or pvkit block-attach',
      );
    if (config.socket !== undefined)
      throw new ConfigurationError('a socket is for loopback instances; on Xen, xenstored has its own');
    if (kernelBlkback())
      throw new ConfigurationError(
        "the kernel's xen-blkback claims every disk backend of this domain; unload it first: rmmod xen_blkback",
      );
  }
  // Opened once beforehand, so that a bad path is one sentence before anything starts.
  for (const { target, readOnly } of config.guest.flatMap(({ disk }) => disk))
    await (await FileDevice.open(target, { readOnly })).close();
  const level = await followLogLevel(instance.client, log);
  shutdown.add('the log level', () => level.close());
  if (machine !== undefined) {
    const socket = config.socket ?? loopbackSocket();
    const listener = await listenUnix(socket, (transport) => machine.store.connect(transport));
    shutdown.add('the xenstore socket', () => listener.close());
    log.info(`xenstore on ${socket}`);
  }
  const bus = await serveDisks(instance);
  shutdown.add('the block backend', async () => {
    for (const device of bus.devices) log.info(statusLine(device));
    await bus.close();
  });
  log.info(`serving disks of ${instance.name}, domain ${instance.platform.identity.domid}`);
  if (machine !== undefined) for (const guest of config.guest) await startGuest(machine, guest, log, shutdown);
}

async function startGuest(machine: LoopbackMachine, config: GuestConfig, log: Logger, shutdown: Shutdown) {
  const guest: DomainIdentity = await machine.createGuest(config.name);
  for (const spec of config.disk) await addDevice(machine.client, diskDevice(spec, guest.domid, domid(0)));
  const worker = new GuestWorker(machine.guestHandle(guest), { kind: 'idle' }, (message) => {
    if (message.kind === 'failed') log.error(`guest ${config.name}: ${message.reason}`);
    else log.info(message, `guest ${config.name}: ${message.kind}`);
  });
  shutdown.add(`guest ${config.name}`, () => worker.shutdown());
  log.info(`guest ${config.name} is domain ${guest.domid}`);
}
