/** Handlers of the operations about domains. */
import { domainPath } from '../path.ts';
import { parseDomid } from '../permissions.ts';
import { payloadStrings } from '../wire.ts';
import type { Handler } from './dispatch.ts';
import { acknowledge, oneString } from './node-handlers.ts';

/** The caller's own id (`DOMID_SELF`, `xen/include/public/xen.h`). */
const DOMID_SELF = 0x7ff0;
/** Frame numbers come as *signed* decimal. */
const signedDecimal = /^-?\d{1,20}$/;
const portNumber = /^\d{1,6}$/;

export const introduce: Handler = (call) => {
  const [domidText, gfnText, portText] = payloadStrings(call.packet);
  if (domidText === undefined || gfnText === undefined || portText === undefined) return 'EINVAL';
  const domid = parseDomid(domidText);
  const port = portNumber.test(portText) ? Number(portText) : 0;
  if (domid === undefined || port === 0 || !signedDecimal.test(gfnText)) return 'EINVAL';
  return acknowledge(call, call.server.introduce(domid, Number(gfnText), port));
};

export const release: Handler = (call) => {
  const domid = oneDomid(call);
  if (domid === undefined || domid === 0) return 'EINVAL';
  return acknowledge(call, call.server.release(domid));
};

export const resume: Handler = (call) => {
  const domid = oneDomid(call);
  if (domid === undefined || domid === 0) return 'EINVAL';
  return acknowledge(call, call.server.resume(domid));
};

export const setTarget: Handler = (call) => {
  const [domidText, targetText] = payloadStrings(call.packet);
  const domid = domidText === undefined ? undefined : parseDomid(domidText);
  const target = targetText === undefined ? undefined : parseDomid(targetText);
  if (domid === undefined || target === undefined) return 'EINVAL';
  return acknowledge(call, call.server.setTarget(domid, target));
};

export const getDomainPath: Handler = (call) => {
  const domid = oneDomid(call);
  if (domid === undefined) return 'EINVAL';
  call.connection.replyString(call.packet, domainPath(domid));
  return undefined;
};

export const isDomainIntroduced: Handler = (call) => {
  const domid = oneDomid(call);
  if (domid === undefined) return 'EINVAL';
  call.connection.replyString(call.packet, domid === DOMID_SELF || call.server.isIntroduced(domid) ? 'T' : 'F');
  return undefined;
};

function oneDomid(call: Parameters<Handler>[0]): number | undefined {
  const text = oneString(call.packet);
  return text === undefined ? undefined : parseDomid(text);
}
