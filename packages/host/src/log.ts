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

/** Entries of one event that one domain can cause in a while: a guest must not fill a log. */
const ENTRIES_MAX = 20;
const WHILE_MS = 10_000;

interface Budget {
  since: number;
  entries: number;
}

/**
 * Publishes every event on the diagnostics channel `pvkit:<event>` and writes it to the log: the facts first, the event's
 * name as the message. Of what one domain causes again and again, the log has the first of each while and then a count.
 */
export function logObserver(log: Logger, now: () => number = () => performance.now()): Observer {
  const budgets = new Map<string, Budget>();
  /** How many entries were left out before this one; undefined when this one is to be left out too. */
  const omitted = (event: string, domid: unknown): number | undefined => {
    const key = `${event}/${String(domid)}`;
    const budget = budgets.get(key);
    if (budget === undefined || now() - budget.since >= WHILE_MS) {
      budgets.set(key, { since: now(), entries: 1 });
      return Math.max((budget?.entries ?? 0) - ENTRIES_MAX, 0);
    }
    budget.entries++;
    return budget.entries <= ENTRIES_MAX ? 0 : undefined;
  };
  return (event, facts) => {
    const listeners = channel(`pvkit:${event}`);
    if (listeners.hasSubscribers) listeners.publish(facts);
    const level = LEVELS[event] ?? (event.startsWith('xenstored.') ? 'trace' : 'debug');
    if (level === 'silent' || !log.isLevelEnabled(level)) return;
    const before = facts.domid === undefined ? 0 : omitted(event, facts.domid);
    if (before === undefined) return;
    const { error, ...rest } = facts;
    const entry = {
      ...rest,
      ...(before > 0 ? { omitted: before } : {}),
      ...(error === undefined ? {} : { err: error }),
    };
    log[level](entry, event);
  };
}
