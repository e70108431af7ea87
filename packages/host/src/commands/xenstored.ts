/** `pvkit xenstored`: the store alone, on a unix socket. */
import { standardRuntime } from '@pvkit/ring';
import { XenstoreServer } from '@pvkit/xenstore/server';
import { listenUnix } from '@pvkit/xenstore/unix';
import { createLog, logObserver } from '../log.ts';
import { logLevel } from '../log-level.ts';
import { Shutdown } from '../shutdown.ts';

export interface XenstoredOptions {
  readonly socket: string;
  readonly logLevel: string;
}

export async function runXenstored(options: XenstoredOptions): Promise<void> {
  const log = createLog(logLevel(options.logLevel));
  const shutdown = new Shutdown(log);
  const server = new XenstoreServer({ runtime: standardRuntime(logObserver(log)) });
  server.observesRequests = log.isLevelEnabled('trace');
  shutdown.add('connections', () => server.close());
  const listener = await listenUnix(options.socket, (transport) => server.connect(transport));
  shutdown.add('the socket', () => listener.close());
  log.info(`xenstore on ${options.socket}`);
  log.info(`${await shutdown.requested}: closing`);
  await shutdown.run();
}
