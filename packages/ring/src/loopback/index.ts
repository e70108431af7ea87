export { AlignedArena } from './aligned-memory.ts';
export * from './hypervisor.ts';
export { DEFAULT_LIMITS, type LoopbackLimits } from './layout.ts';
export { LoopbackPlatform } from './loopback-platform.ts';
