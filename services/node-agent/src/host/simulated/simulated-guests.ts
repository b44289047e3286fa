import { randomUUID } from 'node:crypto';
import { managedKey, type SliceSlot } from '@gpuaas/node-protocol';
import { z } from 'zod';
import type { StateStore } from '../../store/state-store.js';
import {
  type GuestOrder,
  type GuestState,
  HostError,
  type InstalledKeySet,
  type KeySet,
  type RuntimeUser,
  type WipePolicy,
} from '../host-port.js';
import { decideKeySet, describeKeySet } from '../user-registry.js';

const NAME = 'simulated-guests.json';
/** The most allocations whose teardown is remembered; the oldest are forgotten first. */
const MAX_RELEASED = 10_000;

const guestDocument = z.object({
  allocation_id: z.string(),
  username: z.string(),
  uid: z.int(),
  vm_name: z.string(),
  private_ip: z.string(),
  boot_id: z.string(),
  image_digest: z.string(),
  vcpu_count: z.int(),
  memory_mib: z.int(),
  devices: z.array(z.string()),
  disks: z.array(z.string()),
  key_set: z.object({ version: z.int(), keys: z.array(managedKey) }),
});
type Guest = z.infer<typeof guestDocument>;

const guestsDocument = z.object({
  guests: z.array(guestDocument),
  released: z.array(z.string()),
  /** Whose data is on each disk that was not wiped since. */
  data: z.record(z.string(), z.string()),
  wipes: z.array(z.object({ allocation_id: z.string(), disk: z.string(), policy: z.string() })),
});
type GuestsDocument = z.infer<typeof guestsDocument>;

/** The guests of a simulated host: a record of what is defined, which devices it holds and what is on which disk. */
export class SimulatedGuests {
  readonly #store: StateStore;
  #document: GuestsDocument | null = null;

  constructor(store: StateStore) {
    this.#store = store;
  }

  async ensure(order: GuestOrder): Promise<GuestState> {
    const document = await this.#load();
    if (document.released.includes(order.allocationId)) {
      throw new HostError('allocation_released', 'this allocation was already torn down on this host');
    }
    const devices = order.slots.flatMap(devicesOf);
    const disks = order.slots.flatMap((slot) => diskOf(slot) ?? []);
    const known = document.guests.find((guest) => guest.allocation_id === order.allocationId);
    if (known !== undefined) {
      if (known.devices.join() !== devices.join()) {
        throw new HostError('lease_conflict', `${known.vm_name} was started with other devices`);
      }
      return stateOf(known);
    }
    for (const other of document.guests) {
      const held = other.devices.find((device) => devices.includes(device));
      if (held !== undefined) throw new HostError('lease_conflict', `${held} is in ${other.vm_name}`);
    }
    const used = disks.find((disk) => document.data[disk] !== undefined);
    if (used !== undefined) throw new HostError('lease_conflict', `${used} holds the data of another guest`);

    const [first] = order.slots;
    const guest: Guest = {
      allocation_id: order.allocationId,
      username: order.username,
      uid: order.uid,
      vm_name: vmName(order.allocationId),
      private_ip: first?.private_ip ?? `10.77.0.${10 + ((first?.slot_index ?? 0) % 240)}`,
      boot_id: randomUUID(),
      image_digest: order.image.digest,
      vcpu_count: order.vcpuCount,
      memory_mib: order.memoryMib,
      devices,
      disks,
      key_set: { version: order.keySet.version, keys: [...order.keySet.keys] },
    };
    const data = { ...document.data, ...Object.fromEntries(disks.map((disk) => [disk, order.allocationId])) };
    await this.#save({ ...document, data, guests: [...document.guests, guest] });
    return stateOf(guest);
  }

