import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { pino } from 'pino';
import { describe, expect, it } from 'vitest';
import { logObserver } from './log.ts';

function fixture(level: string) {
  const lines: Record<string, unknown>[] = [];
  const log = pino({ level, base: null }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  let time = 0;
  const observe = logObserver(log, () => time);
  return { lines, observe, pass: (milliseconds: number) => (time += milliseconds) };
}

describe('logObserver', () => {
  it('logs events with their facts, each at its level', () => {
    const { lines, observe } = fixture('info');
    observe('blkback.request-refused', { domid: 3, device: 'vbd/51712', reason: 'no' });
    observe('xenbus.backend-action', { domid: 3, action: 'wait' });
    expect(lines).toMatchObject([
      { level: 40, msg: 'blkback.request-refused', domid: 3, device: 'vbd/51712', reason: 'no' },
    ]);
  });

  it('lets a domain cause so many entries of an event in a while, then counts; others are not affected', () => {
    const { lines, observe, pass } = fixture('info');
    for (let times = 0; times < 500; times++) observe('xenstored.quota-refused', { domid: 7 });
    observe('xenstored.quota-refused', { domid: 8 });
    expect(lines.filter(({ domid }) => domid === 7)).toHaveLength(20);
    expect(lines.filter(({ domid }) => domid === 8)).toHaveLength(1);
    pass(10_000);
    observe('xenstored.quota-refused', { domid: 7 });
    expect(lines.at(-1)).toMatchObject({ domid: 7, omitted: 480 });
  });

  it('publishes every event on its diagnostics channel, whatever the log takes', () => {
    const seen: unknown[] = [];
    const listener = (facts: unknown) => void seen.push(facts);
    subscribe('pvkit:xenbus.backend-action', listener);
    const { lines, observe } = fixture('silent');
    for (let times = 0; times < 30; times++) observe('xenbus.backend-action', { domid: 1 });
    unsubscribe('pvkit:xenbus.backend-action', listener);
    expect(seen).toHaveLength(30);
    expect(lines).toEqual([]);
  });
});
