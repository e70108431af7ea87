/** Grants through `/dev/xen/gntalloc` (our pages for others) and `/dev/xen/gntdev` (others' pages for us). */
import { closeSync } from 'node:fs';
import {
  type Domid,
  ErrnoError,
  type ErrorContext,
  type GrantAccess,
  GrantCopyBatch,
  GrantError,
  type GrantedPages,
  type GrantReference,
  GrantStatus,
  type GrantStatusName,
  type Grants,
  grantReference,
  grantStatusName,
  type MappedPages,
  PAGE_SIZE,
  PagedMemory,
  type Runtime,
} from '@pvkit/ring';
import { CopyTable } from './copy-table.ts';
import { IoctlArgument, openDevice, readU64, writeU64, type XenDevice } from './device.ts';
import { allocatePages, type PageRange, PageRanges, putZeroPages } from './memory.ts';
import {
  GNTALLOC_FLAG_WRITABLE,
  IOCTL_GNTALLOC_ALLOC_GREF,
  IOCTL_GNTALLOC_DEALLOC_GREF,
  IOCTL_GNTDEV_MAP_GRANT_REF,
  IOCTL_GNTDEV_UNMAP_GRANT_REF,
} from './sys/ioctl.ts';

export class LinuxGrants implements Grants {
  readonly #runtime: Runtime;
  readonly #context: ErrorContext;
  readonly #argument = new IoctlArgument();
  readonly #ranges = new PageRanges();
  readonly #copies = new CopyTable();
  readonly #granted = new Set<LinuxGrantedPages>();
  readonly #mapped = new Set<LinuxMappedPages>();
  readonly #buffers: { readonly address: number; readonly byteLength: number }[] = [];
  #gntdev: number | undefined;
  #gntalloc: number | undefined;
  #closed = false;

  constructor(runtime: Runtime, context: ErrorContext) {
    this.#runtime = runtime;
    this.#context = context;
  }

