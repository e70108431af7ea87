import { describe, expect, it } from 'vitest';
import { PollBeforeSleep } from './poll-before-sleep.ts';
import { type Runtime, standardRuntime } from './runtime.ts';

/** A clock that moves 0.05 ms a turn, and turns that run when told. */
function fixture(pollMilliseconds: number | undefined) {
  let now = 0;
  const turns: (() => void)[] = [];
  const runtime: Runtime = { ...standardRuntime(), now: () => now, nextTurn: (callback) => void turns.push(callback) };
  const seen = { looks: 0, worked: 0, slept: 0 };
  const side = { ready: false, expecting: true };
  const poll = new PollBeforeSleep(pollMilliseconds === undefined ? { runtime } : { runtime, pollMilliseconds }, {
    ready: () => {
      seen.looks++;
      return side.ready;
    },
    expecting: () => side.expecting,
    work: () => void seen.worked++,
    sleep: () => void seen.slept++,
  });
  const run = () => {
    for (let turn = turns.shift(); turn !== undefined; turn = turns.shift()) {
      now += 0.05;
      turn();
    }
  };
  return { poll, seen, side, run };
}

describe('PollBeforeSleep', () => {
  it('sleeps at once on a platform that does not want it', () => {
    const { poll, seen, run } = fixture(undefined);
    poll.idle();
    run();
    expect(seen).toEqual({ looks: 0, worked: 0, slept: 1 });
  });

  it('looks until its time is over, then sleeps', () => {
    const { poll, seen, run } = fixture(0.2);
    poll.idle();
    run();
    expect(seen.looks).toBeGreaterThan(2);
    expect(seen).toMatchObject({ worked: 0, slept: 1 });
  });

  it('works as soon as there is work', () => {
    const { poll, seen, side, run } = fixture(0.2);
    side.ready = true;
    poll.idle();
    run();
    expect(seen).toEqual({ looks: 1, worked: 1, slept: 0 });
  });

  it('gives up for longer and longer where it never finds anything, and tries again', () => {
    const { poll, seen, run } = fixture(0.2);
    const attempts: number[] = [];
    for (let idle = 0; idle < 200; idle++) {
      const before = seen.looks;
      poll.idle();
      run();
      if (seen.looks > before) attempts.push(idle);
    }
    expect(seen.slept).toBe(200);
    expect(attempts.slice(0, 4)).toEqual([0, 1, 2, 3]);
    const gaps = attempts.slice(4).map((at, index) => at - attempts[index + 3]!);
    expect(gaps).toEqual([9, 17, 33, 65]);
  });

  it('learns nothing from a sleep in which nothing was to be expected', () => {
    const { poll, seen, side, run } = fixture(0.2);
    side.expecting = false;
    for (let idle = 0; idle < 50; idle++) {
      poll.idle();
      run();
    }
    expect(seen).toEqual({ looks: 50, worked: 0, slept: 50 });
  });

  it('calls nothing after stop', () => {
    const { poll, seen, run } = fixture(0.2);
    poll.idle();
    poll.stop();
    run();
    poll.idle();
    run();
    expect(seen).toEqual({ looks: 0, worked: 0, slept: 0 });
  });
});
