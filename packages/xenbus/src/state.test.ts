import { expect, it } from 'vitest';
import { parseState, stateName, XenbusState } from './state.ts';

it.each([
  [0, 'Unknown'],
  [1, 'Initialising'],
  [2, 'InitWait'],
  [3, 'Initialised'],
  [4, 'Connected'],
  [5, 'Closing'],
  [6, 'Closed'],
  [7, 'Reconfiguring'],
  [8, 'Reconfigured'],
] as const)('state %i is %s', (number, name) => {
  expect(XenbusState[name]).toBe(number);
  expect(stateName(number)).toBe(name);
  expect(parseState(String(number))).toBe(number);
});

it.each([
  undefined,
  '',
  '9',
  '10',
  '-1',
  '04',
  '4 ',
  ' 4',
  '4\0',
  '0x4',
  '4.0',
  'Connected',
  '\u0664',
  '4'.repeat(4000),
])('a text that is no state: %#', (text) => {
  expect(parseState(text)).toBe(XenbusState.Unknown);
});
