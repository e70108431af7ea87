/**
 * A raw image file as a block device.
 *
 * A system call that can't wait is made in place, several times cheaper than a trip through the thread pool: anything on
 * a memory file system, and reads of what the page cache holds (`preadv2` with `RWF_NOWAIT`, where the system has it).
 * Whatever may wait goes to the pool.
 */
import { constants, fdatasync, read, readSync, statfsSync, write, writeSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { IovecTable, readNoWait } from '@pvkit/linux';
import { ConfigurationError, ErrnoError } from '@pvkit/ring';
import { type BlockDevice, type BlockGeometry, checkRequest, type IoVector } from './device.ts';
import { SECTOR_SIZE } from './protocol.ts';

export interface FileDeviceOptions {
  readonly readOnly?: boolean;
}

/** File systems whose pages are always in memory (`linux/magic.h`: TMPFS_MAGIC, RAMFS_MAGIC). */
const MEMORY_FILE_SYSTEMS = [0x0102_1994, 0x8584_58f6];

const FORMATS_NOT_RAW: readonly { readonly name: string; readonly magic: string }[] = [
  { name: 'qcow2', magic: 'QFI\xfb' },
  { name: 'VHD', magic: 'conectix' },
  { name: 'VHDX', magic: 'vhdxfile' },
  { name: 'VMDK', magic: 'KDMV' },
  { name: 'QED', magic: 'QED\0' },
];

/** For the calls that are made in place, one at a time in this thread. */
const iovecs = new IovecTable(64);

export class FileDevice implements BlockDevice {
  readonly path: string;
  readonly geometry: BlockGeometry;
  readonly #handle: FileHandle;
  readonly #fd: number;
  readonly #inMemory: boolean;
  /** Whether `preadv2` can tell what would wait: not everywhere, and not on every file system. */
  #canTell = process.platform === 'linux';
  #pending = 0;
  #idle: (() => void) | undefined;
  #closing: Promise<void> | undefined;

  private constructor(path: string, geometry: BlockGeometry, handle: FileHandle) {
    this.path = path;
    this.geometry = geometry;
    this.#handle = handle;
    this.#fd = handle.fd;
    this.#inMemory = MEMORY_FILE_SYSTEMS.includes(statfsSync(path).type);
  }

  /** @throws ConfigurationError that names the path and what is wrong with it. */
  static async open(path: string, options: FileDeviceOptions = {}): Promise<FileDevice> {
    const readOnly = options.readOnly ?? false;
    let handle: FileHandle;
    try {
      // Non-blocking, so that a FIFO by mistake does not hang; regular files do not care.
      handle = await open(path, (readOnly ? constants.O_RDONLY : constants.O_RDWR) | constants.O_NONBLOCK);
    } catch (error) {
      throw new ConfigurationError(`disk image '${path}' can't be opened: ${reasonOf(error)}`);
    }
    try {
      const stat = await handle.stat();
      if (!stat.isFile()) throw new ConfigurationError(`disk image '${path}' is not a regular file`);
      if (stat.size === 0 || stat.size % SECTOR_SIZE !== 0)
        throw new ConfigurationError(`disk image '${path}' has ${stat.size} bytes, not a multiple of ${SECTOR_SIZE}`);
      const head = Buffer.alloc(16);
      await handle.read(head, 0, head.length, 0);
      const format = FORMATS_NOT_RAW.find(({ magic }) => head.toString('latin1').startsWith(magic));
      if (format !== undefined)
        throw new ConfigurationError(`disk image '${path}' has format ${format.name}; raw images are served`);
      const geometry: BlockGeometry = {
        sectors: stat.size / SECTOR_SIZE,
        sectorSize: SECTOR_SIZE,
        physicalSectorSize: Math.min(Math.max(stat.blksize, SECTOR_SIZE), 4096),
        readOnly,
        flushable: true,
      };
      return new FileDevice(path, geometry, handle);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  readv(sector: number, vector: IoVector): Promise<void> | undefined {
    this.#check(sector, vector);
    const position = sector * SECTOR_SIZE;
    if (this.#inMemory) return this.#transferInPlace(vector, position, readSync, 'read');
    const done = this.#readCached(vector, position);
    return done === vector.byteLength ? undefined : this.#transferInPool(vector, done, position, 'read');
  }

  tryReadv(sector: number, vector: IoVector): boolean {
    this.#check(sector, vector);
    const position = sector * SECTOR_SIZE;
    if (!this.#inMemory) return this.#readCached(vector, position) === vector.byteLength;
    this.#transferInPlace(vector, position, readSync, 'read');
    return true;
  }

  writev(sector: number, vector: IoVector): Promise<void> | undefined {
    this.#check(sector, vector);
    if (this.geometry.readOnly) throw new ErrnoError('EROFS', `write to '${this.path}'`);
    const position = sector * SECTOR_SIZE;
    if (this.#inMemory) return this.#transferInPlace(vector, position, writeSync, 'write');
    return this.#transferInPool(vector, 0, position, 'write');
  }

  flush(): Promise<void> | undefined {
    this.#checkOpen();
    if (this.#inMemory || this.geometry.readOnly) return undefined;
    return new Promise((resolve, reject) => {
      this.#pending++;
      fdatasync(this.#fd, (error) => {
        this.#settled();
        if (error === null) resolve();
        else reject(new ErrnoError(reasonOf(error), `flush of '${this.path}'`));
      });
    });
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    if (this.#pending > 0)
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
    await this.#handle.close();
  }

  #check(sector: number, vector: IoVector): void {
    this.#checkOpen();
    checkRequest(this.geometry, sector, vector.byteLength);
  }

  #checkOpen(): void {
    if (this.#closing !== undefined) throw new ErrnoError('EBADF', `use of '${this.path}', which is closed`);
  }

  /** Reads what the page cache holds from `position` on; returns how many bytes that was. */
  #readCached(vector: IoVector, position: number): number {
    if (!this.#canTell || vector.count > iovecs.capacity) return 0;
    iovecs.clear();
    for (let range = 0; range < vector.count; range++)
      iovecs.add(vector.buffers[range]!, vector.offsets[range]!, vector.lengths[range]!);
    const done = readNoWait(this.#fd, iovecs, position);
    if (typeof done === 'number') return done;
    if (done === 'unsupported') this.#canTell = false;
    return 0;
  }

  #transferInPlace(
    vector: IoVector,
    position: number,
    call: (fd: number, buffer: Uint8Array, offset: number, length: number, position: number) => number,
    what: 'read' | 'write',
  ): undefined {
    for (let range = 0; range < vector.count; range++) {
      const buffer = vector.buffers[range]!;
      let offset = vector.offsets[range]!;
      let left = vector.lengths[range]!;
      while (left > 0) {
        let done: number;
        try {
          done = call(this.#fd, buffer, offset, left, position);
        } catch (error) {
          throw new ErrnoError(reasonOf(error), `${what} of '${this.path}' at byte ${position}`);
        }
        if (done === 0) throw this.#short(what, position);
        offset += done;
        position += done;
        left -= done;
      }
    }
    return undefined;
  }

  /** Transfers all of `vector` but its first `skip` bytes through the thread pool. */
  #transferInPool(vector: IoVector, skip: number, position: number, what: 'read' | 'write'): Promise<void> {
    this.#pending++;
    return new Promise((resolve, reject) => {
      let range = 0;
      let done = 0;
      const next = (advanced: number): void => {
        position += advanced;
        done += advanced;
        while (range < vector.count && done >= vector.lengths[range]!) done -= vector.lengths[range++]!;
        if (range === vector.count) {
          this.#settled();
          resolve();
          return;
        }
        const buffer = vector.buffers[range]!;
        const offset = vector.offsets[range]! + done;
        const length = vector.lengths[range]! - done;
        if (what === 'read') read(this.#fd, buffer, offset, length, position, completed);
        else write(this.#fd, buffer, offset, length, position, completed);
      };
      const completed = (error: NodeJS.ErrnoException | null, count: number): void => {
        if (error === null && count > 0) {
          next(count);
          return;
        }
        this.#settled();
        if (error === null) reject(this.#short(what, position));
        else reject(new ErrnoError(reasonOf(error), `${what} of '${this.path}' at byte ${position}`));
      };
      next(skip);
    });
  }

  #settled(): void {
    this.#pending--;
    if (this.#pending === 0) this.#idle?.();
  }

  /** The file has become shorter than the device that it is. */
  #short(what: 'read' | 'write', position: number): ErrnoError {
    return new ErrnoError('EIO', `${what} of '${this.path}' at byte ${position}`, {}, 'the file ends before that');
  }
}

/** The errno of a Node error, by name. */
function reasonOf(error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : String(error);
}
