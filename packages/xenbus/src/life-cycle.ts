/**
 * The life cycle of split devices, drawn once. Both functions are level-triggered: given what the two `state` nodes say
 * now, they tell the one thing to do next, whatever happened in between; any event at all only means "look again".
 *
 * A backend, with the frontend's state that each step waits for:
 *
 *     Initialising ──open the device──▶ InitWait ──frontend in `connectWhen`──▶ Connected
 *          ▲                               ▲                                       │ frontend Closing
 *          │ (toolstack)                   │ frontend Initialising, online         ▼
 *       created                         Closed ◀────────frontend Closed───────── Closing ◀── toolstack (online = 0)
 *
 * A frontend:
 *
 *     Initialising ──backend InitWait──▶ Initialised ──backend Connected──▶ Connected ──backend Closing, Closed──▶ Closed
 *
 * Which states a class skips or waits for differs; the tables below are the difference, with the kernel files that show it.
 */
import { XenbusState } from './state.ts';

export interface BackendLifeCycle {
  /** Frontend states on which the backend connects. */
  readonly connectWhen: readonly XenbusState[];
}

export interface FrontendLifeCycle {
  /** The state in which the frontend publishes its rings. */
  readonly publishedState: typeof XenbusState.Initialised | typeof XenbusState.Connected;
}

/** `drivers/block/xen-blkback/xenbus.c` (frontend_changed), `drivers/block/xen-blkfront.c` (blkback_changed). */
export const vbdBackendLifeCycle: BackendLifeCycle = {
  connectWhen: [XenbusState.Initialised, XenbusState.Connected],
};
export const vbdFrontendLifeCycle: FrontendLifeCycle = { publishedState: XenbusState.Initialised };

/** What a backend sees when it looks. */
export interface BackendView {
  /** Our `state` node; undefined when our directory is gone. */
  readonly own: XenbusState | undefined;
  /** The frontend's `state` node; `Unknown` when it is gone. */
  readonly peer: XenbusState;
  /** The toolstack's `online` node: 0 once the device is to go away. */
  readonly online: boolean;
  /** The host device is open. */
  readonly opened: boolean;
  /** Our end of the rings is set up. */
  readonly connected: boolean;
  /** Why this connection must end although the frontend has not asked for it. */
  readonly failed: boolean;
}

export type BackendAction =
  /** Nothing to do until something changes. */
  | 'wait'
  /** Open the host device, publish what we offer, go to InitWait. */
  | 'initialise'
  /** Map the rings, publish the device's properties, go to Connected. */
  | 'connect'
  /** Go to Closing: the frontend is to finish and close. */
  | 'announce-close'
  /** Tear down the rings if there are any, go to Closed. */
  | 'close'
  /** Tear down the rings, go back to InitWait: the frontend has started anew. */
  | 'restart'
  /** Tear down everything and forget the device. */
  | 'forget';

export function backendAction(view: BackendView, cycle: BackendLifeCycle): BackendAction {
  const { own, peer } = view;
  if (own === undefined) return 'forget';
  const peerGone = peer === XenbusState.Unknown || peer === XenbusState.Closed;
  switch (own) {
    case XenbusState.Unknown:
    case XenbusState.Initialising:
      return 'initialise';
    case XenbusState.InitWait:
      if (!view.opened) return 'initialise'; // a predecessor's
      if (view.connected) return 'restart'; // somebody else's: what we have mapped is let go before it is mapped again
      if (!view.online || view.failed || peerGone) return 'close';
      if (peer === XenbusState.Closing) return 'announce-close';
      return cycle.connectWhen.includes(peer) ? 'connect' : 'wait';
    case XenbusState.Connected:
      if (peerGone) return 'close';
      if (!view.connected || view.failed || peer === XenbusState.Closing) return 'announce-close';
      // A reset or a kexec without a close. Linux gives up if it sees Closing here, so go straight back.
      return peer === XenbusState.Initialising ? 'restart' : 'wait';
    case XenbusState.Closing:
      // The frontend may finish what it has under way; one that never connected, or is beyond belief, has nothing.
      return peerGone || !view.connected || view.failed ? 'close' : 'wait';
    case XenbusState.Closed:
      if (view.connected || view.opened) return 'close'; // somebody else wrote it
      return view.online && peer === XenbusState.Initialising ? 'initialise' : 'wait';
    case XenbusState.Initialised:
    case XenbusState.Reconfiguring:
    case XenbusState.Reconfigured:
      return 'announce-close'; // no backend of these classes is ever in such a state
  }
}

/** What a frontend sees when it looks. */
export interface FrontendView {
  readonly own: XenbusState | undefined;
  /** The backend's `state` node; `Unknown` when it is gone. */
  readonly peer: XenbusState;
  /** Our rings are set up and published. */
  readonly published: boolean;
  readonly failed: boolean;
}

export type FrontendAction =
  | 'wait'
  /** Set up the rings, publish them, go to the class's published state. */
  | 'publish'
  /** Read the device's properties, go to Connected. */
  | 'connect'
  /** Read the device's properties again: the backend may have changed them (a resize rewrites its state). */
  | 'refresh'
  /** Tear down, go to Closed. */
  | 'close'
  | 'forget';

export function frontendAction(view: FrontendView, cycle: FrontendLifeCycle): FrontendAction {
  const { own, peer } = view;
  if (own === undefined) return 'forget';
  if (own === XenbusState.Closed) return view.published ? 'close' : 'wait';
  if (view.failed) return 'close';
  switch (peer) {
    case XenbusState.Unknown:
      return view.published ? 'close' : 'wait';
    case XenbusState.Initialising:
    case XenbusState.Initialised:
    case XenbusState.Reconfiguring:
    case XenbusState.Reconfigured:
      return 'wait';
    case XenbusState.InitWait:
      if (!view.published) return 'publish';
      // Back from Connected: the backend was restarted and lost our rings. Where we publish with Connected we can't tell.
      return own === XenbusState.Connected && own !== cycle.publishedState ? 'close' : 'wait';
    case XenbusState.Connected:
      if (!view.published) return 'publish';
      return own === cycle.publishedState && own !== XenbusState.Connected ? 'connect' : 'refresh';
    case XenbusState.Closing:
    case XenbusState.Closed:
      return 'close';
  }
}
