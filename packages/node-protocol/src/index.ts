export * from './constants.js';
export * from './envelope.js';
export * from './messages.js';
export * from './parse.js';
export * from './rules.js';
export type { ManagedKey } from './shapes.js';
export { managedKey, mountPath, pinnedImage, runtimeUid, runtimeUsername, sshPublicKey } from './shapes.js';
export * from './signing-keys.js';
export * from './task-types.js';
