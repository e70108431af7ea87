/**
 * The client's side of watches. A watch event says "look again at this path", never what changed: it fires once when the
 * watch is registered, may be spurious, merged with others, or for a node that is gone.
 */
import type { XenstoreError } from './errors.ts';

export interface WatchEvent {
  /** Path to look at: the watched one, or one below it; relative iff the watch is. */
  readonly path: string;
  readonly token: string;
}

/** Distinct paths kept for a reader that does not keep up; beyond, one event for the watched path stands for all. */
export const PENDING_PATHS_MAX = 1024;

/** A registered watch: an async iterator of events. Each path is pending at most once. */
export class XenstoreWatch implements AsyncIterableIterator<WatchEvent>, AsyncDisposable {
  readonly path: string;
  readonly token: string;
  readonly #unwatch: (watch: XenstoreWatch) => Promise<void>;
  readonly #pending = new Set<string>();
  #waiting: { resolve(result: IteratorResult<WatchEvent>): void; reject(error: Error): void }[] = [];
  #closing: Promise<void> | undefined;
  #ended = false;
  #failure: XenstoreError | undefined;

  /** Made by `XenstoreClient.watch`. */
  constructor(path: string, token: string, unwatch: (watch: XenstoreWatch) => Promise<void>) {
    this.path = path;
    this.token = token;
    this.#unwatch = unwatch;
  }

  /** The next event; waits for one. Done after `close()`. @throws XenstoreError when the connection is lost */
  next(): Promise<IteratorResult<WatchEvent>> {
    const [path] = this.#pending;
    if (path !== undefined) {
      this.#pending.delete(path);
      return Promise.resolve({ done: false, value: { path, token: this.token } });
    }
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    if (this.#ended) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  /** Ends a `for await` loop: closes the watch. */
  async return(): Promise<IteratorResult<WatchEvent>> {
    await this.close();
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** Removes the watch and ends the iteration; what is pending is dropped. Idempotent; never fails. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** For the client: an event arrived. */
  deliver(path: string): void {
    if (this.#ended) return;
    const waiting = this.#waiting.shift();
    if (waiting !== undefined) {
      waiting.resolve({ done: false, value: { path, token: this.token } });
      return;
    }
    if (this.#pending.size >= PENDING_PATHS_MAX && !this.#pending.has(path)) {
      this.#pending.clear();
      this.#pending.add(this.path);
    } else this.#pending.add(path);
  }

  /** For the client: the connection is gone, by itself if there is an error. */
  end(error: XenstoreError | undefined): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#failure = error;
    for (const { resolve, reject } of this.#waiting.splice(0)) {
      if (error === undefined) resolve({ done: true, value: undefined });
      else reject(error);
    }
  }

  async #close(): Promise<void> {
    const registered = !this.#ended;
    this.#ended = true;
    this.#pending.clear();
    for (const { resolve } of this.#waiting.splice(0)) resolve({ done: true, value: undefined });
    if (registered) await this.#unwatch(this);
  }
}
