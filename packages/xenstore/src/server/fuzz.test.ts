import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { RawClient } from '../testing/raw-client.ts';
import { ServerFixture } from '../testing/server-fixture.ts';
import { PacketWriter, XsdSockmsgType } from '../wire.ts';

const types = Object.values(XsdSockmsgType);
const part = fc.constantFrom(
  ...[
    '/',
    '/a',
    '/a/b',
    'a',
    '/local/domain/1',
    '@releaseDomain',
    '@introduceDomain',
    '@x/1',
    'tok',
    'T',
    'F',
    '',
    '0',
  ],
  ...['1', '2', '-1', '99999', 'n1', 'r0', 'b2', 'w1', 'x', 'help', 'check', 'quota', 'set', 'nodes', 'print', 'log'],
  ...[`/${'a/'.repeat(500)}a`, 'a'.repeat(2100), '\xff', '/a//b', 'on'],
);
const payload = fc
  .tuple(fc.array(part, { maxLength: 5 }), fc.boolean(), fc.boolean())
  .map(([parts, leading, ended]) => `${leading ? '/' : ''}${parts.join('\0')}${ended ? '\0' : ''}`.slice(0, 4096));
const request = fc.record({
  who: fc.constantFrom('A', 'B', 'D1', 'D2'),
  type: fc.oneof({ weight: 10, arbitrary: fc.constantFrom(...types) }, fc.nat(40), fc.nat(0xffff_ffff)),
  txId: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.nat(3), fc.nat(0xffff_ffff)),
  payload: fc.oneof({ weight: 5, arbitrary: payload }, fc.string({ unit: 'binary-ascii', maxLength: 60 })),
});

async function expectUndisturbed(fixture: ServerFixture, witness: RawClient): Promise<void> {
  expect(await witness.request('READ', 0, '/witness\0')).toBe('kept');
  expect(fixture.observed.filter(({ event }) => event === 'xenstored.internal-error')).toEqual([]);
  expect(fixture.server.store.check()).toEqual([]);
}

/** A server, a client that must notice nothing, and domains that may write. */
async function setUp() {
  const fixture = new ServerFixture({ withHost: true, quotas: { outstanding: 0 } });
  for (const domid of [1, 2]) fixture.existing.add(domid);
  const witness = fixture.raw();
  for (const [operation, payload] of [
    ['WRITE', '/witness\0kept'],
    ['WRITE', '/a\0v'],
    ['SET_PERMS', '/a\0b0\0'],
    ['INTRODUCE', '1\x001\x001\0'],
  ] as const)
    await witness.request(operation, 0, payload);
  return { fixture, witness };
}

describe('whatever a client sends', () => {
  it('gets one reply for each request, and nobody else notices', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(request, { maxLength: 60, size: 'max' }), async (requests) => {
        const { fixture, witness } = await setUp();
        const clients = new Map(['A', 'B', 'D1', 'D2'].map((name) => [name, fixture.raw(name)]));
        for (const { who, type, txId, payload } of requests) {
          const client = clients.get(who);
          if (client === undefined) throw new Error(`no client ${who}`);
          // What removes the witness's node, or what would end a client by design, is not what this is about.
          if (who !== 'D1' && who !== 'D2' && (type === XsdSockmsgType.XS_CONTROL || /^\/\0/.test(payload))) continue;
          const closed = client.closed.then(() => undefined);
          const reply = await Promise.race([
            client.requestByNumber(type, txId, payload).catch(() => undefined),
            closed,
          ]);
          // Only the ring of a domain that was introduced again, or released, ends.
          if (reply === undefined) expect(who).toMatch(/^D/);
        }
        await expectUndisturbed(fixture, witness);
        fixture.server.close();
        expect(fixture.server.counters()).toMatchObject({ connections: 0, watches: 0 });
        for (const account of fixture.server.quotas.accounts().values())
          expect(account).toMatchObject({ watches: 0, transactions: 0 });
      }),
      { numRuns: 150 },
    );
  });

  it('be it mutated bytes, ends that connection at most', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(request, { minLength: 1, maxLength: 12 }),
        fc.array(fc.record({ at: fc.nat(), to: fc.nat(255) }), { maxLength: 8 }),
        fc.array(fc.nat(), { maxLength: 4 }),
        async (requests, mutations, cuts) => {
          const { fixture, witness } = await setUp();
          const hostile = fixture.raw('D1');
          const writer = new PacketWriter();
          for (const { type, txId, payload } of requests) {
            writer.begin(type, 7, txId);
            writer.text(payload);
            writer.end();
          }
          const bytes = writer.bytes.slice();
          for (const { at, to } of mutations) bytes[at % bytes.length] = to;
          const positions = cuts.map((cut) => cut % bytes.length).sort((a, b) => a - b);
          for (const [i, to] of [...positions, bytes.length].entries())
            hostile.send(bytes.slice(positions[i - 1] ?? 0, to));
          await expectUndisturbed(fixture, witness);
          hostile.close();
          fixture.server.close();
        },
      ),
      { numRuns: 300 },
    );
  });
});
