import { createLogger } from '@gpuaas/kernel';
import type { ManagedKey } from '@gpuaas/node-protocol';
import type { NodeAgentConfig } from '../agent/config.js';
import { createNodeAgent, type NodeAgent, type NodeAgentDependencies } from '../agent/node-agent.js';
import type { Timer } from '../agent/timing.js';
import { createSimulatedHost } from '../host/simulated/simulated-host.js';
import { createMemoryStore } from '../store/memory-store.js';
import { type FakeControlPlane, NODE_ID } from './fake-control-plane.js';

export const silentLog = createLogger({ program: 'test', level: 'silent' });

export const ALLOCATION_ID = '0197a1b2-0000-7000-8000-0000000000a1';

export const KEYS: ManagedKey[] = [
  {
    managed_key_id: 'key-1',
    public_key: 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3hG1OsFPuvLOtfSYFVbn5oHsGIPNB6c4QHLXmRzzmM ada@laptop',
  },
  {
    managed_key_id: 'key-2',
    public_key: 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC1kbm90LWEtcmVhbC1rZXktYnV0LXNoYXBlZC0xMjM0 grace',
  },
];

export function configFor(controlPlane: FakeControlPlane, changes: Partial<NodeAgentConfig> = {}): NodeAgentConfig {
  return {
    nodeId: NODE_ID,
    apiUrl: controlPlane.url,
    enrollmentToken: 'token-1',
    caPem: controlPlane.api.certificatePem,
    nodeCaPem: null,
    signingKeys: controlPlane.signingKeys,
    sshEndpoint: { host: 'node.example', port: 22 },
    build: { version: '1.2.3', commit: 'abc', builtAt: '2026-01-01T00:00:00Z' },
    shutdownGraceMilliseconds: 5000,
    ...changes,
  };
}

export function agentFor(
  controlPlane: FakeControlPlane,
  changes: { config?: Partial<NodeAgentConfig> } & Partial<NodeAgentDependencies> = {},
): NodeAgent {
  const { config, ...dependencies } = changes;
  const store = dependencies.store ?? createMemoryStore();
  const host = dependencies.host ?? createSimulatedHost({ nodeId: NODE_ID, store });
  return createNodeAgent(configFor(controlPlane, config), { log: silentLog, ...dependencies, store, host });
}

/** Does not wait, but tells how long it was asked to. */
export function recordingTimer(): Timer & { waits: number[] } {
  const waits: number[] = [];
  return {
    waits,
    sleep: (milliseconds) => {
      waits.push(milliseconds);
      return new Promise((resolve) => setImmediate(resolve));
    },
  };
}

/** A promise and the way to settle it. */
export function deferred(): { promise: Promise<void>; resolve: () => void } {
  let resolve: () => void = () => undefined;
  const promise = new Promise<void>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}

export const provisionParams = (changes: Record<string, unknown> = {}) => ({
  allocation_id: ALLOCATION_ID,
  username: 'ada',
  uid: 20_001,
  authorized_keys: KEYS,
  key_set_version: 1,
  ...changes,
});
