/** `enum xenbus_state` (`xen/include/public/io/xenbus.h`), as the `state` node of each end carries it in decimal. */
export const XenbusState = {
  Unknown: 0,
  Initialising: 1,
  InitWait: 2,
  Initialised: 3,
  Connected: 4,
  Closing: 5,
  Closed: 6,
  Reconfiguring: 7,
  Reconfigured: 8,
} as const;
export type XenbusState = (typeof XenbusState)[keyof typeof XenbusState];
export type XenbusStateName = keyof typeof XenbusState;

const names = Object.keys(XenbusState) as XenbusStateName[];

export const stateName = (state: XenbusState): XenbusStateName => names[state]!;

/**
 * The state that a node says; an absent node, or anything that is not the decimal of a state, reads as `Unknown`,
 * which is how Linux treats it (`xenbus_read_driver_state`).
 */
export function parseState(text: string | undefined): XenbusState {
  return text !== undefined && /^[0-8]$/.test(text) ? (Number(text) as XenbusState) : XenbusState.Unknown;
}
