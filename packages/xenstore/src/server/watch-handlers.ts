/** Handlers of the operations on watches. */
import { pathKind } from '../path.ts';
import { payloadStrings } from '../wire.ts';
import type { Handler } from './dispatch.ts';
import { acknowledge, canonical } from './node-handlers.ts';

export const watch: Handler = (call) => {
  const { connection, packet } = call;
  const [text, token, depthText, ...more] = payloadStrings(packet);
  if (text === undefined || token === undefined || more.length > 0) return 'EINVAL';
  if (depthText !== undefined && !/^\d{1,9}$/.test(depthText)) return 'EINVAL';
  const path = canonical(call, text, true);
  if (path === undefined) return 'EINVAL';
  const prefixLength = pathKind(text) === 'relative' ? connection.basePath.length + 1 : 0;
  const depth = depthText === undefined ? undefined : Number(depthText);
  return call.store.addWatch({ subscriber: connection, path, token, depth, prefixLength }, () =>
    connection.replyOk(packet),
  );
};

export const unwatch: Handler = (call) => {
  const [text, token, ...more] = payloadStrings(call.packet);
  if (text === undefined || token === undefined || more.length > 0) return 'EINVAL';
  const path = canonical(call, text, true);
  if (path === undefined) return 'EINVAL';
  return acknowledge(call, call.store.removeWatch(call.connection, path, token));
};

export const resetWatches: Handler = (call) => {
  call.server.resetConnection(call.connection);
  return acknowledge(call, undefined);
};
