import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  canonicalPath,
  countedPathLength,
  domainPath,
  isNodePath,
  isWatchPath,
  joinPath,
  leafName,
  parentPath,
  pathKind,
  XENSTORE_ABS_PATH_MAX,
  XENSTORE_REL_PATH_MAX,
} from './path.ts';

const allowed = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-/_@';

/** The rules of xenstore.txt, one after the other. */
function plainKind(path: string): string | undefined {
  for (const character of path) if (!allowed.includes(character)) return undefined;
  if (path === '' || path.includes('//') || (path !== '/' && path.endsWith('/'))) return undefined;
  const kind = path.startsWith('/') ? 'absolute' : path.startsWith('@') ? 'special' : 'relative';
  if (path === '@') return undefined;
  if (path.length > (kind === 'absolute' ? XENSTORE_ABS_PATH_MAX : XENSTORE_REL_PATH_MAX)) return undefined;
  // A special path has a name before its first slash.
  return kind === 'special' && path.startsWith('@/') ? undefined : kind;
}

const segment = fc.string({ unit: fc.constantFrom(...'abZ09-_@'), minLength: 1, maxLength: 8 });
const anyText = fc.oneof(
  fc.string({ unit: fc.constantFrom(...'aZ0-_@/////@@.+é \0') }),
  fc.array(segment).map((segments) => `/${segments.join('/')}`),
  fc.array(segment, { minLength: 1 }).map((segments) => segments.join('/')),
  fc.string({ unit: 'binary' }),
);

describe('pathKind', () => {
  it('agrees with the rules of xenstore.txt', () => {
    fc.assert(
      fc.property(anyText, (text) => void expect(pathKind(text)).toBe(plainKind(text))),
      { numRuns: 2000 },
    );
  });

  it.each([
    ['/', 'absolute'],
    ['/a', 'absolute'],
    ['/local/domain/0/device/vbd/51712', 'absolute'],
    ['/a@b', 'absolute'],
    ['a', 'relative'],
    ['device/vbd', 'relative'],
    ['@releaseDomain', 'special'],
    ['@releaseDomain/3', 'special'],
    ['', undefined],
    ['/a/', undefined],
    ['/a//b', undefined],
    ['//', undefined],
    ['a/', undefined],
    ['@', undefined],
    ['@/a', undefined],
    ['/a b', undefined],
    ['/a\0', undefined],
    ['/a\n', undefined],
    [`/${'a'.repeat(3071)}`, 'absolute'],
    [`/${'a'.repeat(3072)}`, undefined],
    ['a'.repeat(2048), 'relative'],
    ['a'.repeat(2049), undefined],
  ])('of %j', (path, kind) => expect(pathKind(path)).toBe(kind));

  it('tells nodes from special events', () => {
    expect(isNodePath('@releaseDomain')).toBe(false);
    expect(isWatchPath('@releaseDomain')).toBe(true);
    expect(isNodePath('/a')).toBe(true);
    expect(isWatchPath('/a/')).toBe(false);
  });
});

describe('canonicalPath', () => {
  it('puts relative paths below the base', () => {
    expect(canonicalPath('a/b', domainPath(3), false)).toBe('/local/domain/3/a/b');
    expect(canonicalPath('/a', domainPath(3), false)).toBe('/a');
    expect(canonicalPath('@x', domainPath(3), true)).toBe('@x');
    expect(canonicalPath('@x', domainPath(3), false)).toBeUndefined();
    expect(canonicalPath('', domainPath(3), true)).toBeUndefined();
  });
});

describe('parts of paths', () => {
  it('take apart what joinPath joined', () => {
    fc.assert(
      fc.property(fc.array(segment), segment, (segments, name) => {
        const directory = `/${segments.join('/')}`;
        const path = joinPath(directory, name);
        expect(parentPath(path)).toBe(directory);
        expect(leafName(path)).toBe(name);
      }),
    );
    expect(parentPath('/')).toBe('/');
  });

  it('count a path below a domain without its prefix', () => {
    expect(countedPathLength('/local/domain/12/abc')).toBe(3);
    expect(countedPathLength('/local/domain/12')).toBe(16);
    expect(countedPathLength('/local/domain/123456/abc')).toBe(24);
    expect(countedPathLength('/tool')).toBe(5);
  });
});
