import { asId, type NodeId, type SlotId } from '@gpuaas/kernel';
import type { SliceSlot } from '@gpuaas/node-protocol';
import { type RawBuilder, sql } from 'kysely';
import type { Reader, Tx } from '../../../spine/operation.js';
import { refuse } from '../../../spine/refusal.js';
import { freshnessOf, freshSince } from '../rules/freshness.js';
import { chooseGuests, type FreeSlot } from '../rules/slot-choice.js';
import { sliceSlotOf, type WipePolicy, wipePolicyOf } from '../rules/slot-declaration.js';
import { findHeartbeat, lockNode } from './nodes.js';
import { jsonObject } from './slots.js';

export interface SliceWish {
  readonly sku: string;
  /** GPUs, and so slots, of one guest */
  readonly gpuCount: number;
  /** guests */
  readonly count: number;
  /** null: any region */
  readonly regionCode: string | null;
  /** this node and no other */
  readonly nodeId: NodeId | null;
  /** what the guests boot from, `sha256:` and hex; null: whatever */
  readonly imageDigest: string | null;
  readonly now: Date;
}

/** The place of one guest: slots of one host. */
export interface FreeSlice {
  readonly nodeId: NodeId;
  readonly regionCode: string;
  readonly slots: readonly LockedSlot[];
}

export interface LockedSlot extends FreeSlot {
  readonly slotId: SlotId;
  /** as the host is told of it */
  readonly slot: SliceSlot;
  readonly wipePolicy: WipePolicy;
}

/** Hosts that are looked at beyond those that would do, since rivals may hold some. */
const SPARE_HOSTS = 16;
/** How often a launch looks again after rivals took all that it had seen free. */
const ROUNDS = 5;

/**
 * Locks places for up to `count` guests until commit, fewer where there are not so many; each has all its slots on one
 * node, or there is none. A named node is locked or refused: node_not_found, node_offline, node_in_use,
 * sku_unavailable.
 *
 * The node's row is the lock. Only after it was granted are the slots read, in a statement of their own: one that
 * locks and reads at once sees the slots as they were before the wait. First hosts that nobody else holds, in the order
 * of fit; only where that does not suffice does it wait for rivals, holding nothing or, for several guests, in the
 * order of ids. A host that turns out not to fit is let go of at once.
 */
export async function lockFreeSlots(tx: Tx, wish: SliceWish): Promise<readonly FreeSlice[]> {
  if (wish.nodeId !== null) return takeOnNamedNode(tx, wish.nodeId, wish);
  if (wish.count < 1) return [];
  await sql`SAVEPOINT free_slices`.execute(tx);
  const found = await takeUnlocked(tx, wish);
  if (found.length === wish.count) {
    await sql`RELEASE SAVEPOINT free_slices`.execute(tx);
    return found;
  }
  await sql`ROLLBACK TO SAVEPOINT free_slices`.execute(tx);
  await sql`RELEASE SAVEPOINT free_slices`.execute(tx);
  return takeWaiting(tx, wish);
}

interface Host {
  readonly id: NodeId;
  readonly regionCode: string;
}

async function takeUnlocked(tx: Tx, wish: SliceWish): Promise<readonly FreeSlice[]> {
  const hosts = await fittingHosts(tx, wish, [], wish.count + SPARE_HOSTS);
  return takeFrom(tx, hosts, wish, wish.count, sql`SKIP LOCKED`);
}

async function takeWaiting(tx: Tx, wish: SliceWish): Promise<readonly FreeSlice[]> {
  const taken: FreeSlice[] = [];
  for (let round = 0; round < ROUNDS && taken.length < wish.count; round += 1) {
    const used = taken.map((place) => place.nodeId);
    const hosts = await fittingHosts(tx, wish, used, wish.count + SPARE_HOSTS);
    if (hosts.length === 0) break;
    const ordered = wish.count === 1 ? hosts : hosts.toSorted((left, right) => (left.id < right.id ? -1 : 1));
    taken.push(...(await takeFrom(tx, ordered, wish, wish.count - taken.length, sql``)));
  }
  return taken;
}

