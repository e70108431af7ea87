/** The log's levels. The level can be changed while a host runs: it follows a node below the domain's home. */
import { ConfigurationError } from '@pvkit/ring';
import type { WatchHandle, XenstoreClient } from '@pvkit/xenstore';
import type { Logger } from 'pino';

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** @throws ConfigurationError naming the levels there are. */
export function logLevel(text: string): LogLevel {
  const level = LOG_LEVELS.find((known) => known === text);
  if (level === undefined) throw new ConfigurationError(`log level '${text}' is none of ${LOG_LEVELS.join(', ')}`);
  return level;
}

/** Relative to the home of the host's domain; `data` is what any domain may write. */
export const LOG_LEVEL_NODE = 'data/pvkit/log-level';

export function followLogLevel(client: XenstoreClient, log: Logger): Promise<WatchHandle> {
  const look = async (): Promise<void> => {
    const text = await client.readOptional(LOG_LEVEL_NODE);
    const level = LOG_LEVELS.find((known) => known === text);
    if (level === undefined || level === log.level) return;
    log.level = level;
    log.info(`log level is now ${level}`);
  };
  return client.watchCallback(LOG_LEVEL_NODE, () => {
    look().catch((error: unknown) => log.warn({ err: error }, 'the log level could not be read'));
  });
}
