// Bundles a program of this repository for Dom0 or for a guest whose only program is Node.
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { build } from 'esbuild';
import { Tree, writeArchive } from './cpio.ts';
import { LabError } from './errors.ts';
import { repository } from './places.ts';

const pvkitEntry = join(repository, 'packages/host/dist/cli.js');

/** koffi loads a native library, so it stays a package beside the bundle. */
const keptPackages = ['koffi', '@koromix/koffi-linux-x64'] as const;

/**
 * Bundles `entry` into `folder` (emptied first) as main.js, with koffi beside it.
 * Files that the program starts by `new URL('./x.js', import.meta.url)`, as workers and child processes are, become bundles of their own.
 */
export const bundleGuestProgram = async (entry: string, folder: string): Promise<void> => {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const entries = new Map([['main', entry]]);
  for (;;) {
    const known = entries.size;
    const { metafile } = await build({
      entryPoints: Object.fromEntries(entries),
      outdir: folder,
      absWorkingDir: repository,
      bundle: true,
      splitting: true,
      platform: 'node',
      format: 'esm',
      target: 'node20',
      external: ['koffi'],
      metafile: true,
      logLevel: 'silent',
      // Packages in CommonJS form call require for Node's own modules.
      banner: {
        js: "import { createRequire as $createRequire } from 'node:module'; const require = $createRequire(import.meta.url);",
      },
    }).catch((error: unknown) => {
      throw new LabError(`${entry} cannot be bundled: ${error instanceof Error ? error.message : String(error)}`);
    });
    for (const input of Object.keys(metafile.inputs)) addSeparateFiles(join(repository, input), entries);
    if (entries.size === known) break;
  }
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }\n');
  for (const name of keptPackages) {
    const source = join(repository, 'node_modules', name);
    if (!existsSync(join(source, 'package.json'))) throw new LabError(`${name} is not installed: run 'npm run setup'`);
    cpSync(source, join(folder, 'node_modules', name), {
      recursive: true,
      filter: (file) => !unused.test(file.slice(source.length)),
    });
  }
};

/** Of koffi: its sources, its manual, and the library for another libc. */
const unused = /^\/(vendor|doc|lib|musl_x64)$|\.(md|ts|cc|hh|txt|S)$/;

const addSeparateFiles = (file: string, entries: Map<string, string>): void => {
  if (!existsSync(file) || file.includes('/node_modules/')) return;
  for (const match of readFileSync(file, 'utf8').matchAll(
    /new URL\(\s*['"](\.[^'"]+\.[jt]s)['"],\s*import\.meta\.url\s*\)/g,
  )) {
    const reference = match[1] ?? '';
    const name = /^\.\/([\w-]+)\.[jt]s$/.exec(reference)?.[1];
    const target = resolve(dirname(file), reference);
    if (name === undefined || (entries.has(name) && entries.get(name) !== target)) {
      throw new LabError(
        `${file} refers to '${reference}', which cannot lie beside a bundle: use a unique './name.js'`,
      );
    }
    entries.set(name, target);
  }
};

/** Writes the archive that puts pvkit into Dom0 below `folder`, and returns its path. */
export const bundlePvkit = async (folder: string): Promise<string> => {
  if (!existsSync(pvkitEntry)) throw new LabError(`${pvkitEntry} is missing: run 'npm run build' first`);
  const program = join(folder, 'pvkit');
  await bundleGuestProgram(pvkitEntry, program);
  const tree = new Tree().copyFolder('/opt/pvkit', program);
  tree.text('/opt/pvkit/bin/pvkit', '#!/bin/sh\nexec node /opt/pvkit/main.js "$@"\n', 0o755);
  const file = join(folder, 'pvkit.img');
  writeArchive(tree, file);
  rmSync(program, { recursive: true });
  return file;
};
