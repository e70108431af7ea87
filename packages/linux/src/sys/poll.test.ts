import { execFileSync } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { pollReadable, type ReadablePoll } from './poll.ts';

describe.runIf(process.platform === 'linux')('polling a descriptor', () => {
  let directory: string;
  let fifo: string;
  let fd: number;
  let poll: ReadablePoll | undefined;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'pvkit-poll-'));
    fifo = join(directory, 'fifo');
    execFileSync('mkfifo', [fifo]);
    fd = openSync(fifo, constants.O_RDWR | constants.O_NONBLOCK);
  });
  afterEach(() => {
    poll?.close();
    closeSync(fd);
    rmSync(directory, { recursive: true });
  });
  const readAll = () => readSync(fd, Buffer.alloc(64));
  const turns = async () => {
    for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
  };

  it('calls back while there is something to read, but not when paused or closed', async () => {
    let calls = 0;
    poll = pollReadable(fd, () => {
      calls++;
      if (calls >= 3) readAll();
    });
    await turns();
    expect(calls).toBe(0);
    writeSync(fd, 'x');
    await vi.waitFor(() => expect(calls).toBe(3)); // until it is read
    poll.pause();
    poll.pause();
    writeSync(fd, 'x');
    await turns();
    expect(calls).toBe(3);
    poll.resume();
    poll.resume();
    await vi.waitFor(() => expect(calls).toBe(4));
    poll.close();
    poll.close();
    poll.resume();
    writeSync(fd, 'x');
    await turns();
    expect(calls).toBe(4);
  });

  it('goes on after an error of the descriptor, which ends the poll underneath', async () => {
    const reader = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
    const writer = openSync(fifo, constants.O_WRONLY | constants.O_NONBLOCK);
    closeSync(reader);
    closeSync(fd);
    let calls = 0;
    poll = pollReadable(writer, () => {
      calls++;
      if (calls === 3) poll?.close();
    });
    await vi.waitFor(() => expect(calls).toBe(3)); // no reader is left: EPOLLERR
    await turns();
    expect(calls).toBe(3);
    closeSync(writer);
    fd = openSync(fifo, constants.O_RDWR | constants.O_NONBLOCK);
  });

  it('throws what the callback throws in a turn of its own, and goes on', async () => {
    const later: (() => void)[] = [];
    const immediate = vi.spyOn(globalThis, 'setImmediate').mockImplementation(((callback: () => void) => {
      later.push(callback);
    }) as typeof setImmediate);
    try {
      let calls = 0;
      poll = pollReadable(fd, () => {
        calls++;
        readAll();
        throw new Error(`thrown by call ${calls}`);
      });
      writeSync(fd, 'x');
      await vi.waitFor(() => expect(calls).toBe(1));
      writeSync(fd, 'x');
      await vi.waitFor(() => expect(calls).toBe(2));
      expect(later.map((callback) => expect(callback).toThrow(/thrown by call [12]/)).length).toBe(2);
    } finally {
      immediate.mockRestore();
    }
  });
});
