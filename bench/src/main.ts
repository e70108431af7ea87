/**
 * `npm run bench [-- --short] [-- --json FILE]`: every target's figure beside its reference, from one run.
 * A short run is for CI: it shows that the benchmarks work; its figures are too noisy to quote.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { benchBlock } from './block.ts';
import { achieved, machine, printTable, type Row } from './report.ts';
import { benchRing } from './ring.ts';

const { values } = parseArgs({ options: { short: { type: 'boolean', default: false }, json: { type: 'string' } } });
const rounds = values.short ? 3 : 7;
const rows: Row[] = [
  ...(await benchRing(rounds, values.short ? 400_000 : 2_000_000)),
  ...(await benchBlock(rounds, values.short ? 0.5 : 2)),
];
const { cpu, cores, memoryGiB, kernel, node } = machine();
console.log(`${cpu}, ${cores} cores, ${memoryGiB} GiB, Linux ${kernel}, Node ${node}; medians of ${rounds} rounds`);
printTable(rows);
if (values.json !== undefined)
  writeFileSync(
    values.json,
    `${JSON.stringify({ machine: machine(), rows: rows.map((row) => ({ ...row, achieved: achieved(row) })) }, null, 2)}\n`,
  );
