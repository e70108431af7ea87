export * from './backend.ts';
export * from './backend-queue.ts';
export * from './buffer-pool.ts';
export * from './device.ts';
export * from './frontend.ts';
export * from './frontend-queue.ts';
export * from './keys.ts';
export * from './protocol.ts';