async function takeFrom(
  tx: Tx,
  hosts: readonly Host[],
  wish: SliceWish,
  count: number,
  locking: RawBuilder<unknown>,
): Promise<readonly FreeSlice[]> {
  const taken: FreeSlice[] = [];
  for (const host of hosts) {
    if (taken.length === count) break;
    await sql`SAVEPOINT slice_host`.execute(tx);
    const locked = await lockIfReady(tx, host.id, wish, locking);
    const places = locked ? await placesOn(tx, host, wish, count - taken.length) : [];
    // Also where no row came back: a wait may end with the lock on a row that no longer qualifies.
    if (places.length === 0) await sql`ROLLBACK TO SAVEPOINT slice_host`.execute(tx);
    await sql`RELEASE SAVEPOINT slice_host`.execute(tx);
    taken.push(...places);
  }
  return taken;
}

type Demand = Pick<SliceWish, 'imageDigest' | 'now'>;

/** What makes a node a host of such guests right now, as conditions on `n`. */
function readiness(wish: Demand): RawBuilder<unknown> {
  return sql`n.status = 'active' AND n.slice_mode AND n.removed_at IS NULL
    AND (SELECT h.last_seen_at FROM node_heartbeats h WHERE h.node_id = n.id) >= ${freshSince(wish.now)}
    AND EXISTS (SELECT FROM node_facts f WHERE f.node_id = n.id AND f.carries_slices AND ${bootable(wish)})`;
}

/** A host that keeps a store of images starts guests from nothing else; `f` are the facts of the node. */
function bootable({ imageDigest }: Demand): RawBuilder<unknown> {
  return imageDigest === null
    ? sql`true`
    : sql`(NOT f.keeps_images
        OR EXISTS (SELECT FROM node_image_cache i WHERE i.node_id = f.node_id AND i.digest = ${imageDigest}))`;
}

async function lockIfReady(tx: Tx, nodeId: NodeId, wish: Demand, locking: RawBuilder<unknown>): Promise<boolean> {
  // Not FOR UPDATE: whoever queues a task for the node or notes a claim on it only points to its row.
  const found = await sql`
    SELECT n.id FROM nodes n WHERE n.id = ${nodeId} AND ${readiness(wish)} FOR NO KEY UPDATE OF n ${locking}`.execute(
    tx,
  );
  return found.rows.length === 1;
}

/**
 * Hosts on which a guest would fit as far as can be seen without a lock, best first: on one NUMA node, among other
 * guests, so that empty hosts stay whole, and where it leaves the least behind.
 */
async function fittingHosts(
  tx: Tx,
  wish: SliceWish,
  except: readonly NodeId[],
  limit: number,
): Promise<readonly Host[]> {
  const region = wish.regionCode === null ? sql`` : sql`AND n.region_code = ${wish.regionCode}`;
  const result = await sql<{ id: string; region_code: string }>`
    WITH domain AS (
      SELECT s.node_id, s.topology_group, count(*) AS free FROM gpuaas_node_resource_slots s
      WHERE s.schedulable AND s.sku = ${wish.sku} AND s.node_id <> ALL (${except}::uuid[])
      GROUP BY s.node_id, s.topology_group, s.numa_node
    ), place AS (
      SELECT node_id, topology_group, sum(free) AS free, min(free) FILTER (WHERE free >= ${wish.gpuCount}) AS closest
      FROM domain GROUP BY node_id, topology_group HAVING sum(free) >= ${wish.gpuCount}
    ), host AS (
      SELECT node_id, min(closest) AS closest, min(free) AS free FROM place GROUP BY node_id
    )
    SELECT n.id, n.region_code FROM host JOIN nodes n ON n.id = host.node_id
    WHERE ${readiness(wish)} ${region}
    ORDER BY host.closest IS NULL, n.open_claims = 0, coalesce(host.closest, host.free), host.free, n.placement_key
    LIMIT ${limit}`.execute(tx);
  return result.rows.map((row) => ({ id: asId(row.id), regionCode: row.region_code }));
}

/** Places on a node that the caller has locked. */
async function placesOn(tx: Tx, host: Host, wish: SliceWish, count: number): Promise<readonly FreeSlice[]> {
  const free = await lockSchedulable(tx, host.id, wish.sku);
  return chooseGuests(free, wish.gpuCount, count).map((slots) => ({
    nodeId: host.id,
    regionCode: host.regionCode,
    slots: slots.toSorted((left, right) => left.slotIndex - right.slotIndex),
  }));
}

