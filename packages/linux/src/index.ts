export { deviceHint, isXenDomain, missingDevices, type XenDevice } from './device.ts';
export { openXenPlatform, type XenPlatformOptions } from './platform.ts';
export { IOV_MAX, IovecTable, readNoWait, readVector, writeVector } from './vectored-io.ts';
export { openXenbusTransport } from './xenbus-transport.ts';
