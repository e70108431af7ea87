/** The log: pino, human on a terminal and JSON elsewhere; and the observer that turns the layers' named events into it. */
import { channel } from 'node:diagnostics_channel';
import type { Observer } from '@pvkit/ring';
import { type Logger, pino } from 'pino';
import pretty from 'pino-pretty';
import type { LogLevel } from './log-level.ts';

export type { Logger } from 'pino';

/** A log on standard error. */
export function createLog(level: LogLevel): Logger {
  const options = { level, base: null };
  if (!process.stderr.isTTY) return pino(options, pino.destination({ dest: 2, sync: true }));
  return pino(options, pretty({ destination: 2, sync: true, ignore: 'pid,hostname', translateTime: 'SYS:HH:MM:ss.l' }));
}

/** Events that an operator should see although nobody asked; everything else is for `debug`. */
const LEVELS: Readonly<Record<string, LogLevel>> = {
  'blkback.request-refused': 'warn',
  'xenbus.backend-open-failed': 'error',
  'xenbus.backend-connect-failed': 'warn',
  'xenbus.backend-disconnected': 'warn',
  'xenbus.backend-foreign-frontend': 'warn',
  'xenbus.backend-reconcile-failed': 'error',
  'xenbus.scan-failed': 'error',
  'xenbus.frontend-failed': 'warn',
  'xenstore.watch-callback-failed': 'error',
  'xenstored.quota-refused': 'warn',
  'xenstored.internal-error': 'error',
  'xenstored.introduce-failed': 'warn',
  'xenstored.introduced': 'info',
  'xenstored.released': 'info',
};

/**
 * Publishes every event on the diagnostics channel `pvkit:<event>` and writes it to the log: the facts first, the event's
 * name as the message.
 */
export function logObserver(log: Logger): Observer {
  return (event, facts) => {
    const listeners = channel(`pvkit:${event}`);
    if (listeners.hasSubscribers) listeners.publish(facts);
    const level = LEVELS[event] ?? (event.startsWith('xenstored.') ? 'trace' : 'debug');
    if (level === 'silent' || !log.isLevelEnabled(level)) return;
    const { error, ...rest } = facts;
    log[level](error === undefined ? rest : { ...rest, err: error }, event);
  };
}
