/** The nodes of one end of a device: its own directory, which it writes, and its peer's, which it reads and mistrusts. */
import type { NodeOperations, XenstoreClient } from '@pvkit/xenstore';
import type { Nodes } from './keys.ts';
import { parseState, type XenbusState } from './state.ts';

export class DeviceNodes {
  readonly client: XenstoreClient;
  readonly path: string;

  constructor(client: XenstoreClient, path: string) {
    this.client = client;
    this.path = path;
  }

  /** The named nodes' text; absent and unreadable ones are undefined. One round trip's time for all. */
  async read(keys: readonly string[], tx: NodeOperations = this.client): Promise<Nodes> {
    const values = await Promise.all(keys.map((key) => readIfAllowed(tx, `${this.path}/${key}`)));
    return Object.fromEntries(keys.map((key, index) => [key, values[index]]));
  }

  /** Our state; undefined when the directory is gone. */
  async ownState(): Promise<XenbusState | undefined> {
    const text = await readIfAllowed(this.client, `${this.path}/state`);
    return text === undefined ? undefined : parseState(text);
  }

  /** The state that the other end shows; `Unknown` when it is gone. */
  async peerState(): Promise<XenbusState> {
    return parseState(await readIfAllowed(this.client, `${this.path}/state`));
  }

  /**
   * Writes nodes and then the state in one transaction, unless the directory has gone: a write would bring it back.
   * @returns false when it has gone.
   */
  publish(state: XenbusState, nodes: Readonly<Record<string, string>> = {}): Promise<boolean> {
    return this.client.transaction(async (tx) => {
      if ((await tx.readOptional(`${this.path}/state`)) === undefined) return false;
      await Promise.all(Object.entries(nodes).map(([key, value]) => tx.write(`${this.path}/${key}`, value)));
      await tx.write(`${this.path}/state`, String(state));
      return true;
    });
  }

  /** Leaves a message where tools look for it, `error/<path>/error` of the home directory (`xenbus_dev_error`). */
  async writeError(home: string, errno: number, message: string): Promise<void> {
    const relative = this.path.startsWith(`${home}/`) ? this.path.slice(home.length + 1) : this.path;
    await this.client.write(`${home}/error/${relative}/error`, `${errno} ${message}`);
  }

  async clearError(home: string): Promise<void> {
    const relative = this.path.startsWith(`${home}/`) ? this.path.slice(home.length + 1) : this.path;
    const path = `${home}/error/${relative}`;
    if (await this.client.exists(path)) await this.client.remove(path);
  }
}

/** A node's text; undefined when it is absent or not ours to read. */
async function readIfAllowed(tx: NodeOperations, path: string): Promise<string | undefined> {
  try {
    return await tx.readOptional(path);
  } catch (error) {
    if (error instanceof Error && 'errno' in error && error.errno === 'EACCES') return undefined;
    throw error;
  }
}
