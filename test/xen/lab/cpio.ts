// Writes initramfs archives in the "newc" form of cpio (Documentation/driver-api/early-userspace/buffer-format.rst of Linux).
// All entries belong to root, whoever runs this: no privileges are needed to build an image.
import { createHash } from 'node:crypto';
import { closeSync, openSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';

/** One entry of an archive; `path` is absolute inside the image, `mode` holds permission bits only. */
export type Entry =
  | { readonly kind: 'directory'; readonly path: string }
  | { readonly kind: 'link'; readonly path: string; readonly target: string }
  | { readonly kind: 'data'; readonly path: string; readonly mode: number; readonly data: Uint8Array }
  | { readonly kind: 'copy'; readonly path: string; readonly mode: number; readonly source: string };

const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;

/** A set of entries keyed by path; directories above each entry are added by themselves, a later entry replaces an earlier one. */
export class Tree {
  readonly #entries = new Map<string, Entry>();

  directory(path: string): this {
    if (path === '/' || this.#entries.get(path)?.kind === 'directory') return this;
    this.directory(parent(path));
    this.#entries.set(path, { kind: 'directory', path });
    return this;
  }

  link(path: string, target: string): this {
    return this.#add({ kind: 'link', path, target });
  }

  text(path: string, text: string, mode = 0o644): this {
    return this.#add({ kind: 'data', path, mode, data: Buffer.from(text) });
  }

  /** Takes the contents of a file of this machine; its mode is kept unless one is given. */
  copy(path: string, source: string, mode = statSync(source).mode & 0o777): this {
    return this.#add({ kind: 'copy', path, mode, source });
  }

  /** Takes all files below a folder, or those that `wanted` accepts by their path. */
  copyFolder(path: string, source: string, wanted: (file: string) => boolean = () => true): this {
    for (const entry of readdirSync(source, { withFileTypes: true, recursive: true })) {
      const file = join(entry.parentPath, entry.name);
      if (entry.isFile() && wanted(file)) this.copy(join(path, file.slice(source.length)), file);
    }
    return this;
  }

  entries(): IterableIterator<Entry> {
    return this.#entries.values();
  }

  /** A digest of everything that makes the archive what it is; copied files count by size and time of change. */
  digest(): string {
    const hash = createHash('sha256').update('newc 1');
    for (const entry of this.#entries.values()) {
      hash.update(`\n${entry.kind} ${entry.path} `);
      if (entry.kind === 'link') hash.update(entry.target);
      else if (entry.kind === 'data') hash.update(`${entry.mode} `).update(entry.data);
      else if (entry.kind === 'copy') {
        const { size, mtimeMs } = statSync(entry.source);
        hash.update(`${entry.mode} ${entry.source} ${size} ${mtimeMs}`);
      }
    }
    return hash.digest('hex');
  }

  #add(entry: Entry): this {
    this.directory(parent(entry.path));
    this.#entries.set(entry.path, entry);
    return this;
  }
}

/** Writes the archive beside `file` and renames it into place, so that a reader never meets half of one. */
export const writeArchive = (tree: Tree, file: string): void => {
  const partial = `${file}.${process.pid}.partial`;
  const output = openSync(partial, 'w');
  try {
    let inode = 1;
    let written = 0;
    const put = (bytes: Uint8Array): void => {
      for (let offset = 0; offset < bytes.length; ) offset += writeSync(output, bytes, offset);
      written += bytes.length;
    };
    const pad = (unit: number): void => put(new Uint8Array((unit - (written % unit)) % unit));
    const record = (path: string, mode: number, links: number, body: Uint8Array): void => {
      const name = Buffer.from(`${path.slice(1)}\0`);
      const fields = [inode++, mode, 0, 0, links, 0, body.length, 0, 0, 0, 0, name.length, 0];
      put(Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`));
      put(name);
      pad(4);
      put(body);
      pad(4);
    };
    for (const entry of tree.entries()) {
      switch (entry.kind) {
        case 'directory':
          record(entry.path, S_IFDIR | 0o755, 2, new Uint8Array());
          break;
        case 'link':
          record(entry.path, S_IFLNK | 0o777, 1, Buffer.from(entry.target));
          break;
        case 'data':
          record(entry.path, S_IFREG | entry.mode, 1, entry.data);
          break;
        case 'copy':
          record(entry.path, S_IFREG | entry.mode, 1, readFileSync(entry.source));
          break;
      }
    }
    record('/TRAILER!!!', 0, 1, new Uint8Array());
    // Archives may follow one another in one initramfs when each starts on a multiple of four; 512 is what the tool pads to.
    pad(512);
  } catch (error) {
    closeSync(output);
    rmSync(partial, { force: true });
    throw error;
  }
  closeSync(output);
  renameSync(partial, file);
};

const parent = (path: string): string => path.slice(0, path.lastIndexOf('/')) || '/';
