// Builds the guests' block load program, and reads what it prints.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { LabError } from './errors.ts';
import { requirePackages } from './packages.ts';
import { cacheFolder, labSources } from './places.ts';

/** One measurement of `blockload`; rates are in emulated time, good for ratios only. */
export interface BlockLoad {
  readonly operation: string;
  readonly order: string;
  readonly blockSize: number;
  readonly depth: number;
  readonly seconds: number;
  readonly operations: number;
  readonly bytesPerSecond: number;
  readonly p50Microseconds: number;
  readonly p99Microseconds: number;
}

/** The static program, compiled when its source has changed; needs gcc on this machine. */
export const buildBlockLoad = (say: (text: string) => void): string => {
  requirePackages(say, true);
  const source = join(labSources, 'blockload.c');
  const digest = createHash('sha256').update(readFileSync(source)).digest('hex').slice(0, 16);
  const program = join(cacheFolder('programs'), `blockload-${digest}`);
  if (!existsSync(program)) {
    say('compiling the block load program');
    execFileSync('/usr/bin/gcc', ['-O2', '-Wall', '-Wextra', '-Werror', '-static', '-pthread', '-o', program, source]);
  }
  return program;
};

/** Every measurement in a guest's output. */
export const readBlockLoads = (output: string): BlockLoad[] =>
  output
    .split('\n')
    .filter((line) => line.startsWith('{"operation":'))
    .map((line) => {
      const value: unknown = JSON.parse(line);
      if (!isBlockLoad(value)) throw new LabError(`not a measurement: ${line}`);
      return value;
    });

const isBlockLoad = (value: unknown): value is BlockLoad => {
  if (typeof value !== 'object' || value === null) return false;
  const field = new Map<string, unknown>(Object.entries(value));
  const numbers = [
    'blockSize',
    'depth',
    'seconds',
    'operations',
    'bytesPerSecond',
    'p50Microseconds',
    'p99Microseconds',
  ];
  return (
    typeof field.get('operation') === 'string' &&
    typeof field.get('order') === 'string' &&
    numbers.every((name) => typeof field.get(name) === 'number')
  );
};
