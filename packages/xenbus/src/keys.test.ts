import { ProtocolError } from '@pvkit/ring';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { flag, optionalDecimal, parseDecimal, quote, requireDecimal } from './keys.ts';

const MAX = Number.MAX_SAFE_INTEGER;

describe('a strict decimal', () => {
  it.each([
    ['0', 0],
    ['1', 1],
    ['4294967295', 4_294_967_295],
    ['9007199254740991', MAX],
  ])('%s is one', (text, value) => {
    expect(parseDecimal(text, 0, MAX)).toBe(value);
  });

  it.each([
    '',
    ' ',
    ' 5',
    '5 ',
    '5\n',
    '\0',
    '5\0',
    '-1',
    '-0',
    '+1',
    '00',
    '05',
    '12abc',
    '0x10',
    '0b1',
    '1e3',
    '1.0',
    '1_000',
    'NaN',
    'Infinity',
    '\u0661',
    '9007199254740992', // 2^53
    '9007199254740993',
    '18446744073709551616',
    '1'.repeat(4000),
  ])('a text that is none: %#', (text) => {
    expect(parseDecimal(text, 0, MAX)).toBeUndefined();
  });

  it('is in its range, both ends included', () => {
    expect([1, 2, 5, 6].map((value) => parseDecimal(String(value), 2, 5))).toEqual([undefined, 2, 5, undefined]);
  });

  it('is exactly what String makes of a number', () => {
    fc.assert(fc.property(fc.maxSafeNat(), (value) => parseDecimal(String(value), 0, MAX) === value));
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(...'0123456789 -+.ex') }), (text) => {
        const value = parseDecimal(text, 0, MAX);
        return value === undefined || String(value) === text;
      }),
    );
  });
});

describe('a typed node', () => {
  const nodes = { good: '7', zero: '0', one: '1', bad: '7x', empty: '', absent: undefined };

  it('is a number, or refused by name', () => {
    expect(requireDecimal(nodes, 'good', 0, 9)).toBe(7);
    expect(() => requireDecimal(nodes, 'good', 0, 6)).toThrow("node 'good' is '7', not a number from 0 to 6");
    expect(() => requireDecimal(nodes, 'bad', 0, 9)).toThrow("node 'bad' is '7x', not a number from 0 to 9");
    expect(() => requireDecimal(nodes, 'empty', 0, 9)).toThrow("node 'empty' is ''");
    expect(() => requireDecimal(nodes, 'absent', 0, 9)).toThrow("node 'absent' is missing");
    expect(() => requireDecimal(nodes, 'other', 0, 9)).toThrow(ProtocolError);
  });

  it('may be absent, but not wrong', () => {
    expect(optionalDecimal(nodes, 'absent', 0, 9, 3)).toBe(3);
    expect(optionalDecimal(nodes, 'absent', 0, 9, undefined)).toBeUndefined();
    expect(optionalDecimal(nodes, 'good', 0, 9, 3)).toBe(7);
    expect(() => optionalDecimal(nodes, 'empty', 0, 9, 3)).toThrow(ProtocolError);
  });

  it('is a flag', () => {
    expect(['one', 'zero', 'absent'].map((key) => flag(nodes, key))).toEqual([true, false, false]);
    expect(() => flag(nodes, 'good')).toThrow(ProtocolError);
  });
});

it('makes any text fit for a message', () => {
  expect(quote('plain')).toBe('plain');
  expect(quote('a\n\u001b[31m\u0000é')).toBe('a??[31m??');
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 80 }), (text) => {
      expect(quote(text)).toMatch(/^[ -~]{0,64}…?$/);
    }),
    { numRuns: 50 },
  );
});
