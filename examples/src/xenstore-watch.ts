/**
 * A xenstore in the process, and two clients of it: one watches a directory, the other changes it, first plainly, then in
 * a transaction that takes effect as a whole. A watch says where to look again, never what has changed.
 */
import { standardRuntime } from '@pvkit/ring';
import { memoryTransportPair, XenstoreClient, XenstoreError } from '@pvkit/xenstore';
import { XenstoreServer } from '@pvkit/xenstore/server';

const runtime = standardRuntime();
const server = new XenstoreServer({ runtime });
const connect = (): XenstoreClient => {
  const [ours, theirs] = memoryTransportPair(runtime);
  server.connect(theirs);
  return new XenstoreClient(ours, runtime);
};
const writer = connect();
const watcher = connect();

const watch = await watcher.watch('/example');
/** Looks wherever the watch says, until `path` is one of the places. */
async function lookUntil(path: string): Promise<void> {
  for (;;) {
    const { value } = await watch.next();
    console.log(`look at ${value.path}: ${JSON.stringify(await watcher.readOptional(value.path))}`);
    if (value.path === path) return;
  }
}
await lookUntil('/example'); // every watch begins with an event

await writer.write('/example/state', '1');
await lookUntil('/example/state');

// All of it or nothing; tried again when somebody else has changed what it read.
await writer.transaction(async (tx) => {
  await tx.write('/example/size', '2048');
  await tx.write('/example/state', String(Number(await tx.read('/example/state')) + 1));
  console.log(`within the transaction, others see state ${await watcher.read('/example/state')}`);
});
await lookUntil('/example/state');
console.log('children:', await watcher.directory('/example'));

await writer.remove('/example');
await lookUntil('/example');
try {
  await writer.read('/example/size');
} catch (error) {
  if (!(error instanceof XenstoreError)) throw error;
  console.log(`reading what is gone: ${error.errno}`);
}

await watch.close();
await watcher.close();
await writer.close();
server.close();