  get grantedPages(): number {
    return countPages(this.#granted);
  }

  get mappedPages(): number {
    return countPages(this.#mapped);
  }

  share(to: Domid, pageCount: number, access: GrantAccess): GrantedPages {
    const action = `granting ${pageCount} pages to domain ${to}`;
    if (!(Number.isInteger(pageCount) && pageCount > 0)) throw new RangeError(`${action}: not a number of pages`);
    const fd = this.#openGntalloc();
    const words = this.#argument.words(4 + pageCount);
    words[0] = to | ((access === 'read-write' ? GNTALLOC_FLAG_WRITABLE : 0) << 16);
    words[1] = pageCount;
    const errno = this.#argument.errno(fd, IOCTL_GNTALLOC_ALLOC_GREF);
    // ENOSPC: the module's limit or the grant table is full.
    if (errno === 'ENOSPC' || errno === 'ENOMEM')
      throw new GrantError('GNTST_no_space', `${action} (see the limit parameter of xen_gntalloc)`, this.#context);
    if (errno !== undefined) throw new ErrnoError(errno, action, this.#context);
    const offset = readU64(words, 2);
    const references = Array.from(words.subarray(4, 4 + pageCount), grantReference);
    const range = this.#ranges.take(pageCount);
    const failure = range.attach(fd, offset, true);
    if (failure !== undefined) {
      if (failure.reusable) this.#ranges.give(range);
      this.#release(fd, IOCTL_GNTALLOC_DEALLOC_GREF, offset, pageCount);
      throw failure.error;
    }
    const pages = new LinuxGrantedPages(this.#runtime, range, references, () => {
      this.#granted.delete(pages);
      range.detach();
      this.#ranges.give(range);
      this.#release(fd, IOCTL_GNTALLOC_DEALLOC_GREF, offset, pageCount);
    });
    this.#granted.add(pages);
    return pages;
  }

  map(from: Domid, references: readonly GrantReference[], access: GrantAccess): MappedPages {
    const count = references.length;
    const action = `mapping ${count} pages of domain ${from}`;
    if (count === 0) throw new RangeError(`${action}: no references`);
    const fd = this.#openGntdev();
    const words = this.#argument.words(4 + 2 * count);
    words[0] = count;
    words[1] = 0;
    for (let index = 0; index < count; index++) {
      words[4 + 2 * index] = from;
      words[5 + 2 * index] = references[index]!;
    }
    const errno = this.#argument.errno(fd, IOCTL_GNTDEV_MAP_GRANT_REF);
    if (errno === 'EINVAL')
      throw new GrantError('GNTST_no_space', `${action} (see the limit parameter of xen_gntdev)`, this.#context);
    if (errno !== undefined) throw new ErrnoError(errno, action, this.#context);
    const offset = readU64(words, 2);
    const range = this.#ranges.take(count);
    // Only now does the kernel ask Xen to map; one bad reference fails all.
    const failure = range.attach(fd, offset, access === 'read-write');
    if (failure !== undefined) {
      if (failure.reusable) this.#ranges.give(range);
      this.#release(fd, IOCTL_GNTDEV_UNMAP_GRANT_REF, offset, count);
      if (failure.error.errno === 'ENOMEM') throw failure.error;
      throw new GrantError(this.#firstRefusal(from, references), action, this.#context);
    }
    const pages = new LinuxMappedPages(this.#runtime, range, access, () => {
      this.#mapped.delete(pages);
      range.detach();
      this.#ranges.give(range);
      this.#release(fd, IOCTL_GNTDEV_UNMAP_GRANT_REF, offset, count);
    });
    this.#mapped.add(pages);
    return pages;
  }

  /**
   * Why a mapping failed, which the kernel keeps to itself: the status of the first reference that a one-byte copy from
   * it is refused for too. A reference that may be read but not mapped (a read-only grant mapped for writing) is not
   * found so.
   */
  #firstRefusal(from: Domid, references: readonly GrantReference[]): GrantStatusName {
    const probe = new GrantCopyBatch(from, references.length);
    const byte = new Uint8Array(1);
    for (const reference of references) probe.addFromGrant(reference, 0, byte, 0, 1);
    this.copy(probe);
    return grantStatusName(probe.statuses.find((status) => status !== 0) ?? GrantStatus.GNTST_general_error);
  }

  copy(batch: GrantCopyBatch): void {
    const errno = this.#copies.execute(this.#openGntdev(), batch);
    if (errno !== undefined)
      this.#runtime.observe?.('linux.grant-copy-refused', { domid: batch.domid, operations: batch.count, errno });
  }

  allocateBuffer(byteLength: number): Uint8Array {
    this.#checkOpen();
    const rounded = Math.ceil(byteLength / PAGE_SIZE) * PAGE_SIZE;
    if (rounded === 0) return new Uint8Array(0);
    const { address, buffer } = allocatePages(rounded);
    this.#buffers.push({ address, byteLength: rounded });
    return new Uint8Array(buffer, 0, byteLength);
  }

  /** Unmaps, ends access, empties the buffers, closes the devices. Idempotent. */
  closeAll(): void {
    if (this.#closed) return;
    for (const pages of [...this.#mapped]) pages.unmap();
    for (const pages of [...this.#granted]) pages.endAccess();
    for (const { address, byteLength } of this.#buffers) putZeroPages(address, byteLength);
    this.#closed = true;
    if (this.#gntdev !== undefined) closeSync(this.#gntdev);
    if (this.#gntalloc !== undefined) closeSync(this.#gntalloc);
  }

  /** Gives the driver's record of a mapping or an allocation back. */
  #release(fd: number, request: number, offset: number, pageCount: number): void {
    const words = this.#argument.words(4);
    writeU64(words, 0, offset);
    words[2] = pageCount;
    words[3] = 0;
    const errno = this.#argument.errno(fd, request);
    if (errno !== undefined) throw new ErrnoError(errno, `giving ${pageCount} pages back`, this.#context);
  }

  // A frontend needs no gntdev and a backend no gntalloc, so each is opened when it is first used.
  #openGntdev(): number {
    this.#gntdev ??= this.#open('gntdev');
    this.#checkOpen();
    return this.#gntdev;
  }

  #openGntalloc(): number {
    this.#gntalloc ??= this.#open('gntalloc');
    this.#checkOpen();
    return this.#gntalloc;
  }

  #open(device: XenDevice): number {
    this.#checkOpen();
    return openDevice(device);
  }

  #checkOpen(): void {
    if (this.#closed) throw new ErrnoError('ESRCH', 'use of a closed platform', this.#context);
  }
}

/** Runs `release` once, the views being gone. */
class LinuxPages extends PagedMemory {
  #release: (() => void) | undefined;

  constructor(runtime: Runtime, range: PageRange, access: GrantAccess, release: () => void) {
    super(runtime, range.pages, access);
    this.#release = release;
  }

  protected giveBack(): void {
    const release = this.#release;
    this.#release = undefined;
    this.invalidate();
    release?.();
  }
}

class LinuxGrantedPages extends LinuxPages implements GrantedPages {
  readonly references: readonly GrantReference[];

  constructor(runtime: Runtime, range: PageRange, references: readonly GrantReference[], release: () => void) {
    super(runtime, range, 'read-write', release);
    this.references = references;
  }

  /**
   * Always true: the driver keeps a page that the other domain still has mapped, and its reference, until that lets
   * go, and has no way to tell.
   */
  endAccess(): boolean {
    this.giveBack();
    return true;
  }
}

class LinuxMappedPages extends LinuxPages implements MappedPages {
  unmap(): void {
    this.giveBack();
  }
}

function countPages(all: Iterable<{ readonly pageCount: number }>): number {
  let total = 0;
  for (const { pageCount } of all) total += pageCount;
  return total;
}
