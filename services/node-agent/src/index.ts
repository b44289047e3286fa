export type { BuildInfo } from './agent/build-info.js';
export type { NodeAgentConfig } from './agent/config.js';
export { type AgentExit, AgentExitError, EXIT_CODES } from './agent/exit.js';
export { createNodeAgent, type NodeAgent, type NodeAgentDependencies } from './agent/node-agent.js';
export { systemTimer, type Timer } from './agent/timing.js';
export * from './host/host-port.js';
export { createLinuxHost, type LinuxHostOptions } from './host/linux/linux-host.js';
export {
  createSimulatedHost,
  H200_SHAPE,
  type SimulatedFault,
  type SimulatedHostOptions,
  type SimulatedImage,
  type SimulatedShape,
} from './host/simulated/simulated-host.js';
export { openFileStore, StateDirectoryError } from './store/file-store.js';
export { createMemoryStore } from './store/memory-store.js';
export type { StateStore } from './store/state-store.js';
export { createHttpTransport } from './transport/http-transport.js';
export type { Transport } from './transport/transport.js';
