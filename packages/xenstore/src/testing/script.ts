/**
 * For tests: conversations with a xenstored, a line a step, in the notation of `docs/misc/xenstore.txt` (`|` is a NUL):
 *
 *     A WRITE /t/a|value -> OK|          client A sends WRITE, outside transactions; the reply's payload
 *     A START -> $1                      starts a transaction called 1
 *     A READ(1) /t/a| -> value           a request within it
 *     B READ /t/none| -> ENOENT          an error by its name
 *     A gets /t/a|token|                 the next watch event
 *     A quiet                            no event is waiting
 *
 * Clients are made when first named: A to C as the control domain, D1, D2, … as domains.
 */
import type { RawClient } from './raw-client.ts';

const step = /^(\w+) ([A-Z_]+)(?:\((\w+)\))?(?: (.*?))? -> (.*)$/;
const start = /^(\w+) START(?:\((\w+)\))? -> (?:\$(\d+)|(E\w+))$/;
const gets = /^(\w+) gets (.*)$/;
const quiet = /^(\w+) quiet$/;

const toWire = (text: string): string => text.replaceAll('|', '\0');
const fromWire = (text: string): string => text.replaceAll('\0', '|');
/** Errors on the wire end with a NUL; the notation leaves it out. */
const shown = (reply: string): string => (/^E[A-Z0-9]+\0$/.test(reply) ? reply.slice(0, -1) : fromWire(reply));

/**
 * Runs the lines and returns them as they happened: equal to the input if all was as expected.
 */
export async function runScript(connect: (name: string) => Promise<RawClient>, lines: readonly string[]) {
  const clients = new Map<string, RawClient>();
  const transactions = new Map<string, number>();
  const client = async (name: string | undefined): Promise<RawClient> => {
    if (name === undefined) throw new Error('no client named');
    const known = clients.get(name) ?? (await connect(name));
    clients.set(name, known);
    return known;
  };
  const txId = (name: string | undefined): number =>
    name === undefined ? 0 : (transactions.get(name) ?? Number(name));
  const happened: string[] = [];
  for (const line of lines) happened.push(await run(line));
  return { happened, clients };

  async function run(line: string): Promise<string> {
    let match = start.exec(line);
    if (match !== null) {
      const [, name, within, variable] = match;
      const reply = shown(await (await client(name)).request('TRANSACTION_START', txId(within), '\0'));
      const prefix = line.slice(0, line.indexOf(' ->'));
      if (variable === undefined || !/^\d+\|$/.test(reply)) return `${prefix} -> ${reply}`;
      transactions.set(variable, Number(reply.slice(0, -1)));
      return line;
    }
    match = gets.exec(line);
    if (match !== null) return `${match[1]} gets ${fromWire(await (await client(match[1])).nextEvent())}`;
    match = quiet.exec(line);
    if (match !== null) {
      const who = await client(match[1]);
      // Events caused by what was asked before come before this reply.
      await who.request('GET_DOMAIN_PATH', 0, '0\0');
      return who.events.length === 0 ? line : `${match[1]} has ${fromWire(who.events.splice(0).join(' '))}`;
    }
    match = step.exec(line);
    if (match === null) throw new Error(`not a step: ${line}`);
    const [, name, operation, within, payload] = match;
    const reply = await (await client(name)).request(operation ?? '', txId(within), toWire(payload ?? ''));
    return `${line.slice(0, line.lastIndexOf(' -> '))} -> ${shown(reply)}`;
  }
}
