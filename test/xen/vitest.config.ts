import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    root: import.meta.dirname,
    include: ['**/*.test.ts'],
    exclude: ['**/node_modules/**', '**/dist/**'],
    // One boot serves all files: they run one after the other in one process that keeps its modules.
    pool: 'forks',
    maxWorkers: 1,
    isolate: false,
    fileParallelism: false,
    // Every wait inside the lab is shorter and says more when it ends.
    testTimeout: 300_000,
    hookTimeout: 400_000,
    reporters: ['verbose'],
  },
});
