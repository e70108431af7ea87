/** `pvkit xenstore …`: looks into a store and changes it, as Debian's `xenstore-*` tools do. */
import { ConfigurationError, standardRuntime } from '@pvkit/ring';
import { permissionsFromStrings, permissionsToStrings, XenstoreClient, XenstoreError } from '@pvkit/xenstore';
import { connectStore } from '../paths.ts';

export interface ClientOptions {
  readonly socket?: string;
}

/** Connects, runs `body`, disconnects. */
export async function withClient<T>(options: ClientOptions, body: (client: XenstoreClient) => Promise<T>): Promise<T> {
  const client = new XenstoreClient(await connectStore(options.socket), standardRuntime());
  try {
    return await body(client);
  } finally {
    await client.close();
  }
}

const print = (text: string) => process.stdout.write(`${text}\n`);

const NAMED_ESCAPES = new Map([
  [0x09, '\\t'],
  [0x0a, '\\n'],
  [0x0d, '\\r'],
  [0x5c, '\\\\'],
]);

/** A value as text: backslashes and what is not printable ASCII escaped, as the `xenstore-*` tools do. */
function escaped(value: Uint8Array): string {
  let text = '';
  for (const byte of value) {
    const named = NAMED_ESCAPES.get(byte);
    if (named !== undefined) text += named;
    else if (byte >= 0x20 && byte < 0x7f) text += String.fromCharCode(byte);
    else if (byte < 0o10) text += `\\${byte.toString(8).padStart(3, '0')}`;
    else text += `\\x${byte.toString(16).padStart(2, '0')}`;
  }
  return text;
}

/** Every node below `path` with its full path, value and permissions. */
export async function list(path: string, options: ClientOptions): Promise<void> {
  await withClient(options, async (client) => {
    // A stack rather than recursion: the depth is the store's.
    const stack = [path];
    for (let current = stack.pop(); current !== undefined; current = stack.pop()) {
      const children = current === path ? await client.directory(path) : await client.directoryOptional(current);
      if (children === undefined) continue; // removed meanwhile
      if (current !== path) await printNode(client, current);
      const below = current === '/' ? '/' : `${current}/`;
      for (const child of children.sort().reverse()) stack.push(`${below}${child}`);
    }
  });
}

async function printNode(client: XenstoreClient, path: string): Promise<void> {
  const [value, acl] = await Promise.all([client.readBytes(path), client.getPermissions(path)]);
  print(`${path} = "${escaped(value)}"   (${permissionsToStrings(acl).join(',')})`);
}

export async function read(paths: readonly string[], options: ClientOptions): Promise<void> {
  await withClient(options, async (client) => {
    for (const path of paths) print(escaped(await client.readBytes(path)));
  });
}

export async function write(pairs: readonly string[], options: ClientOptions): Promise<void> {
  if (pairs.length === 0 || pairs.length % 2 !== 0)
    throw new ConfigurationError('write takes pairs of a path and a value');
  await withClient(options, (client) =>
    client.transaction(async (tx) => {
      for (let index = 0; index < pairs.length; index += 2) await tx.write(pairs[index]!, pairs[index + 1]!);
    }),
  );
}

export async function remove(paths: readonly string[], options: ClientOptions): Promise<void> {
  await withClient(options, async (client) => {
    for (const path of paths) {
      // The server takes the removal of what is not there for done.
      if (!(await client.exists(path))) throw new XenstoreError('ENOENT', 'RM', path);
      await client.remove(path);
    }
  });
}

export async function children(path: string, options: ClientOptions): Promise<void> {
  await withClient(options, async (client) => {
    for (const name of (await client.directory(path)).sort()) print(name);
  });
}

/** Prints every event of the paths until interrupted, or `count` of them. */
export async function watch(
  paths: readonly string[],
  count: number | undefined,
  options: ClientOptions,
): Promise<void> {
  await withClient(options, async (client) => {
    let left = count ?? Number.POSITIVE_INFINITY;
    await new Promise<void>((resolve, reject) => {
      process.once('SIGINT', () => resolve());
      void client.closed.then((lost) => (lost === undefined ? resolve() : reject(lost)));
      for (const path of paths)
        client
          .watchCallback(path, (event) => {
            if (left-- <= 0) return;
            print(event);
            if (left <= 0) resolve();
          })
          .catch(reject);
    });
  });
}

/** Sets permissions written as `n0 r1`: the owner's first, whose letter is what everyone else may do. */
export async function chmod(path: string, entries: readonly string[], options: ClientOptions): Promise<void> {
  const acl = permissionsFromStrings(entries);
  if (acl === undefined)
    throw new ConfigurationError(`'${entries.join(' ')}' are not permissions: n, r, w or b and a domain id each`);
  await withClient(options, (client) => client.setPermissions(path, acl));
}
