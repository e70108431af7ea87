export * from './errors.ts';
export * from './grant-copy.ts';
export * from './identity.ts';
export * from './paged-memory.ts';
export * from './platform.ts';
export * from './request-ring.ts';
export * from './runtime.ts';
export * from './transport.ts';
