// Picks the kernel modules that an image needs, with all that they depend on, out of a kernel package.
import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { Tree } from './cpio.ts';
import { LabError } from './errors.ts';
import type { Kernels } from './packages.ts';

const moduleName = (path: string): string => basename(path, '.ko').replaceAll('-', '_');

/** Adds the named modules and their dependencies, and lists cut down to them so that modprobe has little to read. */
export const addModules = (tree: Tree, kernels: Kernels, names: readonly string[]): void => {
  const list = (file: string): string[] => readFileSync(join(kernels.modules, file), 'utf8').split('\n');
  const dependencies = new Map<string, { path: string; line: string; needs: string[] }>();
  for (const line of list('modules.dep')) {
    const [path = '', needs = ''] = line.split(':');
    if (path === '') continue;
    dependencies.set(moduleName(path), { path, line, needs: needs.split(' ').filter(Boolean).map(moduleName) });
  }
  const builtin = new Set(list('modules.builtin').map(moduleName));
  const chosen = new Map<string, string>();
  const choose = (name: string): void => {
    if (chosen.has(name) || builtin.has(name)) return;
    const found = dependencies.get(name);
    if (found === undefined) throw new LabError(`Debian's kernel ${kernels.version} has no module ${name}`);
    chosen.set(name, found.line);
    tree.copy(`/lib/modules/${kernels.version}/${found.path}`, join(kernels.modules, found.path), 0o644);
    for (const need of found.needs) choose(need);
  };
  for (const name of names) choose(name.replaceAll('-', '_'));

  const target = `/lib/modules/${kernels.version}`;
  const lastWord = (line: string): string => line.slice(line.lastIndexOf(' ') + 1).replaceAll('-', '_');
  const aliases = list('modules.alias').filter((line) => line.startsWith('alias ') && chosen.has(lastWord(line)));
  tree.text(`${target}/modules.dep`, `${[...chosen.values()].join('\n')}\n`);
  tree.text(`${target}/modules.alias`, `${aliases.join('\n')}\n`);
  tree.text(`${target}/modules.softdep`, '');
  tree.text(`${target}/modules.symbols`, '');
  tree.copy(`${target}/modules.builtin`, join(kernels.modules, 'modules.builtin'));
};
