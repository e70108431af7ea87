import { expect, it } from 'vitest';
import { Reconciler } from './reconciler.ts';

/** A step that waits to be let go, one call of `release` for each run. */
class Gate {
  runs = 0;
  running = 0;
  most = 0;
  #release: (() => void) | undefined;
  #fail: ((error: Error) => void) | undefined;

  readonly step = async (): Promise<void> => {
    this.runs++;
    this.running++;
    this.most = Math.max(this.most, this.running);
    try {
      await new Promise<void>((resolve, reject) => {
        this.#release = resolve;
        this.#fail = reject;
      });
    } finally {
      this.running--;
    }
  };

  async release(error?: Error): Promise<void> {
    if (error === undefined) this.#release?.();
    else this.#fail?.(error);
    for (let turn = 0; turn < 5; turn++) await Promise.resolve();
  }
}

const make = () => {
  const gate = new Gate();
  const errors: unknown[] = [];
  return { gate, errors, reconciler: new Reconciler(gate.step, (error) => errors.push(error)) };
};

it('does nothing before it is asked', () => {
  expect(make().gate.runs).toBe(0);
});

it('never runs two steps at a time, and once more when asked meanwhile, however often', async () => {
  const { gate, reconciler } = make();
  reconciler.look();
  expect(reconciler.asked).toBe(false);
  for (let times = 0; times < 10; times++) reconciler.look();
  expect(reconciler.asked).toBe(true);
  expect(gate.runs).toBe(1);
  await gate.release();
  expect([gate.runs, reconciler.asked]).toEqual([2, false]);
  await gate.release();
  expect(gate.runs).toBe(2);
  reconciler.look();
  await gate.release();
  expect([gate.runs, gate.most, gate.running]).toEqual([3, 1, 0]);
});

it('reports what a step throws, and runs the next', async () => {
  const { gate, errors, reconciler } = make();
  reconciler.look();
  reconciler.look();
  await gate.release(new Error('first'));
  expect(gate.runs).toBe(2);
  await gate.release(new Error('second'));
  expect(errors).toEqual([new Error('first'), new Error('second')]);
  reconciler.look();
  expect(gate.runs).toBe(3);
  await gate.release();
});

it('looks again when the report of a failure asks for it', async () => {
  let runs = 0;
  const reconciler: Reconciler = new Reconciler(
    () => (++runs === 1 ? Promise.reject(new Error('once')) : Promise.resolve()),
    () => reconciler.look(),
  );
  reconciler.look();
  while (runs < 2) await Promise.resolve();
  await reconciler.stop();
  expect(runs).toBe(2);
});

it('stop waits for the step under way, and lets no other begin', async () => {
  const { gate, reconciler } = make();
  reconciler.look();
  reconciler.look();
  const ended: number[] = [];
  const stops = [1, 2].map((stop) => reconciler.stop().then(() => ended.push(stop)));
  reconciler.look();
  await Promise.resolve();
  expect(ended).toEqual([]);
  await gate.release();
  await Promise.all(stops);
  expect(gate.runs).toBe(1);
  reconciler.look();
  await reconciler.stop();
  expect([gate.runs, ended]).toEqual([1, [1, 2]]);
});

it('may be stopped from within its own step, without waiting for itself', async () => {
  let runs = 0;
  const reconciler: Reconciler = new Reconciler(
    async () => {
      runs++;
      reconciler.look();
      void reconciler.stop();
    },
    () => {},
  );
  reconciler.look();
  await reconciler.stop();
  expect(runs).toBe(1);
});

it('tells a step that would loop for ever that it was stopped', async () => {
  let rounds = 0;
  const reconciler: Reconciler = new Reconciler(
    async () => {
      for (; !reconciler.stopped; rounds++) await new Promise((resolve) => void setImmediate(resolve));
    },
    () => {},
  );
  reconciler.look();
  await reconciler.stop();
  expect(rounds).toBe(1);
});
