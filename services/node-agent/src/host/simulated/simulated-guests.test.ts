import { randomUUID } from 'node:crypto';
import type { SliceSlot } from '@gpuaas/node-protocol';
import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { createMemoryStore } from '../../store/memory-store.js';
import type { StateStore } from '../../store/state-store.js';
import { KEYS } from '../../testing/fixtures.js';
import { type GuestDriver, type GuestOrder, HostError, type HostPort } from '../host-port.js';
import { createSimulatedHost } from './simulated-host.js';

const slot = (index: number): SliceSlot => ({
  slot_index: index,
  gpu_pci_address: `0000:${(0x0b + index * 16).toString(16).padStart(2, '0')}:00.0`,
  nvme_device: `/dev/nvme${index}n1`,
  nvme_wwn: `eui.${index}`,
  fabric_vf_pci_address: `0000:${(0x0c + index * 16).toString(16).padStart(2, '0')}:00.1`,
});
const order = (slots: readonly number[], allocationId: string = randomUUID()): GuestOrder => ({
  allocationId,
  username: 'ada',
  uid: 20_001,
  slots: slots.map(slot),
  image: { ref: 'oci://images.test/base', digest: `sha256:${'a'.repeat(64)}` },
  vcpuCount: 24,
  memoryMib: 65_536,
  keySet: { version: 1, keys: KEYS },
});
const codeOf = (work: Promise<unknown>) =>
  work.then(
    () => 'no error',
    (error: unknown) => (error instanceof HostError ? error.code : error),
  );

let store: StateStore;
let host: HostPort;
const guestsOf = (of: HostPort): GuestDriver => {
  if (of.guests === undefined) throw new Error('a simulated host runs guests');
  return of.guests;
};
beforeEach(() => {
  store = createMemoryStore();
  host = createSimulatedHost({ nodeId: 'node-1', store });
});

