/**
 * What every {@link BlockDevice} must do, as a vitest suite: a host device, a frontend, a remote disk all pass the same.
 * An entry point of its own, for test files only.
 */
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { type BlockDevice, IoVector } from './device.ts';
import { SECTOR_SIZE } from './protocol.ts';

export interface BlockDeviceRequest {
  /** What the disk is to hold: whole sectors. */
  readonly content: Uint8Array;
  readonly readOnly: boolean;
}

export interface BlockDeviceUnderTest {
  readonly device: BlockDevice;
  /** Closes the device and everything that was made for it; checks, where it can, that nothing is left held. */
  close(): Promise<void>;
}

/** Makes a disk with a given content. */
export type BlockDeviceSetup = (request: BlockDeviceRequest) => Promise<BlockDeviceUnderTest>;

/** An odd number, so that the last page is not whole; larger than a few requests. */
const SECTORS = 2_051;
const DEPTH = 64;

export function blockDeviceCompliance(name: string, setup: BlockDeviceSetup): void {
  describe(`block device: ${name}`, () => {
    let open: BlockDeviceUnderTest[] = [];
    const make = async (request: Partial<BlockDeviceRequest> = {}) => {
      const content = request.content ?? randomContent(SECTORS, 1);
      const made = await setup({ content, readOnly: request.readOnly ?? false });
      open.push(made);
      return { device: made.device, content };
    };
    afterEach(async () => {
      const ending = open;
      open = [];
      for (const made of ending) await made.close();
    });

    it('has the geometry of its content', async () => {
      const { device } = await make();
      const { sectors, sectorSize, physicalSectorSize, readOnly } = device.geometry;
      expect({ sectors, sectorSize, readOnly }).toEqual({ sectors: SECTORS, sectorSize: 512, readOnly: false });
      expect(physicalSectorSize % sectorSize).toBe(0);
    });

    it.each([
      [0, 1],
      [1, 7],
      [7, 9],
      [3, 88],
      [5, 89],
      [SECTORS - 1, 1],
      [SECTORS - 97, 97],
      [0, SECTORS],
    ])('reads and writes at sector %i, %i sectors', async (sector, count) => {
      const { device, content } = await make();
      expect(equal(await read(device, sector, count), slice(content, sector, count))).toBe(true);
      const data = randomContent(count, 2);
      await device.writev(sector, IoVector.of(data));
      content.set(data, sector * SECTOR_SIZE);
      expect(equal(await read(device, 0, SECTORS), content)).toBe(true);
    });

    it('fills and takes scattered vectors of odd-sized pieces', async () => {
      const { device, content } = await make();
      const pieces = [1, 511, 513, 4095, 4097, 3, 45_055, 1, 7 * 512 + 1];
      const total = Math.ceil(sum(pieces) / SECTOR_SIZE) * SECTOR_SIZE;
      const lengths = [...pieces, total - sum(pieces)];
      const { vector, joined } = scattered(lengths);
      await device.readv(11, vector);
      expect(equal(joined(), slice(content, 11, total / SECTOR_SIZE))).toBe(true);

      const written = scattered(lengths, randomContent(total / SECTOR_SIZE, 3));
      await device.writev(777, written.vector);
      content.set(written.joined(), 777 * SECTOR_SIZE);
      expect(equal(await read(device, 0, SECTORS), content)).toBe(true);
    });

    it('reads the same without waiting, where it can', async () => {
      const { device, content } = await make();
      for (const [sector, count] of [
        [0, 1],
        [3, 88],
        [SECTORS - 97, 97],
      ] as const) {
        const { vector, joined } = scattered(cut(count * SECTOR_SIZE, [0.1, 0.5]));
        if (device.tryReadv?.(sector, vector) ?? false)
          expect(equal(joined(), slice(content, sector, count))).toBe(true);
      }
    });

    it(`carries out ${DEPTH} operations at a time, writes and reads mixed`, async () => {
      const { device, content } = await make();
      const count = 31;
      const reads: Promise<Uint8Array>[] = [];
      const writes: (Promise<void> | undefined)[] = [];
      for (let index = 0; index < DEPTH; index++) {
        const sector = index * count;
        if (index % 2 === 0) reads.push(read(device, sector, count));
        else {
          const data = randomContent(count, 100 + index);
          writes.push(device.writev(sector, IoVector.of(data)));
          content.set(data, sector * SECTOR_SIZE);
        }
      }
      await Promise.all(writes);
      const got = await Promise.all(reads);
      got.forEach((bytes, index) => {
        expect(equal(bytes, slice(content, index * 2 * count, count))).toBe(true);
      });
      expect(equal(await read(device, 0, SECTORS), content)).toBe(true);
    });

    it.each([
      ['beyond the end', SECTORS, SECTOR_SIZE],
      ['across the end', SECTORS - 1, 2 * SECTOR_SIZE],
      ['negative', -1, SECTOR_SIZE],
      ['beyond what a number holds', 2 ** 63, SECTOR_SIZE],
      ['not a number', Number.NaN, SECTOR_SIZE],
      ['between sectors', 0.5, SECTOR_SIZE],
      ['of no bytes', 0, 0],
      ['of half a sector', 0, 256],
      ['of a sector and a byte', 0, 513],
    ])('refuses a range %s', async (_, sector, byteLength) => {
      const { device, content } = await make();
      const vector = () => IoVector.of(new Uint8Array(byteLength));
      await expect(settled(() => device.readv(sector, vector()))).rejects.toThrow();
      await expect(settled(() => device.writev(sector, vector()))).rejects.toThrow();
      expect(equal(await read(device, 0, SECTORS), content)).toBe(true);
    });

    it('refuses writes when read-only, and still reads', async () => {
      const { device, content } = await make({ readOnly: true });
      expect(device.geometry.readOnly).toBe(true);
      await expect(settled(() => device.writev(0, IoVector.of(new Uint8Array(512))))).rejects.toThrow();
      expect(equal(await read(device, 0, SECTORS), content)).toBe(true);
    });

    it('flushes, also with nothing written and with writes under way', async () => {
      const { device } = await make();
      await device.flush();
      const data = randomContent(64, 4);
      await Promise.all([device.writev(0, IoVector.of(data)), device.flush(), device.flush()]);
      await device.flush();
      expect(equal(await read(device, 0, 64), data)).toBe(true);
    });

    it('closes more than once, and refuses work afterwards', async () => {
      const { device } = await make();
      await Promise.all([device.close(), device.close()]);
      await device.close();
      await expect(settled(() => device.readv(0, IoVector.of(new Uint8Array(512))))).rejects.toThrow();
      await expect(settled(() => device.writev(0, IoVector.of(new Uint8Array(512))))).rejects.toThrow();
      await expect(settled(() => device.flush())).rejects.toThrow();
    });

    it('is a plain array of bytes, whatever is done to it', async () => {
      const sectors = 300;
      await fc.assert(
        fc.asyncProperty(fc.array(operation(sectors), { minLength: 1, maxLength: 12 }), async (operations) => {
          const content = randomContent(sectors, 5);
          const made = await setup({ content, readOnly: false });
          try {
            for (const [index, { write, sector, count, cuts }] of operations.entries()) {
              const lengths = cut(count * SECTOR_SIZE, cuts);
              if (write) {
                const { vector, joined } = scattered(lengths, randomContent(count, index));
                await made.device.writev(sector, vector);
                content.set(joined(), sector * SECTOR_SIZE);
              } else {
                const { vector, joined } = scattered(lengths);
                await made.device.readv(sector, vector);
                expect(equal(joined(), slice(content, sector, count))).toBe(true);
              }
            }
            expect(equal(await read(made.device, 0, sectors), content)).toBe(true);
          } finally {
            await made.close();
          }
        }),
        { numRuns: 25 },
      );
    });
  });
}

