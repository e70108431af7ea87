/** Bundles a guest's program for no platform at all, and finds what it would need of one. */
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

/** Globals of Node and of browsers that the language itself does not have, or that an embedded engine may lack. */
export const FOREIGN_GLOBALS = [
  'AbortController',
  'AbortSignal',
  'Atomics',
  'Blob',
  'BroadcastChannel',
  'Buffer',
  'Event',
  'EventTarget',
  'MessageChannel',
  'ReadableStream',
  'SharedArrayBuffer',
  'TextDecoder',
  'TextEncoder',
  'URL',
  'WebAssembly',
  'WritableStream',
  'atob',
  'btoa',
  'clearImmediate',
  'clearInterval',
  'clearTimeout',
  'console',
  'crypto',
  'fetch',
  'global',
  'performance',
  'process',
  'queueMicrotask',
  'require',
  'setImmediate',
  'setInterval',
  'setTimeout',
  'structuredClone',
  '__dirname',
  '__filename',
] as const;

const MARK = '__foreign_global_';

export interface Bundle {
  readonly code: string;
  /** Free names in the reachable code that only a platform would define. */
  readonly foreignGlobals: readonly string[];
}

/** A program as a file beside this one, or as text. @throws esbuild's error for an import of a `node:` module. */
export async function bundleGuest(program: { readonly file: string } | { readonly text: string }): Promise<Bundle> {
  const here = fileURLToPath(new URL('.', import.meta.url));
  const entry =
    'file' in program
      ? { entryPoints: [`${here}${program.file}`] }
      : { stdin: { contents: program.text, resolveDir: here, loader: 'ts' as const } };
  const options = { ...entry, bundle: true, write: false, logLevel: 'silent', absWorkingDir: here } as const;
  const target = { platform: 'neutral', format: 'iife', target: 'es2022', treeShaking: true } as const;
  // `define` replaces only names that nothing in scope declares, which is what has to be found.
  const define: Record<string, string> = {};
  for (const name of FOREIGN_GLOBALS) define[name] = define[`globalThis.${name}`] = `${MARK}${name}`;
  const [plain, marked] = await Promise.all([
    build({ ...options, ...target }),
    build({ ...options, ...target, define }),
  ]);
  const found = new Set(marked.outputFiles[0]!.text.match(new RegExp(`${MARK}\\w+`, 'g')) ?? []);
  return { code: plain.outputFiles[0]!.text, foreignGlobals: [...found].map((name) => name.slice(MARK.length)) };
}
