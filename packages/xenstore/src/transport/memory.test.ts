import { standardRuntime } from '@pvkit/ring';
import { describe, expect, it } from 'vitest';
import { memoryTransportPair } from './memory.ts';

const bytes = (text: string) => Uint8Array.from(text, (character) => character.charCodeAt(0));
const text = (chunk: Uint8Array) => String.fromCharCode(...chunk);

describe('a pair of memory transports', () => {
  it('delivers copies, in order, in a later turn', async () => {
    const [a, b] = memoryTransportPair(standardRuntime());
    const received: string[] = [];
    b.start({ data: (chunk) => received.push(text(chunk)), closed: () => undefined });
    const reused = bytes('one');
    a.send(reused);
    reused.set(bytes('two'));
    a.send(reused);
    expect(received).toEqual([]);
    expect(a.bufferedBytes).toBe(6);
    await expect.poll(() => received).toEqual(['one', 'two']);
    expect(a.bufferedBytes).toBe(0);
  });

  it('holds back while paused, and tells when it has drained', async () => {
    const [a, b] = memoryTransportPair(standardRuntime());
    const received: string[] = [];
    let drained = 0;
    a.start({ data: () => undefined, closed: () => undefined, drained: () => drained++ });
    b.start({
      data: (chunk) => {
        received.push(text(chunk));
        b.pause();
      },
      closed: () => undefined,
    });
    a.send(bytes('1'));
    a.send(bytes('2'));
    await expect.poll(() => received).toEqual(['1']);
    expect([a.bufferedBytes, drained]).toEqual([1, 0]);
    b.resume();
    await expect.poll(() => drained).toBe(1);
    expect(received).toEqual(['1', '2']);
  });

  it('delivers what was sent before the close, then tells once', async () => {
    const [a, b] = memoryTransportPair(standardRuntime());
    const received: string[] = [];
    b.start({ data: (chunk) => received.push(text(chunk)), closed: () => received.push('closed') });
    a.send(bytes('last'));
    a.close();
    a.close();
    a.send(bytes('never'));
    await expect.poll(() => received).toEqual(['last', 'closed']);
    b.close();
    expect(received).toHaveLength(2);
  });
});