async function lockSchedulable(tx: Tx, nodeId: NodeId, sku: string): Promise<readonly LockedSlot[]> {
  const rows = await tx
    .selectFrom('gpuaas_node_resource_slots')
    .select([
      'id',
      'slot_index',
      'topology_group',
      'numa_node',
      'gpu_uuid',
      'pci_address',
      'nvme_device',
      'nvme_wwn',
      'fabric_vf_pci_address',
      'mac_address',
      'private_ip',
      'capacity_metadata',
    ])
    .where('node_id', '=', nodeId)
    .where('sku', '=', sku)
    .where('schedulable', '=', true)
    .orderBy('id')
    .forUpdate()
    .execute();
  return rows.flatMap((row) => {
    const wipePolicy = wipePolicyOf(jsonObject(row.capacity_metadata));
    if (wipePolicy === null) return [];
    const slotIndex = row.slot_index;
    return [
      {
        slotId: asId<'slot'>(row.id),
        slotIndex,
        topologyGroup: row.topology_group,
        numaNode: row.numa_node,
        wipePolicy,
        slot: sliceSlotOf({
          slotIndex,
          gpuUuid: row.gpu_uuid,
          pciAddress: row.pci_address,
          nvmeDevice: row.nvme_device,
          nvmeWwn: row.nvme_wwn,
          fabricVfPciAddress: row.fabric_vf_pci_address,
          macAddress: row.mac_address,
          privateIp: row.private_ip,
        }),
      },
    ];
  });
}

async function takeOnNamedNode(tx: Tx, nodeId: NodeId, wish: SliceWish): Promise<readonly FreeSlice[]> {
  const node = await lockNode(tx, nodeId);
  const current = { current_status: node.status };
  if (node.status !== 'active') throw refuse('node_offline', { reason: `node_is_${node.status}`, ...current });
  if (freshnessOf(await findHeartbeat(tx, nodeId), wish.now) !== 'fresh') {
    throw refuse('node_offline', { reason: 'heartbeat_stale', ...current });
  }
  if (!node.sliceMode) {
    throw node.openClaims > 0
      ? refuse('node_in_use', { reason: 'node_has_claims', ...current })
      : refuse('sku_unavailable', { reason: 'node_is_not_sold_in_slices', ...current });
  }
  if (wish.regionCode !== null && node.regionCode !== wish.regionCode) {
    throw refuse('sku_unavailable', { reason: 'node_does_not_match', ...current });
  }
  const facts = await sql`
    SELECT FROM node_facts f WHERE f.node_id = ${nodeId} AND f.carries_slices AND ${bootable(wish)}`.execute(tx);
  if (facts.rows.length === 0) throw refuse('sku_unavailable', { reason: 'readiness_blocked', ...current });
  const places = await placesOn(tx, { id: node.id, regionCode: node.regionCode }, wish, wish.count);
  if (places.length === 0) {
    throw node.openClaims > 0
      ? refuse('node_in_use', { reason: 'node_slots_taken', ...current })
      : refuse('sku_unavailable', { reason: 'no_single_node_fit', ...current });
  }
  return places;
}

export interface SliceRoom {
  /** guests that would fit right now, counted up to what was asked for */
  readonly places: number;
  /** free GPUs over all hosts */
  readonly freeGpus: number;
  /** GPUs that nobody claims, whether or not their hosts are ready */
  readonly unclaimedGpus: number;
}

/** What a launch would find, without taking anything; a rival may be faster. */
export async function sliceRoom(reader: Reader, wish: Omit<SliceWish, 'nodeId'>): Promise<SliceRoom> {
  const region = wish.regionCode === null ? sql`` : sql`AND n.region_code = ${wish.regionCode}`;
  const result = await sql<{ places: bigint; free: bigint; unclaimed: bigint }>`
    WITH place AS (
      SELECT count(*) FILTER (WHERE s.schedulable AND ${readiness(wish)}) AS free, count(*) AS unclaimed
      FROM gpuaas_node_resource_slots s JOIN nodes n ON n.id = s.node_id
      WHERE s.sku = ${wish.sku} AND s.status = 'available' AND n.removed_at IS NULL ${region}
      GROUP BY s.node_id, s.topology_group
    )
    SELECT coalesce(sum(free / ${wish.gpuCount}::integer), 0)::bigint AS places,
      coalesce(sum(free), 0)::bigint AS free, coalesce(sum(unclaimed), 0)::bigint AS unclaimed
    FROM place`.execute(reader);
  const [row] = result.rows;
  return {
    places: Math.min(Number(row?.places ?? 0n), wish.count),
    freeGpus: Number(row?.free ?? 0n),
    unclaimedGpus: Number(row?.unclaimed ?? 0n),
  };
}
