/** Readiness of a file descriptor as a callback of the event loop. */
import koffi from 'koffi';

export interface ReadablePoll {
  pause(): void;
  resume(): void;
  /** Idempotent. Call it before the descriptor is closed. */
  close(): void;
}

/**
 * Calls `callback` in every turn of the event loop in which `fd` is readable or has failed, until paused or closed.
 * The process stays alive meanwhile. What `callback` throws becomes an uncaught error.
 */
export function pollReadable(fd: number, callback: () => void): ReadablePoll {
  let open = true;
  let running = true;
  const ready = (...results: readonly unknown[]): void => {
    try {
      if (open && running) callback();
    } catch (error) {
      // Thrown into koffi, an error would surface in some later, unrelated native call.
      setImmediate(() => {
        throw error;
      });
    }
    // koffi passes libuv's status first, whatever its types say. libuv stops a handle whose descriptor has an error.
    if (results[0] !== 0 && open && running) start();
  };
  const start = () => handle.start({ readable: true }, ready);
  const handle = koffi.node.poll(fd, { readable: true }, ready);
  return {
    pause() {
      if (!open || !running) return;
      running = false;
      handle.stop();
    },
    resume() {
      if (!open || running) return;
      running = true;
      start();
    },
    close() {
      if (!open) return;
      open = false;
      handle.close();
    },
  };
}
