import { eventPort, grantReference, ProtocolError } from '@pvkit/ring';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  BACKEND_PROPERTY_KEYS,
  FRONTEND_RING_KEYS,
  formatBackendProperties,
  formatFrontendRing,
  parseBackendProperties,
  parseBackendRequest,
  parseFrontendRing,
} from './keys.ts';

describe('what a frontend publishes', () => {
  it('comes back as it went', () => {
    const ring = fc.record({
      ringReference: fc.integer({ min: 1, max: 0xffff_ffff }).map(grantReference),
      eventChannel: fc.integer({ min: 1, max: 0x1_ffff }).map(eventPort),
    });
    fc.assert(
      fc.property(ring, (sent) => {
        const nodes = formatFrontendRing(sent);
        expect(parseFrontendRing(nodes)).toEqual(sent);
        for (const key of Object.keys(nodes)) expect(FRONTEND_RING_KEYS).toContain(key);
      }),
    );
  });

  const good = { 'ring-ref': '8', 'event-channel': '9' };

  it.each([
    {},
    { protocol: 'x86_64-abi' },
    { protocol: 'arm-abi' },
    { 'ring-page-order': '0' },
    { 'multi-queue-num-queues': '1' },
  ])('is taken with %o', (more) => {
    expect(parseFrontendRing({ ...good, ...more })).toEqual({ ringReference: 8, eventChannel: 9 });
  });

  it.each([
    [{ 'ring-ref': undefined }, "'ring-ref' is missing"],
    [{ 'ring-ref': '0' }, 'ring-ref'],
    [{ 'ring-ref': '-1' }, 'ring-ref'],
    [{ 'ring-ref': '8x' }, 'ring-ref'],
    [{ 'ring-ref': '4294967296' }, 'ring-ref'],
    [{ 'ring-ref': '9'.repeat(4000) }, 'ring-ref'],
    [{ 'event-channel': undefined }, "'event-channel' is missing"],
    [{ 'event-channel': '0' }, 'event-channel'],
    [{ 'event-channel': '131072' }, 'event-channel'],
    [{ 'event-channel': '' }, 'event-channel'],
    [{ protocol: 'x86_32-abi' }, 'x86_32-abi'],
    [{ protocol: '' }, 'ring layout'],
    [{ 'ring-page-order': '1' }, 'ring-page-order'],
    [{ 'ring-page-order': 'x' }, 'ring-page-order'],
    [{ 'multi-queue-num-queues': '2' }, 'multi-queue-num-queues'],
    [{ 'multi-queue-num-queues': '0' }, 'multi-queue-num-queues'],
  ])('is refused with %#', (more, message) => {
    expect(() => parseFrontendRing({ ...good, ...more })).toThrow(ProtocolError);
    expect(() => parseFrontendRing({ ...good, ...more })).toThrow(message);
  });

  it('is refused in a short printable message, whatever it says', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 80 }), (text) => {
        try {
          parseFrontendRing({ ...good, 'ring-ref': text });
        } catch (error) {
          expect(error).toBeInstanceOf(ProtocolError);
          expect((error as ProtocolError).message).toMatch(/^[ -~…]{0,200}$/);
          return;
        }
        expect(text).toMatch(/^[1-9]\d*$/);
      }),
      { numRuns: 50 },
    );
  });
});

describe('what a backend publishes', () => {
  it('comes back as it went', () => {
    const geometry = fc
      .record({
        sectors: fc.maxSafeNat(),
        sectorExponent: fc.integer({ min: 9, max: 12 }),
        physicalFactor: fc.constantFrom(1, 2, 8),
        readOnly: fc.boolean(),
        flushable: fc.boolean(),
      })
      .map(({ sectorExponent, physicalFactor, ...rest }) => ({
        ...rest,
        sectorSize: 2 ** sectorExponent,
        physicalSectorSize: 2 ** sectorExponent * physicalFactor,
      }));
    fc.assert(
      fc.property(geometry, (sent) => {
        const nodes = formatBackendProperties(sent);
        expect(parseBackendProperties(nodes)).toEqual(sent);
        expect(Object.keys(nodes).sort()).toEqual([...BACKEND_PROPERTY_KEYS].sort());
      }),
    );
  });

  const good = { sectors: '131072', 'sector-size': '512', info: '0' };

  it('does without the optional nodes', () => {
    expect(parseBackendProperties(good)).toEqual({
      sectors: 131_072,
      sectorSize: 512,
      physicalSectorSize: 512,
      readOnly: false,
      flushable: false,
    });
  });

  it.each([
    ['0', false],
    ['1', false],
    ['3', false],
    ['4', true],
    ['7', true],
  ])('info %s is read-only: %s', (info, readOnly) => {
    expect(parseBackendProperties({ ...good, info }).readOnly).toBe(readOnly);
  });

  it('does not believe a physical sector size that is no multiple of the logical one', () => {
    const nodes = { ...good, 'sector-size': '4096', 'physical-sector-size': '512' };
    expect(parseBackendProperties(nodes).physicalSectorSize).toBe(4096);
  });

  it.each([
    [{ sectors: undefined }],
    [{ sectors: '-1' }],
    [{ sectors: '9007199254740992' }],
    [{ sectors: '99999999999999999999' }],
    [{ sectors: '1e3' }],
    [{ 'sector-size': undefined }],
    [{ 'sector-size': '0' }],
    [{ 'sector-size': '256' }],
    [{ 'sector-size': '513' }],
    [{ 'sector-size': '1536' }],
    [{ 'sector-size': '8192' }],
    [{ info: undefined }],
    [{ info: 'r' }],
    [{ 'feature-flush-cache': '2' }],
    [{ 'physical-sector-size': 'big' }],
  ])('is refused with %o', (more) => {
    expect(() => parseBackendProperties({ ...good, ...more })).toThrow(ProtocolError);
  });
});

describe('what the toolstack asks for', () => {
  it.each([
    [
      { params: '/disk.img', mode: 'w' },
      { target: '/disk.img', readOnly: false },
    ],
    [
      { params: '/disk.img', mode: 'r' },
      { target: '/disk.img', readOnly: true },
    ],
    [{ params: 'relative, with a comma' }, { target: 'relative, with a comma', readOnly: false }],
  ])('%o', (nodes, request) => {
    expect(parseBackendRequest(nodes)).toEqual(request);
  });

  it.each([[{}], [{ params: '' }], [{ params: '/disk.img', mode: 'rw' }], [{ params: '/disk.img', mode: '' }]])(
    'refuses %o',
    (nodes) => {
      expect(() => parseBackendRequest(nodes)).toThrow(ProtocolError);
    },
  );
});
