import type { NodeId } from '@gpuaas/kernel';
import type { Reader, Tx } from '../../../spine/operation.js';
import type { FleetPort, LockedNode, LockedSlice } from '../ports.js';
import { capacityReason, type Gate, OPEN, refuseCapacity } from '../rules/admission.js';
import { type SkuFacts, shapeOf } from '../rules/sku.js';
import type { PlacedAllocation } from '../store/launches.js';
import { countFreeHosts, hasUnclaimedHost } from '../views/capacity.js';
import { refusalOf } from './refusals.js';

export interface PlaceWish {
  readonly sku: SkuFacts;
  /** GPUs of one allocation */
  readonly gpus: number;
  readonly count: number;
  readonly atLeast: number;
  readonly regionCode: string | null;
  readonly nodeId: NodeId | null;
  /** of a guest */
  readonly imageDigest: string | null;
  readonly now: Date;
}

/** Where one allocation will be; an allocation without its ids. */
export type Place = Omit<PlacedAllocation, 'id' | 'operationId'>;

/**
 * Locks places until commit: whole hosts, or slots of hosts that are sold in slices; as many as there are up to
 * `count`. Refuses (409 `sku_unavailable`) where there are fewer than `atLeast`, and says why. VMs are made from the
 * pools of providers, of which the platform knows none.
 */
export async function takePlaces(tx: Tx, fleet: FleetPort, wish: PlaceWish): Promise<readonly Place[]> {
  const places = await lockPlaces(tx, fleet, wish);
  if (places.length < wish.atLeast) {
    throw refusalOf(refuseCapacity(wish.sku.sku, capacityReason(await roomOf(tx, fleet, wish))));
  }
  return places;
}

async function lockPlaces(tx: Tx, fleet: FleetPort, wish: PlaceWish): Promise<readonly Place[]> {
  const { sku, gpus, count, regionCode, nodeId, imageDigest, now } = wish;
  switch (shapeOf(sku.resourceClass)) {
    case 'baremetal': {
      const hosts = await fleet.lockFreeNodes(tx, { sku: sku.sku, regionCode, count, nodeId, now });
      return hosts.map((host) => placeOfHost(host, sku, gpus));
    }
    case 'gpu_slice': {
      const guests = { sku: sku.sku, gpuCount: gpus, regionCode, count, imageDigest, now };
      const slices = await fleet.lockFreeSlots(tx, { ...guests, nodeId });
      return slices.map((slice) => placeOfSlice(slice, sku, gpus));
    }
    case null:
      return [];
  }
}

/** Whether there is room right now; a launch that is made later may find none. */
export async function capacityGate(reader: Reader, fleet: FleetPort, wish: PlaceWish): Promise<Gate> {
  const room = await roomOf(reader, fleet, wish);
  return room.free >= wish.atLeast ? OPEN : refuseCapacity(wish.sku.sku, capacityReason(room));
}

async function roomOf(reader: Reader, fleet: FleetPort, wish: PlaceWish) {
  const { sku, gpus, count, regionCode, imageDigest, now } = wish;
  switch (shapeOf(sku.resourceClass)) {
    case 'baremetal': {
      const free = await countFreeHosts(reader, { sku: sku.sku, regionCode, atMost: count, now });
      const unclaimed = free === 0 && (await hasUnclaimedHost(reader, { sku: sku.sku, regionCode })) ? 1 : 0;
      return { free, unclaimed };
    }
    case 'gpu_slice': {
      const guests = { sku: sku.sku, gpuCount: gpus, regionCode, count, imageDigest, now };
      const room = await fleet.sliceRoom(reader, guests);
      return { free: room.places, unclaimed: room.unclaimedGpus, freeGpus: room.freeGpus, gpusWanted: gpus };
    }
    case null:
      return { free: 0, unclaimed: 0 };
  }
}

function placeOfHost(host: LockedNode, sku: SkuFacts, gpus: number): Place {
  const gpusTotal = sku.acceleratorCount === null ? host.gpusTotal : gpus;
  return {
    nodeId: host.nodeId,
    regionCode: host.regionCode,
    gpusTotal,
    address: { host: host.host, hostname: host.hostname, port: host.port },
    claims: [{ slotId: null, snapshot: { sku: sku.sku, gpus_total: gpusTotal, region_code: host.regionCode } }],
  };
}

/** What the host was told about its slots is kept with the claims: the teardown names the very same. */
function placeOfSlice(slice: LockedSlice, sku: SkuFacts, gpus: number): Place {
  return {
    nodeId: slice.nodeId,
    regionCode: slice.regionCode,
    gpusTotal: gpus,
    address: null,
    claims: slice.slots.map(({ slotId, slot, wipePolicy }) => ({
      slotId,
      snapshot: { sku: sku.sku, region_code: slice.regionCode, slot, wipe_policy: wipePolicy },
    })),
  };
}
