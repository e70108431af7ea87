// Measures block backends in the lab, one after the other, each with a fresh guest and image.
import { type BlockBackend, kernelBackend, pvkitBackend, qdiskBackend } from './backends.ts';
import { type BlockLoad, buildBlockLoad, readBlockLoads } from './blockload.ts';
import type { Lab } from './lab.ts';

/** What one backend did, or why it was not measured. */
export type BlockComparison =
  | { readonly backend: string; readonly loads: readonly BlockLoad[] }
  | { readonly backend: string; readonly skipped: string };

export interface CompareOptions {
  readonly type: 'pv' | 'pvh';
  /** Time for each load. */
  readonly seconds: number;
  readonly say: (text: string) => void;
}

/** All backends that the lab knows; pvkit first, its references after it. */
export const blockBackends: readonly BlockBackend[] = [pvkitBackend, kernelBackend, qdiskBackend];

const image = '/tmp/compare.img';
const imageMiB = 64;
const loads = [
  { operation: 'write', order: 'sequential', blockSize: 4096, depth: 32 },
  { operation: 'read', order: 'sequential', blockSize: 4096, depth: 32 },
  { operation: 'write', order: 'sequential', blockSize: 65536, depth: 8 },
  { operation: 'read', order: 'sequential', blockSize: 65536, depth: 8 },
] as const;

export const compareBlock = async (
  lab: Lab,
  backends: readonly BlockBackend[],
  options: CompareOptions,
): Promise<BlockComparison[]> => {
  const program = buildBlockLoad(options.say);
  const results: BlockComparison[] = [];
  for (const backend of backends) {
    const skipped = await backend.unavailable(lab);
    if (skipped === undefined) {
      options.say(`measuring ${backend.name} (about ${15 + loads.length * options.seconds} s)`);
      results.push({ backend: backend.name, loads: await measure(lab, backend, program, options) });
    } else {
      results.push({ backend: backend.name, skipped });
    }
  }
  return results;
};

const measure = async (
  lab: Lab,
  backend: BlockBackend,
  program: string,
  options: CompareOptions,
): Promise<BlockLoad[]> => {
  await lab.sh(`/bin/dd if=/dev/zero of=${image} bs=1M count=${imageMiB}`);
  const served = await backend.serve(lab, image);
  const commands = loads.map(
    ({ operation, order, blockSize, depth }) =>
      `blockload /dev/xvda ${operation} ${order} ${blockSize} ${depth} ${options.seconds} || exit 1`,
  );
  try {
    const guest = await lab.createGuest({
      name: 'compare',
      type: options.type,
      disks: [served.disk],
      files: { '/bin/blockload': program },
      script: ['modprobe xen-blkfront', 'until [ -b /dev/xvda ]; do sleep 0.1; done', ...commands].join('\n'),
    });
    const result = await guest.wait(60_000 + loads.length * options.seconds * 5_000);
    if (result.status !== 0)
      throw lab.failure(`the load on ${backend.name} ended with ${result.status}:\n${result.output}`);
    return readBlockLoads(result.output);
  } finally {
    await served.close();
    await lab.sh(`rm -f ${image}`);
  }
};

/** A table for people: a row for each load, a column for each backend. */
export const blockTable = (comparisons: readonly BlockComparison[]): string => {
  const rows = [
    ['emulated', ...comparisons.map(({ backend }) => backend)],
    ...loads.map((load, index) => [
      `${load.operation} ${load.blockSize / 1024}k depth ${load.depth}`,
      ...comparisons.map((one) => ('skipped' in one ? 'skipped' : rate(one.loads[index]))),
    ]),
  ];
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? [];
  const table = rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  );
  const reasons = comparisons.flatMap((one) => ('skipped' in one ? [`${one.backend} skipped: ${one.skipped}`] : []));
  return [...table, ...reasons].join('\n');
};

const rate = (load: BlockLoad | undefined): string =>
  load === undefined ? '' : `${(load.bytesPerSecond / 1e6).toFixed(1)} MB/s, p50 ${load.p50Microseconds} us`;
