// What the documents claim: files that they name exist, commands are there, SUPPORT.md is what a program can read.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';

const root = join(import.meta.dirname, '..');
const documents = [
  'README.md',
  'CONTRIBUTING.md',
  'CHANGELOG.md',
  'SUPPORT.md',
  ...readdirSync(join(root, 'docs')).map((name) => `docs/${name}`),
];
const read = (path: string) => readFileSync(join(root, path), 'utf8');

interface Support {
  readonly features: readonly {
    readonly feature: string;
    readonly status: string;
    readonly on?: string;
    readonly shown_by?: readonly string[];
  }[];
}

describe.each(documents)('%s', (path) => {
  it('links to files that exist', () => {
    const links = [...read(path).matchAll(/\]\((?!https?:)([^)#]+)[^)]*\)/g)].map((match) => match[1]!);
    expect(links.filter((link) => !existsSync(join(root, dirname(path), link)))).toEqual([]);
  });

  it('names npm scripts that exist', () => {
    const scripts = Object.keys((JSON.parse(read('package.json')) as { scripts: object }).scripts);
    const named = [...read(path).matchAll(/npm (?:run (?:--silent )?)?(start|test(?::\w+)?|(?<=run )[\w:]+)/g)].map(
      (match) => match[1]!,
    );
    expect(named.filter((script) => !scripts.includes(script))).toEqual([]);
  });
});

describe('SUPPORT.md', () => {
  const block = /```json\n([\s\S]*?)```/.exec(read('SUPPORT.md'))?.[1] ?? '';
  const support = JSON.parse(block) as Support;

  it('has a test for every feature that works, and none for those that are not there', () => {
    for (const { feature, status, on, shown_by: shownBy } of support.features) {
      expect(['works', 'no'], feature).toContain(status);
      if (status === 'no') expect(shownBy, feature).toBeUndefined();
      else {
        expect(on, feature).toBeTruthy();
        expect(shownBy?.length, feature).toBeGreaterThan(0);
        expect(
          shownBy?.filter((file) => !existsSync(join(root, file))),
          feature,
        ).toEqual([]);
      }
    }
  });
});

describe('docs/dependencies.md', () => {
  it('says of every dependency why it is there, and of nothing else', () => {
    const text = read('docs/dependencies.md');
    const named = [...text.matchAll(/^\| ([@\w/-]+) \|/gm)].map((match) => match[1]!);
    const wanted = new Set(
      Object.keys((JSON.parse(read('package.json')) as { devDependencies: object }).devDependencies),
    );
    for (const name of readdirSync(join(root, 'packages'))) {
      const { dependencies = {} } = JSON.parse(read(`packages/${name}/package.json`)) as { dependencies?: object };
      for (const dependency of Object.keys(dependencies)) if (!dependency.startsWith('@pvkit/')) wanted.add(dependency);
    }
    expect(named.sort()).toEqual([...wanted].sort());
  });
});
