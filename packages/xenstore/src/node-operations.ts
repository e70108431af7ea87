/**
 * The operations on nodes, the same inside and outside a transaction. Paths are absolute, or relative to the caller's
 * `/local/domain/<domid>`.
 */
import type { ErrorContext, Runtime } from '@pvkit/ring';
import { XenstoreError } from './errors.ts';
import { isNodePath, pathKind } from './path.ts';
import { type Permissions, permissionsFromStrings, permissionsToStrings } from './permissions.ts';
import { operationName, readLatin1, XENSTORE_PAYLOAD_MAX, XsdSockmsgType } from './wire.ts';

/** Sends one request and resolves with its reply's payload. */
export interface Requester {
  readonly runtime: Runtime;
  readonly context: ErrorContext;
  /**
   * @param text strings of the payload, each sent with a NUL
   * @param data bytes after them
   * @throws XenstoreError (as a rejection) for an ERROR reply or a lost connection
   */
  request(
    type: number,
    txId: number,
    path: string | undefined,
    text: readonly string[],
    data?: Uint8Array,
  ): Promise<Uint8Array>;
}

/** Attempts to read a list of children that keeps changing under the parts. */
const DIRECTORY_PART_ATTEMPTS = 16;

export class NodeOperations {
  readonly #requester: Requester;
  readonly #txId: number;

  constructor(requester: Requester, txId: number) {
    this.#requester = requester;
    this.#txId = txId;
  }

  /** The value of a node. @throws XenstoreError `ENOENT`, `EACCES` */
  readBytes(path: string): Promise<Uint8Array> {
    return this.#onPath(XsdSockmsgType.XS_READ, path);
  }

  /** The value of a node as text. @throws XenstoreError `ENOENT`, `EACCES` */
  async read(path: string): Promise<string> {
    return this.#requester.runtime.decodeUtf8(await this.readBytes(path));
  }

  /** The value of a node as text, or undefined when there is no such node. @throws XenstoreError `EACCES` */
  readOptional(path: string): Promise<string | undefined> {
    return unlessMissing(this.read(path));
  }

  /** Is there such a node, readable to us? */
  async exists(path: string): Promise<boolean> {
    return (await unlessMissing(this.readBytes(path))) !== undefined;
  }

  /** Sets a value; text as UTF-8. Creates the node and its parents. @throws XenstoreError `EACCES`, `ENOSPC`, `E2BIG` */
  async write(path: string, value: string | Uint8Array): Promise<void> {
    const data = typeof value === 'string' ? this.#requester.runtime.encodeUtf8(value) : value;
    await this.#onPath(XsdSockmsgType.XS_WRITE, path, [], data);
  }

  /** Makes sure that a node exists; an existing one keeps its value. */
  async mkdir(path: string): Promise<void> {
    await this.#onPath(XsdSockmsgType.XS_MKDIR, path);
  }

  /** Removes a node and all below it. It need not exist, but its parent must. @throws XenstoreError `ENOENT`, `EACCES` */
  async remove(path: string): Promise<void> {
    await this.#onPath(XsdSockmsgType.XS_RM, path);
  }

  /** Names of a node's children, in no order to rely on. @throws XenstoreError `ENOENT`, `EACCES` */
  async directory(path: string): Promise<string[]> {
    try {
      return splitStrings(await this.#onPath(XsdSockmsgType.XS_DIRECTORY, path));
    } catch (error) {
      if (error instanceof XenstoreError && error.errno === 'E2BIG') return this.#directoryInParts(path);
      throw error;
    }
  }

  /** Names of a node's children, or undefined when there is no such node. */
  directoryOptional(path: string): Promise<string[] | undefined> {
    return unlessMissing(this.directory(path));
  }

  async getPermissions(path: string): Promise<Permissions> {
    const reply = await this.#onPath(XsdSockmsgType.XS_GET_PERMS, path, [], undefined, true);
    const parsed = permissionsFromStrings(splitStrings(reply));
    if (parsed === undefined) throw this.#error('EIO', XsdSockmsgType.XS_GET_PERMS, path, 'malformed reply');
    return parsed;
  }

  /** @throws XenstoreError `EACCES` unless we own the node, `EPERM` for another owner, `ENOSPC` for too many grants */
  async setPermissions(path: string, value: Permissions): Promise<void> {
    await this.#onPath(XsdSockmsgType.XS_SET_PERMS, path, permissionsToStrings(value), undefined, true);
  }

  async #directoryInParts(path: string): Promise<string[]> {
    for (let attempt = 0; attempt < DIRECTORY_PART_ATTEMPTS; attempt++) {
      const names = await this.#tryDirectoryInParts(path);
      if (names !== undefined) return names;
    }
    throw this.#error('EAGAIN', XsdSockmsgType.XS_DIRECTORY_PART, path, 'the list keeps changing');
  }

  /** Undefined when the node's generation count changed between two parts. */
  async #tryDirectoryInParts(path: string): Promise<string[] | undefined> {
    const names: string[] = [];
    let generation: string | undefined;
    for (let offset = 0; ; ) {
      const reply = await this.#onPath(XsdSockmsgType.XS_DIRECTORY_PART, path, [String(offset)]);
      const [first, ...part] = splitStrings(reply);
      if (first === undefined) throw this.#error('EIO', XsdSockmsgType.XS_DIRECTORY_PART, path, 'malformed reply');
      generation ??= first;
      if (generation !== first) return undefined;
      // An empty string ends the list.
      for (const name of part) {
        if (name === '') return names;
        names.push(name);
        offset += name.length + 1;
      }
      if (part.length === 0) throw this.#error('EIO', XsdSockmsgType.XS_DIRECTORY_PART, path, 'malformed reply');
    }
  }

  #onPath(type: number, path: string, more: readonly string[] = [], data?: Uint8Array, special = false) {
    // Checked here too: other characters could not even be sent.
    if (!(isNodePath(path) || (special && pathKind(path) === 'special')))
      return Promise.reject(this.#error('EINVAL', type, path, 'malformed path'));
    let length = path.length + 1 + (data?.length ?? 0);
    for (const text of more) length += text.length + 1;
    if (length > XENSTORE_PAYLOAD_MAX)
      return Promise.reject(
        this.#error('E2BIG', type, path, `payload of ${length} bytes, at most ${XENSTORE_PAYLOAD_MAX}`),
      );
    return this.#requester.request(type, this.#txId, path, [path, ...more], data);
  }

  #error(errno: string, type: number, path: string, hint: string): XenstoreError {
    return new XenstoreError(errno, operationName(type), path, this.#requester.context, hint);
  }
}

async function unlessMissing<T>(result: Promise<T>): Promise<T | undefined> {
  try {
    return await result;
  } catch (error) {
    if (error instanceof XenstoreError && error.errno === 'ENOENT') return undefined;
    throw error;
  }
}

/** NUL-terminated strings of a reply. */
export function splitStrings(bytes: Uint8Array): string[] {
  const text = readLatin1(bytes, 0, bytes.length);
  return text === '' ? [] : (text.endsWith('\0') ? text.slice(0, -1) : text).split('\0');
}