describe('a guest of a simulated host', () => {
  it('is started once, however often it is asked for, and is there after a restart of the agent', async () => {
    const wanted = order([0, 1]);
    const first = await guestsOf(host).ensureGuest(wanted);
    expect(first).toMatchObject({ domainState: 'running', sshReachable: true });
    expect(await guestsOf(host).ensureGuest(wanted)).toEqual(first);
    const restarted = createSimulatedHost({ nodeId: 'node-1', store });
    expect(await guestsOf(restarted).guest(wanted.allocationId)).toEqual(first);
    expect(await restarted.runtimeUsers()).toEqual([
      { allocationId: wanted.allocationId, username: 'ada', uid: 20_001 },
    ]);
  });

  it('gets no device that another guest has', async () => {
    await guestsOf(host).ensureGuest(order([0, 1]));
    expect(await codeOf(guestsOf(host).ensureGuest(order([1, 2])))).toBe('lease_conflict');
    expect(await codeOf(guestsOf(host).ensureGuest(order([2, 3])))).toBe('no error');
  });

  it('is gone with its devices given back and its disks wiped, and nothing revives it', async () => {
    const wanted = order([4]);
    await guestsOf(host).ensureGuest(wanted);
    const gone = { wiped: ['eui.4'], leftovers: [] };
    expect(await guestsOf(host).ensureGuestAbsent(wanted.allocationId, wanted.slots, 'blkdiscard')).toEqual(gone);
    expect(await guestsOf(host).ensureGuestAbsent(wanted.allocationId, wanted.slots, 'blkdiscard')).toEqual(gone);
    expect(await guestsOf(host).guest(wanted.allocationId)).toBeNull();
    expect(await codeOf(guestsOf(host).ensureGuest(wanted))).toBe('allocation_released');
    expect(await codeOf(guestsOf(host).ensureGuest(order([4])))).toBe('no error');
  });

  it('is never taken away with the devices of another, and no disk in use is wiped', async () => {
    const [mine, other] = [order([0]), order([1])];
    await guestsOf(host).ensureGuest(mine);
    await guestsOf(host).ensureGuest(other);
    const both = await guestsOf(host).ensureGuestAbsent(mine.allocationId, [slot(0), slot(1)], 'blkdiscard');
    expect(both.wiped).toEqual(['eui.0']);
    expect(both.leftovers).toHaveLength(3);
    expect(await guestsOf(host).guest(other.allocationId)).not.toBeNull();
  });

  it('lets in the keys of the newest set', async () => {
    const wanted = order([0]);
    const user = { allocationId: wanted.allocationId, username: wanted.username, uid: wanted.uid };
    await guestsOf(host).ensureGuest(wanted);
    expect(await host.ensureAuthorizedKeys(user, { version: 3, keys: [] })).toMatchObject({ version: 3, count: 0 });
    expect(await host.ensureAuthorizedKeys(user, { version: 2, keys: KEYS })).toMatchObject({ version: 3, count: 0 });
    expect(await codeOf(host.ensureAuthorizedKeys({ ...user, uid: 20_002 }, { version: 4, keys: [] }))).toBe(
      'allocation_not_provisioned',
    );
  });

  it('restarts by itself, and holds its host', async () => {
    const wanted = order([0]);
    const before = await guestsOf(host).ensureGuest(wanted);
    const boot = await host.bootId();
    await guestsOf(host).rebootGuest(wanted.allocationId);
    expect((await guestsOf(host).guest(wanted.allocationId))?.bootId).not.toBe(before.bootId);
    expect(await host.bootId()).toBe(boot);
    const user = { allocationId: wanted.allocationId, username: 'ada', uid: 20_001 };
    expect(await host.ensureUserAbsent(user)).toEqual([`guest:slice-${wanted.allocationId}`]);
    expect(await codeOf(guestsOf(host).rebootGuest(randomUUID()))).toBe('guest_absent');
  });

  it('fails with the code that was asked for', async () => {
    const faulty = createSimulatedHost({
      nodeId: 'n',
      store: createMemoryStore(),
      faults: [{ id: 'v', task: 'slice.vm_provision', code: 'vfio', fail: 'the device is in use' }],
    });
    const { signal } = new AbortController();
    expect(await codeOf(faulty.beforeTask?.('slice.vm_provision', signal) ?? Promise.resolve())).toBe('vfio');
  });

  it('boots from what its host keeps, where the host keeps images at all', async () => {
    const wanted = order([0]);
    const keeps = (digest: string) =>
      createSimulatedHost({
        nodeId: 'n',
        store: createMemoryStore(),
        images: [{ ref: 'oci://images.test/x', digest }],
      });
    expect(await codeOf(guestsOf(keeps(`sha256:${'b'.repeat(64)}`)).ensureGuest(wanted))).toBe('image');
    expect(await codeOf(guestsOf(keeps(wanted.image.digest)).ensureGuest(wanted))).toBe('no error');
    expect((await keeps(wanted.image.digest).topology()).images).toMatchObject([{ digest: wanted.image.digest }]);
    expect((await host.topology()).images).toBeNull();
  });

  it('shares nothing with another guest, whatever is asked in whatever order', async () => {
    const step = fc.record({
      starts: fc.boolean(),
      guest: fc.integer({ min: 0, max: 5 }),
      slots: fc.uniqueArray(fc.integer({ min: 0, max: 3 }), { minLength: 1, maxLength: 3 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
        const driver = guestsOf(createSimulatedHost({ nodeId: 'p', store: createMemoryStore() }));
        const running = new Map<string, readonly number[]>();
        const dirty = new Map<number, string>();
        for (const { starts, guest, slots } of steps) {
          const id = `guest-${guest}`;
          if (starts) {
            const code = await codeOf(driver.ensureGuest(order(slots, id)));
            if (code !== 'no error' || running.has(id)) continue;
            for (const index of slots) {
              expect([...running.values()].flat()).not.toContain(index);
              expect(dirty.get(index)).toBeUndefined();
              dirty.set(index, id);
            }
            running.set(id, slots);
          } else {
            const own = running.get(id) ?? [];
            const { wiped, leftovers } = await driver.ensureGuestAbsent(id, own.map(slot), 'nvme_format');
            expect(leftovers).toEqual([]);
            expect(wiped).toEqual(own.map((index) => `eui.${index}`));
            for (const index of own) dirty.delete(index);
            running.delete(id);
          }
        }
      }),
      { numRuns: 50 },
    );
  });
});
