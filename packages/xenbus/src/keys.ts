/** Typed reading of nodes. The other side writes them, so a value is a strict decimal in its range, or refused by name. */
import { ProtocolError } from '@pvkit/ring';

/** Device ids are non-negative 32-bit integers (`libxl_devid`). */
export const DEVID_MAX = 0x7fff_ffff;

/** The text of nodes below one directory, by relative path; absent nodes are undefined. */
export type Nodes = Readonly<Record<string, string | undefined>>;

/** A decimal without sign, blanks, leading zeros or other bases, `low` to `high`; undefined for anything else. */
export function parseDecimal(text: string, low: number, high: number): number | undefined {
  if (!/^(0|[1-9]\d{0,15})$/.test(text)) return undefined;
  const value = Number(text);
  return value >= low && value <= high ? value : undefined;
}

/** @throws ProtocolError when the node is absent or not a decimal from `low` to `high`. */
export function requireDecimal(nodes: Nodes, key: string, low: number, high: number): number {
  const text = nodes[key];
  if (text === undefined) throw new ProtocolError(`node '${key}' is missing`);
  const value = parseDecimal(text, low, high);
  if (value === undefined)
    throw new ProtocolError(`node '${key}' is '${quote(text)}', not a number from ${low} to ${high}`);
  return value;
}

/** As {@link requireDecimal}, with a value for an absent node. */
export function optionalDecimal<T>(nodes: Nodes, key: string, low: number, high: number, absent: T): number | T {
  return nodes[key] === undefined ? absent : requireDecimal(nodes, key, low, high);
}

/** A node that is absent, `0` or `1`. */
export function flag(nodes: Nodes, key: string): boolean {
  return optionalDecimal(nodes, key, 0, 1, 0) === 1;
}

/** Makes text from a node fit for a message: short and printable. */
export function quote(text: string): string {
  const printable = text.replace(/[^ -~]/g, '?');
  return printable.length > 64 ? `${printable.slice(0, 64)}…` : printable;
}
