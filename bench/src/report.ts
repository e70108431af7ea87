/** Figures beside their references: a table for people, JSON for programs. */
import { cpus, release, totalmem } from 'node:os';

export interface Row {
  readonly name: string;
  /** What `value` and `reference` count, for example `requests/s`. */
  readonly unit: string;
  /** Medians over the rounds. */
  readonly value: number;
  /** The figure of the peer, measured in the same run in turns with ours; absent where the target is a plain number. */
  readonly reference?: { readonly name: string; readonly value: number } | undefined;
  /** Every round's value, or ratio where there is a reference. */
  readonly rounds: readonly number[];
  /** At least this: the value itself, or its ratio to the reference. Absent for a figure that is there to be seen. */
  readonly target?: number;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Runs ours and the reference in turns, so that both see the same machine. */
export async function inTurns(
  rounds: number,
  ours: () => Promise<number> | number,
  reference: () => Promise<number> | number,
): Promise<{ value: number; reference: number; ratios: number[] }> {
  const a: number[] = [];
  const b: number[] = [];
  for (let round = 0; round < rounds; round++) {
    b.push(await reference());
    a.push(await ours());
  }
  return { value: median(a), reference: median(b), ratios: a.map((value, index) => value / b[index]!) };
}

export const achieved = (row: Row): number => (row.reference === undefined ? row.value : median(row.rounds));

export function printTable(rows: readonly Row[]): void {
  const number = (value: number) => (value >= 1000 ? Math.round(value).toLocaleString('en-US') : value.toFixed(2));
  const cells = rows.map((row) => [
    row.name,
    `${number(row.value)} ${row.unit}`,
    row.reference === undefined ? '' : `${row.reference.name} ${number(row.reference.value)}`,
    row.reference === undefined ? '' : number(achieved(row)),
    `${number(Math.min(...row.rounds))} – ${number(Math.max(...row.rounds))}`,
    row.target === undefined ? '' : `≥ ${number(row.target)}`,
    row.target === undefined ? '' : achieved(row) >= row.target ? 'met' : 'MISSED',
  ]);
  const table = [['', 'pvkit', 'reference', 'ratio', 'spread', 'target', ''], ...cells];
  const widths = table[0]!.map((_, column) => Math.max(...table.map((line) => line[column]!.length)));
  for (const line of table)
    console.log(
      line
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join('  ')
        .trimEnd(),
    );
}

export const machine = () => ({
  cpu: cpus()[0]?.model ?? 'unknown',
  cores: cpus().length,
  memoryGiB: Math.round(totalmem() / 2 ** 30),
  kernel: release(),
  node: process.version,
});