  async ensureAbsent(
    allocationId: string,
    slots: readonly SliceSlot[],
    policy: WipePolicy,
  ): Promise<{ wiped: string[]; leftovers: string[] }> {
    const document = await this.#load();
    const own = document.guests.find((guest) => guest.allocation_id === allocationId);
    const guests = document.guests.filter((guest) => guest !== own);
    const disks = [...new Set([...(own?.disks ?? []), ...slots.flatMap((slot) => diskOf(slot) ?? [])])];
    const devices = [...new Set([...(own?.devices ?? []), ...slots.flatMap(devicesOf)])];
    const heldBy = (device: string) => guests.find((guest) => guest.devices.includes(device));
    const leftovers = devices.flatMap((device) => {
      const holder = heldBy(device);
      return holder === undefined ? [] : [`${device} is in ${holder.vm_name}`];
    });
    const wiped = disks.filter((disk) => heldBy(disk) === undefined);
    await this.#save({
      guests,
      released: [...document.released.filter((id) => id !== allocationId), allocationId].slice(-MAX_RELEASED),
      data: Object.fromEntries(Object.entries(document.data).filter(([disk]) => !wiped.includes(disk))),
      wipes: [...document.wipes, ...wiped.map((disk) => ({ allocation_id: allocationId, disk, policy }))].slice(-1000),
    });
    return { wiped, leftovers };
  }

  async state(allocationId: string): Promise<GuestState | null> {
    const guest = await this.find(allocationId);
    return guest === undefined ? null : stateOf(guest);
  }

  async find(allocationId: string): Promise<Guest | undefined> {
    return (await this.#load()).guests.find((guest) => guest.allocation_id === allocationId);
  }

  async reboot(allocationId: string): Promise<void> {
    await this.#change(allocationId, (guest) => ({ ...guest, boot_id: randomUUID() }));
  }

  async setKeys(user: RuntimeUser, wanted: KeySet): Promise<InstalledKeySet> {
    const { key_set: installed } = await this.#change(user.allocationId, (guest) => {
      if (guest.username !== user.username || guest.uid !== user.uid) {
        throw new HostError('allocation_not_provisioned', `no account ${user.username} is in this guest`);
      }
      const keySet = decideKeySet(guest.key_set, wanted);
      return { ...guest, key_set: { version: keySet.version, keys: [...keySet.keys] } };
    });
    return describeKeySet(installed);
  }

  async users(): Promise<RuntimeUser[]> {
    return (await this.#load()).guests.map((guest) => ({
      allocationId: guest.allocation_id,
      username: guest.username,
      uid: guest.uid,
    }));
  }

  async #change(allocationId: string, change: (guest: Guest) => Guest): Promise<Guest> {
    const document = await this.#load();
    const guest = document.guests.find((candidate) => candidate.allocation_id === allocationId);
    if (guest === undefined) throw new HostError('guest_absent', 'there is no such guest on this host');
    const changed = change(guest);
    await this.#save({
      ...document,
      guests: document.guests.map((candidate) => (candidate === guest ? changed : candidate)),
    });
    return changed;
  }

  async #load(): Promise<GuestsDocument> {
    if (this.#document === null) {
      const text = await this.#store.read(NAME);
      this.#document =
        text === null ? { guests: [], released: [], data: {}, wipes: [] } : guestsDocument.parse(JSON.parse(text));
    }
    return this.#document;
  }

  async #save(document: GuestsDocument): Promise<void> {
    await this.#store.write(NAME, JSON.stringify(document));
    this.#document = document;
  }
}

function stateOf(guest: Guest): GuestState {
  return {
    vmName: guest.vm_name,
    privateIp: guest.private_ip,
    domainState: 'running',
    sshReachable: true,
    bootId: guest.boot_id,
  };
}

const vmName = (allocationId: string) => `slice-${allocationId}`;

/** A disk by the name that follows it through a restart of the host, where it has one. */
function diskOf(slot: SliceSlot): string | null {
  return slot.nvme_wwn ?? slot.nvme_device ?? null;
}

/** Everything of the host that a guest holds and nobody else may hold meanwhile. */
function devicesOf(slot: SliceSlot): string[] {
  return [slot.gpu_pci_address, slot.fabric_vf_pci_address, diskOf(slot), slot.mac_address, slot.private_ip].flatMap(
    (device) => device ?? [],
  );
}
