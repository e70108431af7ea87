#!/usr/bin/env node
/** The `pvkit` command. Exit status: 0 done, 1 failed, 2 asked for wrongly. */
import { ConfigurationError, PvError } from '@pvkit/ring';
import { DEFAULT_SOCKET_PATH } from '@pvkit/xenstore/unix';
import { Command, CommanderError, InvalidArgumentError } from 'commander';
import type { AttachOptions } from './commands/block.ts';
import type { DemoOptions } from './commands/demo.ts';
import type { HostOptions } from './commands/host.ts';
import type { ClientOptions } from './commands/xenstore.ts';
import type { XenstoredOptions } from './commands/xenstored.ts';
import { LOG_LEVEL_NODE, logLevel } from './log-level.ts';

// Loaded when they run: a client command need not wait for what a host takes.
const block = () => import('./commands/block.ts');
const store = () => import('./commands/xenstore.ts');

const collect = (value: string, previous: readonly string[]): string[] => [...previous, value];

function positiveInteger(text: string): number {
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new InvalidArgumentError('It must be a positive whole number.');
  return Number(text);
}

function build(): Command {
  const program = new Command('pvkit')
    .description('Xen paravirtual devices in user space: backends, frontends, xenstore')
    .version('0.1.0')
    .exitOverride()
    .configureOutput({ outputError: () => {}, writeErr: () => {} });

  program
    .command('host')
    .description('serve the backends of this domain: on Xen where there is one, else on a loopback machine')
    .option('-c, --config <file>', 'configuration file (TOML)')
    .option('--instance <name>', 'auto, xen or loopback')
    .option('--disk <spec>', 'a disk of a loopback guest, as xl users write it; may be repeated', collect, [])
    .option('--socket <path>', "where the loopback machine's xenstore listens")
    .option('--log-level <level>', 'trace, debug, info, warn, error or silent')
    .action(async (options: HostOptions) => (await import('./commands/host.ts')).runHost(options));

  program
    .command('demo')
    .description('show a loopback guest reading and writing a disk image through a real ring')
    .option('--disk <image>', 'a raw image to use instead of a fresh ext4 one; it ends as it began')
    .option('--check', 'end after the check; status 0 only if all of it held')
    .option('--socket <path>', 'where its xenstore listens')
    .option('--log-level <level>', 'log level', logLevel, 'info')
    .action(async (options: DemoOptions) => {
      const { runDemo } = await import('./commands/demo.ts');
      if (!(await runDemo(options))) process.exitCode = 1;
    });

  program
    .command('xenstored')
    .description('serve a xenstore on a unix socket')
    .option('--socket <path>', 'the socket', DEFAULT_SOCKET_PATH)
    .option('--log-level <level>', 'log level', 'info')
    .action(async (options: XenstoredOptions) => (await import('./commands/xenstored.ts')).runXenstored(options));

  const xenstore = program.command('xenstore').description('look into a xenstore and change it');
  const client = (name: string) =>
    xenstore
      .command(name)
      .option('-s, --socket <path>', "xenstored's socket (default: XENSTORED_PATH, this machine's, a loopback host's)");
  client('ls')
    .description('print every node below a path')
    .argument('[path]', 'path', '/')
    .action(async (path: string, options: ClientOptions) => (await store()).list(path, options));
  client('read')
    .description('print values')
    .argument('<paths...>')
    .action(async (paths: string[], options: ClientOptions) => (await store()).read(paths, options));
  client('write')
    .description('write values, all or none')
    .argument('<path value...>')
    .action(async (pairs: string[], options: ClientOptions) => (await store()).write(pairs, options));
  client('rm')
    .description('remove nodes and all below them')
    .argument('<paths...>')
    .action(async (paths: string[], options: ClientOptions) => (await store()).remove(paths, options));
  client('list')
    .description("print the names of a node's children")
    .argument('<path>')
    .action(async (path: string, options: ClientOptions) => (await store()).children(path, options));
  client('watch')
    .description('print events')
    .argument('<paths...>')
    .option('-n, --count <events>', 'end after so many', positiveInteger)
    .action(async (paths: string[], options: ClientOptions & { count?: number }) =>
      (await store()).watch(paths, options.count, options),
    );
  client('chmod')
    .description('set permissions, for example n0 r1')
    .argument('<path>')
    .argument('<permissions...>')
    .action(async (path: string, entries: string[], options: ClientOptions) =>
      (await store()).chmod(path, entries, options),
    );

  program
    .command('block-attach')
    .description('attach a disk to a running guest')
    .argument('<domain>', 'number or name')
    .argument('<disk>', 'for example format=raw,vdev=xvdb,access=rw,target=/path')
    .option('--backend <domain>', 'the domain that serves it', '0')
    .option('-s, --socket <path>', "xenstored's socket")
    .action(async (guest: string, disk: string, options: AttachOptions) =>
      (await block()).attach(guest, disk, options),
    );
  program
    .command('block-detach')
    .description('detach a disk from a running guest')
    .argument('<domain>', 'number or name')
    .argument('<vdev>', 'for example xvdb')
    .option('-s, --socket <path>', "xenstored's socket")
    .action(async (guest: string, vdev: string, options: ClientOptions) =>
      (await block()).detach(guest, vdev, options),
    );
  program
    .command('block-list')
    .description('list the disks of a guest')
    .argument('<domain>', 'number or name')
    .option('-s, --socket <path>', "xenstored's socket")
    .action(async (guest: string, options: ClientOptions) => (await block()).listDisks(guest, options));

  program
    .command('log-level')
    .description('change the log level of the running host')
    .argument('<level>', 'trace, debug, info, warn, error or silent', logLevel)
    .option('-s, --socket <path>', "xenstored's socket")
    .action(async (level: string, options: ClientOptions) =>
      (await store()).write([`/local/domain/0/${LOG_LEVEL_NODE}`, level], options),
    );
  return program;
}

/** One clear sentence on standard error, and the status that it deserves. */
function fail(error: unknown): number {
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return 0;
    const missing = error.code === 'commander.help'; // shown for want of a command, so it is no help
    const message = missing ? "a command is missing; 'pvkit --help' lists them" : error.message.replace(/^error: /, '');
    process.stderr.write(`pvkit: ${message}\n`);
    return 2;
  }
  if (error instanceof PvError) {
    process.stderr.write(`pvkit: ${error.message}\n`);
    return error instanceof ConfigurationError ? 2 : 1;
  }
  process.stderr.write(
    `pvkit: internal error: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`,
  );
  return 1;
}

try {
  await build().parseAsync();
} catch (error) {
  process.exitCode = fail(error);
}
