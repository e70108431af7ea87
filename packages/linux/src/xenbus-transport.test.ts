import { execFileSync } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { XenbusTransport } from './xenbus-transport.ts';

// A FIFO stands for the device: what is written comes back, whole and in order, when it is read.
describe.runIf(process.platform === 'linux')('the transport over /dev/xen/xenbus', () => {
  let directory: string;
  let fifo: string;
  const opened: XenbusTransport[] = [];
  const devices: number[] = [];
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'pvkit-xenbus-'));
    fifo = join(directory, 'fifo');
    execFileSync('mkfifo', [fifo]);
  });
  afterEach(() => {
    for (const transport of opened.splice(0)) transport.close();
    for (const device of devices.splice(0)) closeSync(device);
  });
  afterAll(() => rmSync(directory, { recursive: true }));

  function open() {
    const device = openSync(fifo, constants.O_RDWR | constants.O_NONBLOCK);
    devices.push(device);
    const transport = new XenbusTransport(openSync(fifo, constants.O_RDWR | constants.O_NONBLOCK));
    opened.push(transport);
    const chunks: Buffer[] = [];
    let drained = 0;
    const start = () =>
      transport.start({
        data: (chunk) => void chunks.push(Buffer.from(chunk)),
        closed: (reason) => expect.fail(`closed: ${reason}`),
        drained: () => void drained++,
      });
    return { transport, chunks, start, device, bytes: () => Buffer.concat(chunks), drained: () => drained };
  }

  /** Waits until exactly these bytes have come; compared whole only once, for that is slow. */
  const arrives = async (bytes: () => Buffer, expected: Buffer) => {
    await vi.waitFor(() => expect(bytes().length).toBeGreaterThanOrEqual(expected.length), 10_000);
    expect(bytes().equals(expected), `${bytes().toString('hex', 0, 64)}…`).toBe(true);
  };
  const message = (id: number, length: number) => {
    const bytes = Buffer.alloc(length, id);
    bytes.writeUInt32LE(11, 0);
    bytes.writeUInt32LE(id, 4);
    bytes.writeUInt32LE(7, 8);
    bytes.writeUInt32LE(length - 16, 12);
    return bytes;
  };
  const event = (length: number) => {
    const bytes = message(0, length);
    bytes.writeUInt32LE(15, 0);
    return bytes;
  };
  /** `struct xsd_sockmsg` and text of an error reply. */
  const errorReply = (id: number, text: string) => {
    const bytes = Buffer.alloc(16 + text.length + 1);
    bytes.writeUInt32LE(16, 0);
    bytes.writeUInt32LE(id, 4);
    bytes.writeUInt32LE(7, 8);
    bytes.writeUInt32LE(text.length + 1, 12);
    bytes.write(text, 16);
    return bytes;
  };

  it('delivers nothing before it is started, then all that has come', async () => {
    const { transport, start, bytes, chunks } = open();
    transport.send(message(1, 40));
    await new Promise(setImmediate);
    expect(chunks).toEqual([]);
    start();
    await arrives(bytes, message(1, 40));
    expect(transport.bufferedBytes).toBe(0);
  });

  it('has one request out at a time, and keeps its own copies of the rest', async () => {
    const { transport, start, bytes, chunks, drained } = open();
    const scratch = Buffer.alloc(1000);
    const sent: Buffer[] = [];
    for (let id = 1; id <= 20; id++) {
      const each = message(id, 16 + ((id * 37) % 500));
      sent.push(each);
      each.copy(scratch);
      transport.send(scratch.subarray(0, each.length));
    }
    const buffered = sent.slice(1).reduce((sum, each) => sum + each.length, 0);
    expect(transport.bufferedBytes).toBe(buffered);
    start();
    await arrives(bytes, Buffer.concat(sent));
    expect(chunks.length).toBe(20); // each came back before the next went out
    expect([transport.bufferedBytes, drained()]).toEqual([0, 1]);
  });

  it('takes no watch event for the reply', async () => {
    const { transport, start, bytes, device } = open();
    start();
    const events = [event(60), event(16), event(300)];
    transport.send(message(1, 30));
    for (const each of events) writeSync(device, each);
    transport.send(message(2, 40));
    await arrives(bytes, Buffer.concat([message(1, 30), ...events, message(2, 40)]));
  });

  it('holds data back while paused', async () => {
    const { transport, start, bytes, chunks } = open();
    transport.pause();
    start();
    transport.send(message(1, 40));
    transport.send(message(2, 5000)); // refused, which waits too
    for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
    expect(chunks).toEqual([]);
    transport.resume();
    transport.resume();
    const refusal = errorReply(2, 'E2BIG');
    await arrives(bytes, Buffer.concat([message(1, 40), refusal]));
    transport.pause();
    transport.send(message(3, 30));
    for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
    expect(bytes().length).toBe(40 + refusal.length);
    transport.resume();
    await vi.waitFor(() => expect(bytes().subarray(-30)).toEqual(message(3, 30)));
  });

  it('answers a message that the driver cannot take, later and between messages', async () => {
    const { transport, start, bytes, chunks, device } = open();
    start();
    transport.send(message(9, 4097));
    expect(chunks).toEqual([]);
    await arrives(bytes, errorReply(9, 'E2BIG'));

    // An event in two parts, the refusal falling due between them.
    chunks.length = 0;
    writeSync(device, event(200).subarray(0, 90));
    await vi.waitFor(() => expect(bytes().length).toBe(90));
    transport.send(message(40, 5000));
    for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
    expect(bytes().length).toBe(90);
    writeSync(device, event(200).subarray(90));
    await arrives(bytes, Buffer.concat([event(200), errorReply(40, 'E2BIG')]));
  });

  it('passes the errno of a failed write on as the reply', async () => {
    const { transport, start, bytes, device } = open();
    const full = Array.from({ length: 16 }, () => event(4096));
    for (const each of full) writeSync(device, each);
    transport.send(message(77, 100)); // the FIFO is full
    start();
    await arrives(bytes, Buffer.concat([...full, errorReply(77, 'EAGAIN')]));
    transport.send(message(78, 100));
    await vi.waitFor(() => expect(bytes().subarray(-100)).toEqual(message(78, 100)));
  });

  it('delivers nothing after close, which may come inside a delivery', async () => {
    const { transport, chunks } = open();
    transport.start({
      data: (chunk) => {
        chunks.push(Buffer.from(chunk));
        transport.close();
      },
      closed: () => expect.fail('closed was called'),
    });
    transport.send(message(1, 20));
    transport.send(message(2, 5000));
    transport.send(message(3, 20));
    await vi.waitFor(() => expect(chunks.length).toBe(1));
    transport.close();
    transport.send(message(4, 20));
    for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
    expect([chunks.length, transport.bufferedBytes]).toEqual([1, 0]);
  });
});
