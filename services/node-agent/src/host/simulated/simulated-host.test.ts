import { randomUUID } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { createMemoryStore } from '../../store/memory-store.js';
import { recordingTimer } from '../../testing/fixtures.js';
import { describeHostDriver } from '../host-driver.suite.js';
import { createSimulatedHost, H200_SHAPE } from './simulated-host.js';

describeHostDriver('simulated', async () => {
  const store = createMemoryStore();
  let next = 20_000;
  return {
    host: createSimulatedHost({ nodeId: 'node-1', store }),
    newUser: () => {
      next += 1;
      return { allocationId: randomUUID(), username: `user${next}`, uid: next };
    },
    restart: async () => createSimulatedHost({ nodeId: 'node-1', store }),
    // The record in the state store is the machine.
    authorizedKeys: async (user) => {
      const document: { users: Array<{ allocation_id: string; key_set: unknown }> } = JSON.parse(
        (await store.read('host-users.json')) ?? '{"users":[]}',
      );
      const entry = document.users.find((candidate) => candidate.allocation_id === user.allocationId);
      return entry === undefined ? null : JSON.stringify(entry.key_set);
    },
    cleanUp: async () => undefined,
  };
});

describe('a simulated host', () => {
  it('has eight H200 with addresses and ids that follow from the node id', async () => {
    const [one, same, other] = await Promise.all(
      ['node-1', 'node-1', 'node-2'].map((nodeId) =>
        createSimulatedHost({ nodeId, store: createMemoryStore() }).topology(),
      ),
    );
    expect(one?.gpus).toHaveLength(8);
    expect(one?.gpus?.[0]).toMatchObject({
      pci_address: '0000:0b:00.0',
      model: 'NVIDIA H200',
      memory_mib: 143_771,
      numa_node: 0,
    });
    expect(same?.gpus).toEqual(one?.gpus);
    expect(new Set([...(one?.gpus ?? []), ...(other?.gpus ?? [])].map((gpu) => gpu.gpu_uuid)).size).toBe(16);
    expect(one?.blockers).toEqual([]);
    expect(one?.candidate_slots).toHaveLength(8);
    expect(one?.candidate_slots[7]).toMatchObject({
      numa_node: 1,
      nvme_device: '/dev/nvme7n1',
      fabric_kind: 'ib',
      capacity_metadata: { fabric_vf_pci_address: '0000:7c:00.1' },
    });
  });

  it('has another boot id after a restart and the same after a restart of the agent', async () => {
    const store = createMemoryStore();
    const host = createSimulatedHost({ nodeId: 'node-1', store });
    const before = await host.bootId();
    expect(await createSimulatedHost({ nodeId: 'node-1', store }).bootId()).toBe(before);
    await host.reboot();
    expect(await host.bootId()).not.toBe(before);
  });

  it('fails and delays as many tasks as it was told to, over restarts', async () => {
    const store = createMemoryStore();
    const timer = recordingTimer();
    const faults = [
      { id: 'a', task: 'allocation.restart', times: 2, fail: 'no power' },
      { id: 'b', task: '*', delayMilliseconds: 70 },
    ] as const;
    const { signal } = new AbortController();
    const strike = (type: 'allocation.restart' | 'diag.health_probe') =>
      createSimulatedHost({ nodeId: 'n', store, faults, timer }).beforeTask?.(type, signal);
    await expect(strike('allocation.restart')).rejects.toMatchObject({ code: 'injected_fault', message: 'no power' });
    await strike('diag.health_probe');
    await expect(strike('allocation.restart')).rejects.toMatchObject({ code: 'injected_fault' });
    await strike('allocation.restart');
    expect(timer.waits).toEqual([70, 70]);
  });

  it('reads faults from a control file before each task', async () => {
    const store = createMemoryStore();
    let text: string | null = null;
    const host = createSimulatedHost({ nodeId: 'n', store, shape: H200_SHAPE, readFaultFile: async () => text });
    const { signal } = new AbortController();
    await host.beforeTask?.('node.drain', signal);
    text = JSON.stringify({ faults: [{ id: 'x', task: 'node.drain', times: 1, fail: 'stuck' }] });
    await expect(host.beforeTask?.('node.drain', signal)).rejects.toMatchObject({ message: 'stuck' });
    await host.beforeTask?.('node.drain', signal);
  });
});
