import { expect, it } from 'vitest';
import { EventDamper } from './event-damper.ts';
import { standardRuntime } from './runtime.ts';

it('takes 32 empty events in a row as they come, then rests for longer and longer, until there is work', () => {
  const rests: number[] = [];
  let unmasked = 0;
  const timer = (milliseconds: number, callback: () => void) => {
    rests.push(milliseconds);
    callback();
    return { cancel: () => {} };
  };
  const damper = new EventDamper({ ...standardRuntime(), timer });
  for (let event = 0; event < 40; event++) damper.empty(() => void unmasked++);
  expect(rests).toEqual([1, 2, 4, 8, 16, 32, 32, 32]);
  damper.worked();
  damper.empty(() => void unmasked++);
  expect(rests).toHaveLength(8);
  expect(unmasked).toBe(41);
  expect(damper.spurious).toBe(41);
});
