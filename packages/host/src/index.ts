export * from './config.ts';
export * from './instance.ts';
export * from './log.ts';
export * from './log-level.ts';
