import fc from 'fast-check';
import { expect, it } from 'vitest';
import { backendAction, frontendAction, vbdBackendLifeCycle, vbdFrontendLifeCycle } from './life-cycle.ts';
import { XenbusState as S, type XenbusState } from './state.ts';

/** More than any sequence of steps between two events needs. */
const STEPS_MAX = 8;

/** A device's two directories and what both ends hold, with each end's actions carried out as the devices do. */
class Model {
  /** Undefined: the directory is gone. */
  back: XenbusState | undefined = S.Initialising;
  front: XenbusState | undefined = S.Initialising;
  online = true;
  imageMissing = false;
  /** What the frontend publishes can't be used. */
  ringBroken = false;

  opened = false;
  connected = false;
  backFailed = false;
  published = false;
  frontFailed = false;

  get peer(): XenbusState {
    return this.front ?? S.Unknown;
  }

  /** Does one thing as the backend; false when there is nothing to do. */
  stepBackend(): boolean {
    const { back: own, peer, online, opened, connected } = this;
    const action = backendAction(
      { own, peer, online, opened, connected, failed: this.backFailed },
      vbdBackendLifeCycle,
    );
    switch (action) {
      case 'wait':
        return false;
      case 'initialise':
        this.#releaseBackend();
        this.backFailed = false;
        if (this.imageMissing) return false;
        this.opened = true;
        this.back = S.InitWait;
        return true;
      case 'connect':
        expect([S.Initialised, S.Connected]).toContain(peer);
        expect([opened, connected, online]).toEqual([true, false, true]);
        if (this.ringBroken) this.backFailed = true;
        else {
          this.connected = true;
          this.back = S.Connected;
        }
        return true;
      case 'announce-close':
        this.back = S.Closing;
        return true;
      case 'close':
        this.#releaseBackend();
        this.back = S.Closed;
        return true;
      case 'restart':
        expect(connected).toBe(true);
        this.connected = false;
        this.back = S.InitWait;
        return true;
      case 'forget':
        this.#releaseBackend();
        return false;
    }
  }

  stepFrontend(): boolean {
    const view = { own: this.front, peer: this.back ?? S.Unknown, published: this.published, failed: this.frontFailed };
    switch (frontendAction(view, vbdFrontendLifeCycle)) {
      case 'wait':
      case 'refresh':
        return false;
      case 'publish':
        expect(this.published).toBe(false);
        this.published = true;
        this.front = S.Initialised;
        return true;
      case 'connect':
        expect(this.published).toBe(true);
        this.front = S.Connected;
        return true;
      case 'close':
        this.published = false;
        this.front = S.Closed;
        return true;
      case 'forget':
        this.published = false;
        return false;
    }
  }

  settleBackend(): void {
    let steps = 0;
    while (this.stepBackend()) expect(++steps).toBeLessThanOrEqual(STEPS_MAX);
  }

  /** Both, in an order that is given by `turns` for as long as it lasts. */
  settleBoth(turns: readonly boolean[]): void {
    let steps = 0;
    for (const backendFirst of turns) if (backendFirst ? this.stepBackend() : this.stepFrontend()) steps++;
    let busy = true;
    while (busy) {
      busy = this.stepBackend();
      if (this.stepFrontend()) busy = true;
      expect(++steps).toBeLessThanOrEqual(STEPS_MAX + turns.length);
    }
  }

  /** libxl's: `online` = 0 and Closing, unless it is Closed. */
  detach(): void {
    this.online = false;
    if (this.back !== undefined && this.back !== S.Closed) this.back = S.Closing;
  }

  /** Our process ends without a word, and another takes its place. */
  restartBackend(): void {
    this.opened = this.connected = this.backFailed = false;
  }

  restartFrontend(): void {
    this.published = this.frontFailed = false;
  }

  #releaseBackend(): void {
    this.opened = this.connected = false;
  }
}

const anyState = fc.constantFrom(...Object.values(S));
type Event = (model: Model) => void;
/** What a peer, a toolstack and fate may do to a backend, sensible or not. */
const hostileEvent: fc.Arbitrary<Event> = fc.oneof(
  {
    weight: 6,
    arbitrary: anyState.map((state) => (model: Model) => {
      model.front = state;
    }),
  },
  fc.constantFrom<Event>(
    (model) => {
      model.front = undefined;
    },
    (model) => model.detach(),
    (model) => {
      model.online = true;
    },
    (model) => model.restartBackend(),
    (model) => {
      model.imageMissing = !model.imageMissing;
    },
    (model) => {
      model.ringBroken = !model.ringBroken;
    },
    (model) => {
      if (model.connected) model.backFailed = true;
    },
  ),
  anyState.map((state) => (model: Model) => {
    if (model.back !== undefined) model.back = state;
  }),
);