const operation = (sectors: number) =>
  fc
    .record({
      write: fc.boolean(),
      sector: fc.nat(sectors - 1),
      size: fc.integer({ min: 1, max: sectors }),
      cuts: fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 6 }),
    })
    .map(({ write, sector, size, cuts }) => ({ write, sector, count: Math.min(size, sectors - sector), cuts }));

/** Lengths of the pieces that cuts, given as fractions, make of a whole. */
function cut(total: number, cuts: readonly number[]): number[] {
  const places = [0, ...cuts.map((fraction) => Math.floor(fraction * total)).sort((a, b) => a - b), total];
  return places.slice(1).map((place, index) => place - places[index]!);
}

/** A vector of separate buffers at odd offsets, and their bytes joined; they hold `data` or zeros. */
function scattered(lengths: readonly number[], data?: Uint8Array) {
  const vector = new IoVector();
  const parts: Uint8Array[] = [];
  let position = 0;
  lengths.forEach((length, index) => {
    const offset = (index * 3 + 1) % 8;
    const buffer = new Uint8Array(offset + length + 5);
    const part = buffer.subarray(offset, offset + length);
    if (data !== undefined) part.set(data.subarray(position, position + length));
    position += length;
    parts.push(part);
    vector.add(buffer, offset, length);
  });
  const joined = () => {
    const bytes = new Uint8Array(sum(lengths));
    let at = 0;
    for (const part of parts) {
      bytes.set(part, at);
      at += part.byteLength;
    }
    return bytes;
  };
  return { vector, joined };
}

async function read(device: BlockDevice, sector: number, count: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(count * SECTOR_SIZE);
  await device.readv(sector, IoVector.of(bytes));
  return bytes;
}

/** An operation's outcome as a promise, whether it threw or rejected. */
const settled = async (operate: () => Promise<void> | undefined): Promise<void> => operate();

const slice = (content: Uint8Array, sector: number, count: number) =>
  content.slice(sector * SECTOR_SIZE, (sector + count) * SECTOR_SIZE);

const sum = (numbers: readonly number[]) => numbers.reduce((total, number) => total + number, 0);

/** As `toEqual`, without a diff of megabytes. */
function equal(a: Uint8Array, b: Uint8Array): boolean {
  if (a.byteLength !== b.byteLength) return false;
  for (let index = 0; index < a.byteLength; index++) if (a[index] !== b[index]) return false;
  return true;
}

/** Reproducible bytes without a pattern that repeats in a sector's length. */
function randomContent(sectors: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(sectors * SECTOR_SIZE);
  let state = (seed * 2_654_435_761) >>> 0 || 1;
  for (let index = 0; index < bytes.length; index++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[index] = state;
  }
  return bytes;
}
