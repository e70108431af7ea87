/** CONTROL: commands for the operator, as `xenstore-control` sends them. */

import { parseDomid } from '../permissions.ts';
import { isQuotaName, quotaNames } from '../store/quota.ts';
import { payloadStrings, type XsdError } from '../wire.ts';
import type { Call, Handler } from './dispatch.ts';

interface Command {
  readonly parameters: string;
  run(call: Call, parameters: readonly string[]): XsdError | undefined;
}

const commands: Readonly<Record<string, Command>> = {
  check: { parameters: '', run: check },
  help: { parameters: '', run: help },
  log: { parameters: '[on|off]', run: log },
  print: { parameters: '<string>', run: print },
  quota: { parameters: '[set <name> <val>|<domid>]', run: quota },
};

export const control: Handler = (call) => {
  const [name, ...parameters] = payloadStrings(call.packet);
  if (name === undefined || !Object.hasOwn(commands, name)) return 'EINVAL';
  return commands[name]?.run(call, parameters);
};

/** Looks for contradictions in the store. */
function check(call: Call, parameters: readonly string[]): XsdError | undefined {
  if (parameters.length > 0) return 'EINVAL';
  const problems = call.store.check();
  for (const problem of problems) call.server.observe('xenstored.check-failed', { problem });
  return answer(call, problems.length === 0 ? 'OK' : `${problems.join('\n')}\n`);
}

function help(call: Call, parameters: readonly string[]): XsdError | undefined {
  if (parameters.length > 0) return 'EINVAL';
  const lines = Object.entries(commands).map(([name, command]) => `${name.padEnd(15)} ${command.parameters}\n`);
  return answer(call, lines.join(''));
}

/** Turns the observing of every request on and off, or says which it is. */
function log(call: Call, [setting, ...more]: readonly string[]): XsdError | undefined {
  if (more.length > 0) return 'EINVAL';
  if (setting === undefined) return answer(call, `requests: ${call.server.observesRequests ? 'on' : 'off'}\n`);
  if (setting !== 'on' && setting !== 'off') return 'EINVAL';
  call.server.observesRequests = setting === 'on';
  return answer(call, 'OK');
}

function print(call: Call, [text, ...more]: readonly string[]): XsdError | undefined {
  if (text === undefined || more.length > 0) return 'EINVAL';
  call.server.observe('xenstored.print', { text });
  return answer(call, 'OK');
}

function quota(call: Call, [first, ...more]: readonly string[]): XsdError | undefined {
  if (first === undefined) return showQuotas(call);
  if (first === 'set') return setQuota(call, more);
  const domid = parseDomid(first);
  if (domid === undefined || more.length > 0) return 'EINVAL';
  const account = call.store.quotas.accounts().get(domid);
  if (account === undefined) return 'ENOENT';
  const lines = Object.entries(account).map(([name, value]) => `${name.padEnd(17)}: ${String(value).padStart(8)}\n`);
  return answer(call, `Domain ${domid}:\n${lines.join('')}`);
}

function showQuotas(call: Call): XsdError | undefined {
  const lines = quotaNames.map((name) => `${name.padEnd(17)}: ${String(call.store.quotas.limit(name)).padStart(8)}\n`);
  return answer(call, `Quota settings:\n${lines.join('')}`);
}

function setQuota(call: Call, [name, text, ...more]: readonly string[]): XsdError | undefined {
  if (name === undefined || text === undefined || more.length > 0) return 'EINVAL';
  const value = /^\d{1,9}$/.test(text) ? Number(text) : 0;
  if (!isQuotaName(name) || value < 1) return 'EINVAL';
  call.store.quotas.setLimit(name, value);
  return answer(call, 'OK');
}

function answer(call: Call, text: string): undefined {
  call.connection.replyString(call.packet, text);
}