/** Anything at all has happened to it; what is broken is mended, so that only the states count. */
const troubled = fc.array(hostileEvent, { maxLength: 20 }).map((events) => {
  const model = new Model();
  for (const event of events) {
    event(model);
    model.settleBackend();
    expect(model.connected && model.back !== S.Connected && model.back !== S.Closing).toBe(false);
    expect(model.connected && !model.opened).toBe(false);
  }
  model.imageMissing = model.ringBroken = false;
  return model;
});

it('a backend settles whatever is done to it, and connects only to a frontend that has published', () => {
  fc.assert(
    fc.property(troubled, () => {}),
    { numRuns: 500 },
  );
});

it('a backend is Closed once its frontend has closed or died', () => {
  fc.assert(
    fc.property(troubled, fc.constantFrom(S.Closed, S.Unknown, undefined), (model, end) => {
      model.front = end;
      model.settleBackend();
      expect(model).toMatchObject({ back: S.Closed, opened: false, connected: false });
    }),
    { numRuns: 500 },
  );
});

it('a backend is Closed once the toolstack takes it offline, when the frontend that is connected has closed', () => {
  fc.assert(
    fc.property(troubled, (model) => {
      const wasConnected = model.connected && model.peer !== S.Closed && model.peer !== S.Unknown;
      model.detach();
      model.settleBackend();
      if (wasConnected && !model.backFailed) {
        expect(model.back).toBe(S.Closing);
        model.front = S.Closed;
        model.settleBackend();
      }
      expect(model).toMatchObject({ back: S.Closed, opened: false, connected: false });
      model.front = S.Initialising;
      model.settleBackend();
      expect(model.back).toBe(S.Closed);
    }),
    { numRuns: 500 },
  );
});

it('a backend serves again a frontend that goes from Closed to Initialising', () => {
  fc.assert(
    fc.property(troubled, (model) => {
      model.online = true;
      model.front = S.Closed;
      model.settleBackend();
      model.front = S.Initialising;
      model.settleBackend();
      expect(model.back).toBe(S.InitWait);
      model.front = S.Initialised;
      model.settleBackend();
      expect(model).toMatchObject({ back: S.Connected, connected: true });
    }),
    { numRuns: 500 },
  );
});

it('a backend forgets a directory that is gone, whatever it held', () => {
  fc.assert(
    fc.property(troubled, (model) => {
      model.back = undefined;
      model.settleBackend();
      expect(model).toMatchObject({ back: undefined, opened: false, connected: false });
    }),
  );
});

const order = fc.array(fc.boolean(), { maxLength: 30 });

it('two ends find each other in any order of their steps, and part in any order', () => {
  fc.assert(
    fc.property(order, order, fc.constantFrom('detach', 'close', 'image'), (meeting, parting, how) => {
      const model = new Model();
      model.settleBoth(meeting);
      expect(model).toMatchObject({ back: S.Connected, front: S.Connected, connected: true, published: true });
      if (how === 'detach') model.detach();
      else if (how === 'close') {
        model.front = S.Closing;
        model.published = false;
        model.stepBackend();
        model.front = S.Closed;
      } else model.backFailed = true;
      model.settleBoth(parting);
      expect(model).toMatchObject({ back: S.Closed, front: S.Closed, connected: false, published: false });
    }),
    { numRuns: 500 },
  );
});

it('either process may be replaced at any moment: both settle, and a frontend that begins anew connects', () => {
  fc.assert(
    fc.property(order, order, order, fc.boolean(), (before, between, after, backend) => {
      const model = new Model();
      for (const turn of before) turn ? model.stepBackend() : model.stepFrontend();
      if (backend) model.restartBackend();
      else model.restartFrontend();
      model.settleBoth(between);
      // As a frontend's `connect` does when it finds a predecessor's state.
      model.restartFrontend();
      model.front = S.Closed;
      model.settleBackend();
      expect(model.back).toBe(S.Closed);
      model.front = S.Initialising;
      model.settleBackend();
      model.settleBoth(after);
      expect(model).toMatchObject({ back: S.Connected, front: S.Connected, connected: true, published: true });
    }),
    { numRuns: 500 },
  );
});
