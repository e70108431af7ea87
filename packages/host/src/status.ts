/** One line a device, for people. */
import type { BackendDevice } from '@pvkit/xenbus';
import { stateName } from '@pvkit/xenbus';

export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  let value = bytes;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

const number = (value: number | string | undefined): number => (typeof value === 'number' ? value : 0);

export function statusLine(device: BackendDevice): string {
  const { frontend } = device.context;
  const status = device.status();
  const state = device.state === undefined ? 'gone' : stateName(device.state);
  return [
    `${frontend.instance}/${frontend.domid}/${device.name}`.padEnd(30),
    state.padEnd(12),
    `read ${formatBytes(number(status.rd_sect) * 512)} in ${number(status.rd_req)}`.padEnd(26),
    `written ${formatBytes(number(status.wr_sect) * 512)} in ${number(status.wr_req)}`.padEnd(26),
    `errors ${number(status.errors)}`.padEnd(9),
    String(status.target ?? ''),
  ].join(' ');
}

/** A bar of `done` of `total`, with a rate when `milliseconds` have passed. */
export function progressBar(label: string, done: number, total: number, milliseconds: number): string {
  const width = 32;
  const filled = total === 0 ? width : Math.round((done / total) * width);
  const rate = milliseconds > 0 ? `${formatBytes((done / milliseconds) * 1000)}/s` : '';
  const percent = total === 0 ? 100 : Math.floor((done / total) * 100);
  return `${label} [${'█'.repeat(filled)}${'░'.repeat(width - filled)}] ${String(percent).padStart(3)} % of ${formatBytes(total)} ${rate}`;
}
