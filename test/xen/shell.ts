// `npm run xen:shell`: a prompt in Dom0 of a real Xen, with pvkit in the PATH.
import { LabError } from './lab/errors.ts';
import { Lab } from './lab/lab.ts';

const leaveKey = 0x1d; // Ctrl-]

const main = async (): Promise<number> => {
  const lab = await Lab.boot({ shell: true });
  const { machine } = lab;
  const terminal = process.stdin.isTTY;
  process.stderr.write(
    `\nThis is Dom0. pvkit, xl and xenstore-* are in the PATH; ${lab.share} of this machine is /lab here.\n` +
      `Leave with 'exit'${terminal ? ', or at any time with Ctrl-]' : ''}.\n\n`,
  );
  if (terminal) {
    process.stdin.setRawMode(true);
    const { rows, columns } = process.stdout;
    // A terminal that does not know its size says 0, and Dom0's shell shows no prompt at such a width.
    if (rows > 0 && columns > 0) await lab.sh(`stty -F /dev/hvc0 rows ${rows} cols ${columns}`);
  }
  machine.stdout.on('data', (chunk: Buffer) => process.stdout.write(chunk));
  machine.stdin.write('\n');
  process.stdin.on('data', (chunk: Buffer) => {
    if (terminal && chunk.includes(leaveKey)) machine.kill();
    else machine.stdin.write(chunk);
  });
  process.stdin.on('end', () => machine.stdin.write('exit\n'));
  await machine.ended;
  if (terminal) process.stdin.setRawMode(false);
  process.stdin.destroy();
  await lab.close();
  return 0;
};

try {
  process.exitCode = await main();
} catch (error) {
  if (!(error instanceof LabError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}
