/**
 * What a frontend and everything below it needs of its JavaScript engine, given from outside:
 * a unikernel's engine may have no Atomics, timers or TextEncoder (QuickJS has none of them).
 */

/** A running timer. */
export interface Timer {
  cancel(): void;
}

/** One observed event: a dotted name such as `blkback.request-refused` and its facts. */
export type Observer = (event: string, facts: Readonly<Record<string, unknown>>) => void;

export interface Runtime {
  /** Atomic, sequentially consistent 32-bit load and store of an element of a page's words. */
  readonly load: (words: Int32Array, index: number) => number;
  readonly store: (words: Int32Array, index: number, value: number) => void;
  /** Monotonic milliseconds. */
  readonly now: () => number;
  /** Calls `callback` once after `milliseconds`. */
  readonly timer: (milliseconds: number, callback: () => void) => Timer;
  /** Calls `callback` after the running turn of the event loop, other events having had theirs. */
  readonly nextTurn: (callback: () => void) => void;
  readonly encodeUtf8: (text: string) => Uint8Array;
  readonly decodeUtf8: (bytes: Uint8Array) => string;
  /** Absent when nobody listens, so that an unobserved event costs one test. */
  observe?: Observer | undefined;
}

/** The globals that {@link standardRuntime} takes; Node, browsers, Deno and Bun have all of them. */
interface StandardGlobals {
  setTimeout(callback: () => void, milliseconds: number): unknown;
  clearTimeout(handle: unknown): void;
  setImmediate?(callback: () => void): unknown;
  readonly performance: { now(): number };
  readonly TextEncoder: new () => { encode(text: string): Uint8Array };
  readonly TextDecoder: new () => { decode(bytes: Uint8Array): string };
}

/** A runtime made of the engine's own globals. A running timer holds a Node process open. */
export function standardRuntime(observe?: Observer): Runtime {
  const globals: StandardGlobals = globalThis;
  const encoder = new globals.TextEncoder();
  const decoder = new globals.TextDecoder();
  return {
    load: (words, index) => Atomics.load(words, index),
    store: (words, index, value) => void Atomics.store(words, index, value),
    now: () => globals.performance.now(),
    timer: (milliseconds, callback) => {
      const handle = globals.setTimeout(callback, milliseconds);
      return { cancel: () => globals.clearTimeout(handle) };
    },
    nextTurn: (callback) => {
      if (globals.setImmediate) globals.setImmediate(callback);
      else globals.setTimeout(callback, 0);
    },
    encodeUtf8: (text) => encoder.encode(text),
    decodeUtf8: (bytes) => decoder.decode(bytes),
    observe,
  };
}
