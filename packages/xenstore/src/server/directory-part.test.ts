import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ServerFixture } from '../testing/server-fixture.ts';

describe('DIRECTORY_PART', () => {
  it('gives the list of DIRECTORY in parts, ended by an empty string, with the generation count', async () => {
    const name = fc.string({ unit: fc.constantFrom(...'abc-_'), minLength: 1, maxLength: 900 });
    await fc.assert(
      fc.asyncProperty(fc.uniqueArray(name, { maxLength: 30 }), async (names) => {
        const fixture = new ServerFixture();
        const client = fixture.raw();
        await client.request('MKDIR', 0, '/t\0');
        for (const name of names) await client.request('MKDIR', 0, `/t/${name}\0`);
        const list: string[] = [];
        const generations = new Set<string>();
        for (let offset = 0; ; ) {
          const reply = await client.request('DIRECTORY_PART', 0, `/t\0${offset}\0`);
          expect(reply.length).toBeLessThanOrEqual(4096);
          const [generation = '', ...part] = reply.slice(0, -1).split('\0');
          generations.add(generation);
          expect(part.length).toBeGreaterThan(0);
          for (const name of part) offset += name.length + 1;
          list.push(...part);
          if (part.at(-1) === '') break;
        }
        expect(list).toEqual([...names, '']);
        expect(generations.size).toBe(1);
        fixture.server.close();
      }),
      { numRuns: 30 },
    );
  });

  it('changes the generation count when the list changes', async () => {
    const client = new ServerFixture().raw();
    await client.request('MKDIR', 0, '/t/a\0');
    const before = await client.request('DIRECTORY_PART', 0, '/t\x000\0');
    await client.request('MKDIR', 0, '/t/b\0');
    const after = await client.request('DIRECTORY_PART', 0, '/t\x000\0');
    expect(before.split('\0')[0]).not.toBe(after.split('\0')[0]);
    expect(after).toMatch(/^\d+\0a\0b\0\0$/);
  });

  it('from within a name, or from behind the list, as C xenstored does', async () => {
    const client = new ServerFixture().raw();
    await client.request('MKDIR', 0, '/t/ab\0');
    await client.request('MKDIR', 0, '/t/cd\0');
    expect(await client.request('DIRECTORY_PART', 0, '/t\x001\0')).toMatch(/^\d+\0b\0cd\0\0$/);
    expect(await client.request('DIRECTORY_PART', 0, '/t\x0099\0')).toMatch(/^\d+\0\0$/);
  });
});
