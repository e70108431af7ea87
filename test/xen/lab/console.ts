// The text that a machine says on its console: kept in a file, its end in memory.
import { closeSync, openSync, writeSync } from 'node:fs';
import type { Readable } from 'node:stream';

const keptBytes = 64 << 10;

export class Console {
  readonly file: string;
  #output: number | undefined;
  #end = '';

  constructor(file: string, source: Readable) {
    this.file = file;
    this.#output = openSync(file, 'w');
    source.on('data', (chunk: Buffer) => {
      if (this.#output !== undefined) writeSync(this.#output, chunk);
      this.#end = (this.#end + chunk.toString('latin1')).slice(-keptBytes);
    });
  }

  /** The last `lines` lines, without carriage returns. */
  tail(lines = 40): string {
    return lastLines(this.#end, lines);
  }

  close(): void {
    if (this.#output !== undefined) closeSync(this.#output);
    this.#output = undefined;
  }
}

export const lastLines = (text: string, lines: number): string =>
  text.replaceAll('\r', '').trimEnd().split('\n').slice(-lines).join('\n');
