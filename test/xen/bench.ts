// `node test/xen/dist/bench.js [--json FILE]`: pvkit's block backend on real Xen beside the kernel's and QEMU's.
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { blockBackends, blockTable, compareBlock } from './lab/compare.ts';
import { LabError } from './lab/errors.ts';
import { Lab } from './lab/lab.ts';

const say = (text: string): void => {
  process.stderr.write(`xen lab: ${text}\n`);
};

const main = async (): Promise<void> => {
  const { values } = parseArgs({ options: { json: { type: 'string' } } });
  const lab = await Lab.boot({ say });
  try {
    const comparisons = await compareBlock(lab, blockBackends, { type: 'pv', seconds: 3, say });
    process.stdout.write(`${blockTable(comparisons)}\n`);
    if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(comparisons, null, 2)}\n`);
  } finally {
    await lab.close();
  }
};

try {
  await main();
} catch (error) {
  if (!(error instanceof LabError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}
