import { describe, expect, it } from 'vitest';
import type { Quotas } from '../store/quota.ts';
import { runScript } from '../testing/script.ts';
import { ServerFixture } from '../testing/server-fixture.ts';

/** Runs a script against a server of these limits and returns what was refused, by name. */
async function refusals(quotas: Partial<Quotas>, script: readonly string[]) {
  const fixture = new ServerFixture({ quotas });
  const setUp = ['A MKDIR /t| -> OK|', 'A SET_PERMS /t|n0|b1| -> OK|'];
  const lines = [...setUp, ...script];
  const { happened, clients } = await runScript((name) => Promise.resolve(fixture.raw(name)), lines);
  expect(happened).toEqual(lines);
  expect(fixture.server.store.check()).toEqual([]);
  for (const client of clients.values()) client.close();
  return fixture.refusals();
}

const refused = (quota: string, limit: number, value: number) => [{ domid: 1, quota, limit, value }];

describe('quotas of a domain, each refusal named', () => {
  it('have the defaults of C xenstored', () => {
    const { server } = new ServerFixture();
    const limits = ['nodes', 'watches', 'transactions', 'transaction-nodes', 'node-size'] as const;
    expect(limits.map((name) => server.quotas.limit(name))).toEqual([1000, 128, 10, 1024, 2048]);
    expect(server.quotas.limit('node-permissions')).toBe(5);
    expect(server.quotas.limit('outstanding')).toBe(20);
  });

  it('nodes: those that it owns, missing parents included', async () => {
    const script = [
      'D1 WRITE /t/a|v -> OK|',
      'D1 WRITE /t/b/c/d|v -> ENOSPC',
      'D1 WRITE /t/b/c|v -> OK|',
      'D1 WRITE /t/e|v -> ENOSPC',
      'D1 RM /t/b| -> OK|',
      'D1 WRITE /t/e|v -> OK|',
      'A WRITE /t/more|v -> OK|',
    ];
    const expected = [...refused('nodes', 3, 4), ...refused('nodes', 3, 4)];
    expect(await refusals({ nodes: 3 }, script)).toEqual(expected);
  });

  it('nodes: counted at commit against the live store', async () => {
    const script = [
      'D1 START -> $1',
      'D1 WRITE(1) /t/a/x|v -> OK|',
      'D1 MKDIR /t/a| -> OK|',
      'D1 RM /t/a| -> OK|',
      'D1 TRANSACTION_END(1) F| -> OK|',
      'A MKDIR /t/p| -> OK|',
      'A MKDIR /t/q| -> OK|',
      'D1 START -> $2',
      'D1 WRITE(2) /t/p/x|v -> OK|',
      'D1 WRITE(2) /t/p/y|v -> OK|',
      'D1 WRITE /t/q/z|v -> OK|',
      'D1 TRANSACTION_END(2) T| -> ENOSPC',
      'D1 READ /t/p/x| -> ENOENT',
    ];
    expect(await refusals({ nodes: 2 }, script)).toEqual(refused('nodes', 2, 3));
  });

  it('watches', async () => {
    const script = [
      'D1 WATCH /t/a|1| -> OK|',
      'D1 WATCH /t/a|2| -> OK|',
      'D1 WATCH /t/a|3| -> ENOSPC',
      'D1 UNWATCH /t/a|1| -> OK|',
      'D1 WATCH /t/a|3| -> OK|',
      'A WATCH /t/a|1| -> OK|',
      'A WATCH /t/a|2| -> OK|',
      'A WATCH /t/a|3| -> OK|',
    ];
    expect(await refusals({ watches: 2 }, script)).toEqual(refused('watches', 2, 3));
  });

  it('transactions', async () => {
    const script = ['D1 START -> $1', 'D1 START -> ENOSPC', 'D1 TRANSACTION_END(1) T| -> OK|', 'D1 START -> $2'];
    expect(await refusals({ transactions: 1 }, script)).toEqual(refused('transactions', 1, 2));
  });

  it('nodes of one transaction, which can then only be aborted', async () => {
    const script = [
      'D1 START -> $1',
      'D1 READ(1) /t/a| -> ENOENT',
      'D1 READ(1) /t/b| -> ENOENT',
      'D1 READ(1) /t/c| -> ENOSPC',
      'D1 TRANSACTION_END(1) T| -> ENOMEM',
    ];
    expect(await refusals({ 'transaction-nodes': 3 }, script)).toEqual(refused('transaction-nodes', 3, 4));
  });

  it('size of a node: value, names of children and permissions', async () => {
    const script = [
      `D1 WRITE /t/a|${'x'.repeat(70)} -> ENOSPC`,
      `D1 WRITE /t/a|${'x'.repeat(60)} -> OK|`,
      'D1 MKDIR /t/a/child| -> ENOSPC',
      'D1 WRITE /t/a|x -> OK|',
      'D1 MKDIR /t/a/child| -> OK|',
    ];
    const expected = [...refused('node-size', 104, 110), ...refused('node-size', 104, 106)];
    expect(await refusals({ 'node-size': 104 }, script)).toEqual(expected);
  });

  it('permissions of a node', async () => {
    const script = [
      'D1 MKDIR /t/a| -> OK|',
      'D1 SET_PERMS /t/a|n1|r2|r3| -> ENOSPC',
      'D1 SET_PERMS /t/a|n1|r2| -> OK|',
      'A SET_PERMS /t/a|n1|r2|r3| -> OK|',
    ];
    expect(await refusals({ 'node-permissions': 2 }, script)).toEqual(refused('node-permissions', 2, 3));
  });

  it('length of a path, below the own or another domain counted without the prefix', async () => {
    const script = [
      `D1 READ /t/${'a'.repeat(20)}| -> EINVAL`,
      `D1 READ ${'a'.repeat(20)}| -> EACCES`,
      `A READ /t/${'a'.repeat(20)}| -> ENOENT`,
    ];
    expect(await refusals({ 'path-max': 20 }, script)).toEqual(refused('path-max', 20, 23));
  });

  it('can be switched off, and changed while the server runs', async () => {
    const script = [
      'D1 WATCH /t/a|1| -> OK|',
      'D1 WATCH /t/a|2| -> OK|',
      'A CONTROL quota|set|watches|2| -> OK|',
      'D1 WATCH /t/a|3| -> ENOSPC',
      'A CONTROL quota|set|watches|3| -> OK|',
      'D1 WATCH /t/a|3| -> OK|',
      'A CONTROL quota|set|watches|0| -> EINVAL',
      'A CONTROL quota|set|nonsense|1| -> EINVAL',
    ];
    expect(await refusals({ watches: 0 }, script)).toHaveLength(1);
  });

  it('leave nothing behind when the connection ends', async () => {
    const fixture = new ServerFixture();
    const client = fixture.raw('D1');
    await client.request('WATCH', 0, '/t\0tok\0');
    await client.request('TRANSACTION_START', 0, '\0');
    expect(fixture.server.quotas.account(1)).toEqual({ nodes: 0, watches: 1, transactions: 1 });
    client.close();
    await expect.poll(() => fixture.server.counters().connections).toBe(0);
    expect(fixture.server.quotas.account(1)).toEqual({ nodes: 0, watches: 0, transactions: 0 });
  });
});
