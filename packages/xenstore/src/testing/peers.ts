import { existsSync } from 'node:fs';

/**
 * For `describe.skipIf`: whether a program of Debian's that a test runs against is not installed here. What is skipped so
 * says what to install; in CI nothing is, and the test then fails.
 */
export function without(aptPackage: string, path: string): boolean {
  if (existsSync(path) || process.env.CI !== undefined) return false;
  console.warn(`tests skipped: ${path} is missing (apt-get install ${aptPackage})`);
  return true;
}
