import { describe, expect, it } from 'vitest';
import {
  type BackendAction,
  type BackendView,
  backendAction,
  type FrontendAction,
  type FrontendView,
  frontendAction,
  vbdBackendLifeCycle,
  vbdFrontendLifeCycle,
} from './life-cycle.ts';
import { XenbusState as S, type XenbusState, type XenbusStateName } from './state.ts';

const states = Object.keys(S) as XenbusStateName[];

/** `back`: the column of a table: what is done for each state of the other end, in the order of the numbers. */
const columns = <T>(actions: readonly T[]) => states.map((name, index) => [name, actions[index]!] as const);

describe('a backend', () => {
  const idle: Omit<BackendView, 'own' | 'peer'> = { online: true, opened: true, connected: false, failed: false };
  const up = { ...idle, connected: true };
  const table: [string, XenbusState | undefined, Omit<BackendView, 'own' | 'peer'>, string][] = [
    // Peer:                               Unknown   Initialising InitWait Initialised Connected Closing  Closed Reconfig.  -ed
    ['Initialising', S.Initialising, { ...idle, opened: false }, 'init init init init init init init init init'],
    ['with a state that says nothing', S.Unknown, up, 'init init init init init init init init init'],
    ['InitWait', S.InitWait, idle, 'close wait wait connect connect announce close wait wait'],
    [
      'InitWait, of a predecessor',
      S.InitWait,
      { ...idle, opened: false },
      'init init init init init init init init init',
    ],
    [
      'InitWait by somebody else',
      S.InitWait,
      up,
      'restart restart restart restart restart restart restart restart restart',
    ],
    [
      'InitWait, offline',
      S.InitWait,
      { ...idle, online: false },
      'close close close close close close close close close',
    ],
    [
      'InitWait, failed',
      S.InitWait,
      { ...idle, failed: true },
      'close close close close close close close close close',
    ],
    ['Connected', S.Connected, up, 'close restart wait wait wait announce close wait wait'],
    [
      'Connected, of a predecessor',
      S.Connected,
      { ...idle, opened: false },
      'close announce announce announce announce announce close announce announce',
    ],
    [
      'Connected, failed',
      S.Connected,
      { ...up, failed: true },
      'close announce announce announce announce announce close announce announce',
    ],
    ['Closing', S.Closing, up, 'close wait wait wait wait wait close wait wait'],
    ['Closing, offline', S.Closing, { ...up, online: false }, 'close wait wait wait wait wait close wait wait'],
    ['Closing, never connected', S.Closing, idle, 'close close close close close close close close close'],
    ['Closing, failed', S.Closing, { ...up, failed: true }, 'close close close close close close close close close'],
    ['Closed', S.Closed, { ...idle, opened: false }, 'wait init wait wait wait wait wait wait wait'],
    [
      'Closed, offline',
      S.Closed,
      { ...idle, opened: false, online: false },
      'wait wait wait wait wait wait wait wait wait',
    ],
    ['Closed by somebody else', S.Closed, up, 'close close close close close close close close close'],
    ['Closed by somebody else, open', S.Closed, idle, 'close close close close close close close close close'],
    [
      "in a state that is no backend's",
      S.Reconfiguring,
      up,
      'announce announce announce announce announce announce announce announce announce',
    ],
    ['whose directory is gone', undefined, up, 'forget forget forget forget forget forget forget forget forget'],
  ];
  const names: Record<string, BackendAction> = {
    init: 'initialise',
    announce: 'announce-close',
    wait: 'wait',
    connect: 'connect',
    close: 'close',
    restart: 'restart',
    forget: 'forget',
  };

  describe.each(table)('%s', (_, own, view, actions) => {
    it.each(columns(actions.split(' ')))('with a frontend %s: %s', (peer, action) => {
      expect(backendAction({ ...view, own, peer: S[peer] }, vbdBackendLifeCycle)).toBe(names[action]);
    });
  });
});

describe('a frontend', () => {
  const fresh: Omit<FrontendView, 'own' | 'peer'> = { published: false, failed: false };
  const up = { published: true, failed: false };
  const table: [string, XenbusState | undefined, Omit<FrontendView, 'own' | 'peer'>, string][] = [
    // Peer:                 Unknown Initialising InitWait Initialised Connected Closing Closed Reconfiguring Reconfigured
    ['Initialising', S.Initialising, fresh, 'wait wait publish wait publish close close wait wait'],
    ['Initialised', S.Initialised, up, 'close wait wait wait connect close close wait wait'],
    ['Connected', S.Connected, up, 'close wait close wait refresh close close wait wait'],
    [
      'Initialising, failed',
      S.Initialising,
      { ...fresh, failed: true },
      'close close close close close close close close close',
    ],
    [
      'Connected, failed',
      S.Connected,
      { ...up, failed: true },
      'close close close close close close close close close',
    ],
    ['Closed', S.Closed, fresh, 'wait wait wait wait wait wait wait wait wait'],
    ['Closed, failed', S.Closed, { ...fresh, failed: true }, 'wait wait wait wait wait wait wait wait wait'],
    ['Closed by somebody else', S.Closed, up, 'close close close close close close close close close'],
    ['whose directory is gone', undefined, up, 'forget forget forget forget forget forget forget forget forget'],
  ];

  describe.each(table)('%s', (_, own, view, actions) => {
    it.each(columns(actions.split(' ') as FrontendAction[]))('with a backend %s: %s', (peer, action) => {
      expect(frontendAction({ ...view, own, peer: S[peer] }, vbdFrontendLifeCycle)).toBe(action);
    });
  });

  it('of a class without Initialised is connected with what it publishes', () => {
    const cycle = { publishedState: S.Connected } as const;
    expect(frontendAction({ ...up, own: S.Connected, peer: S.Connected }, cycle)).toBe('refresh');
    expect(frontendAction({ ...up, own: S.Connected, peer: S.InitWait }, cycle)).toBe('wait');
  });
});
