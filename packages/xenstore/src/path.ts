/**
 * Paths of xenstore nodes (`docs/misc/xenstore.txt`): `/`-separated ASCII, absolute or relative to the caller's
 * `/local/domain/<domid>`; names that begin with `@` are the special events.
 */

/** Length limits in bytes (`XENSTORE_ABS_PATH_MAX`, `XENSTORE_REL_PATH_MAX`, `xs_wire.h`). */
export const XENSTORE_ABS_PATH_MAX = 3072;
export const XENSTORE_REL_PATH_MAX = 2048;

export const INTRODUCE_DOMAIN = '@introduceDomain';
export const RELEASE_DOMAIN = '@releaseDomain';

// No '/' in the class, so each character can match in one way only and hostile input costs linear time.
const absolute = /^(?:\/|(?:\/[A-Za-z0-9\-_@]+)+)$/;
const relative = /^[A-Za-z0-9\-_][A-Za-z0-9\-_@]*(?:\/[A-Za-z0-9\-_@]+)*$/;
const special = /^@[A-Za-z0-9\-_@]+(?:\/[A-Za-z0-9\-_@]+)*$/;
const belowDomain = /^\/local\/domain\/\d{1,5}\//;

export type PathKind = 'absolute' | 'relative' | 'special';

/** What kind of path `path` is, or undefined when it is none: bad characters, `//`, a trailing `/`, empty, too long. */
export function pathKind(path: string): PathKind | undefined {
  const first = path.charCodeAt(0);
  if (first === 0x2f) return path.length <= XENSTORE_ABS_PATH_MAX && absolute.test(path) ? 'absolute' : undefined;
  if (path.length > XENSTORE_REL_PATH_MAX) return undefined;
  if (first === 0x40) return special.test(path) ? 'special' : undefined;
  return relative.test(path) ? 'relative' : undefined;
}

/** Is `path` one that READ, WRITE and the like take: absolute or relative? */
export function isNodePath(path: string): boolean {
  const kind = pathKind(path);
  return kind === 'absolute' || kind === 'relative';
}

/** Is `path` one that WATCH takes: that of a node or of a special event? */
export const isWatchPath = (path: string): boolean => pathKind(path) !== undefined;

/** Length that the limit for domains counts: without a leading `/local/domain/<domid>/`. */
export function countedPathLength(path: string): number {
  const prefix = belowDomain.exec(path);
  return prefix === null ? path.length : path.length - prefix[0].length;
}

/** A domain's base path. */
export const domainPath = (domid: number): string => `/local/domain/${domid}`;

/**
 * The absolute form of a path sent by a connection whose base path is `base`, or undefined when the path is malformed.
 * A special path is returned as it is when `allowSpecial`.
 */
export function canonicalPath(path: string, base: string, allowSpecial: boolean): string | undefined {
  switch (pathKind(path)) {
    case 'absolute':
      return path;
    case 'relative':
      return `${base}/${path}`;
    case 'special':
      return allowSpecial ? path : undefined;
    case undefined:
      return undefined;
  }
}

/** Path of the parent; that of `/` and of a first-level node is `/`. */
export function parentPath(path: string): string {
  const slash = path.lastIndexOf('/');
  return slash <= 0 ? '/' : path.slice(0, slash);
}

/** Last component of an absolute path other than `/`. */
export const leafName = (path: string): string => path.slice(path.lastIndexOf('/') + 1);

/** `name` below `directory`. */
export const joinPath = (directory: string, name: string): string =>
  directory === '/' ? `/${name}` : `${directory}/${name}`;
