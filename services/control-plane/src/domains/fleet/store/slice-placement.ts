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

interface Candidate extends Host {
  readonly vacant: boolean;
  /** free slots of the SKU */
  readonly free: number;
  /** guests that would fit */
  readonly guests: number;
  /** free slots of the tightest NUMA node that has enough for a guest; null where none has */
  readonly closest: number | null;
}

/** Rows of the table of room that are looked at together, first and at most. */
const FIRST_PAGE = 64;
const LAST_PAGE = 4096;

/**
 * Hosts on which a guest would fit as far as can be seen without a lock, best first: on one NUMA node, among other
 * guests, so that empty hosts stay whole, and where it leaves the least behind. At least `limit` where there are so
 * many. Reads the table of room in its order, page by page, until it has seen enough.
 */
async function fittingHosts(
  reader: Reader,
  wish: Omit<SliceWish, 'nodeId'>,
  except: readonly NodeId[],
  limit: number,
): Promise<readonly Candidate[]> {
  const found: Candidate[] = [];
  let last: RoomRow | undefined;
  for (let size = FIRST_PAGE; found.length < limit; size = Math.min(size * 8, LAST_PAGE)) {
    const page = await roomPage(reader, wish, last, size);
    for (const row of page) {
      const nodeId = asId<'node'>(row.node_id);
      if (!row.ready || row.guests < 1n || except.includes(nodeId)) continue;
      found.push({
        id: nodeId,
        regionCode: row.region_code,
        vacant: row.vacant,
        free: row.free,
        guests: Number(row.guests),
        closest: row.closest === null ? null : Number(row.closest),
      });
    }
    if (page.length < size) break;
    last = page.at(-1);
  }
  return found.sort(
    (left, right) =>
      Number(left.closest === null) - Number(right.closest === null) ||
      Number(left.vacant) - Number(right.vacant) ||
      (left.closest ?? left.free) - (right.closest ?? right.free) ||
      left.free - right.free ||
      (left.id < right.id ? -1 : 1),
  );
}

interface RoomRow {
  readonly node_id: string;
  readonly region_code: string;
  readonly vacant: boolean;
  readonly free: number;
  readonly ready: boolean;
  readonly guests: bigint;
  readonly closest: bigint | null;
}

/** The page is cut before its hosts are looked at: what is asked of each of them stays a matter of the page. */
async function roomPage(
  reader: Reader,
  wish: Omit<SliceWish, 'nodeId'>,
  after: RoomRow | undefined,
  size: number,
): Promise<readonly RoomRow[]> {
  const beyond =
    after === undefined
      ? sql`true`
      : sql`(r.vacant, r.free, r.node_id) > (${after.vacant}, ${after.free}, ${after.node_id}::uuid)`;
  const result = await sql<RoomRow>`
    WITH page AS MATERIALIZED (
      SELECT r.node_id, r.vacant, r.free FROM node_slice_room r
      WHERE r.sku = ${wish.sku} AND r.free > 0 AND r.free >= ${wish.gpuCount} AND ${beyond}
      ORDER BY r.vacant, r.free, r.node_id LIMIT ${size}
    )
    SELECT page.node_id, page.vacant, page.free, n.region_code, (${inRegion(wish)} AND ${readiness(wish)}) AS ready,
      fit.guests, fit.closest
    FROM page JOIN nodes n ON n.id = page.node_id
    CROSS JOIN LATERAL (
      SELECT coalesce(sum(part.free / ${wish.gpuCount}::integer), 0)::bigint AS guests, min(part.closest) AS closest
      FROM (SELECT sum(domain.free)::bigint AS free,
          min(domain.free) FILTER (WHERE domain.free >= ${wish.gpuCount}) AS closest
        FROM (SELECT s.topology_group, count(*) AS free FROM gpuaas_node_resource_slots s
          WHERE s.node_id = page.node_id AND s.sku = ${wish.sku} AND s.schedulable
          GROUP BY s.topology_group, s.numa_node) AS domain
        GROUP BY domain.topology_group) AS part
    ) AS fit
    ORDER BY page.vacant, page.free, page.node_id`.execute(reader);
  return result.rows;
}

function inRegion({ regionCode }: Pick<SliceWish, 'regionCode'>): RawBuilder<unknown> {
  return regionCode === null ? sql`true` : sql`n.region_code = ${regionCode}`;
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
  /** free GPUs over all hosts, counted up to what one guest needs */
  readonly freeGpus: number;
  /** GPUs that nobody claims, whether or not their hosts are ready, counted up to what one guest needs */
  readonly unclaimedGpus: number;
}

/** What a launch would find, without taking anything; a rival may be faster. */
export async function sliceRoom(reader: Reader, wish: Omit<SliceWish, 'nodeId'>): Promise<SliceRoom> {
  const { sku, gpuCount, count } = wish;
  const hosts = await fittingHosts(reader, wish, [], count);
  const places = hosts.reduce((sum, host) => sum + host.guests, 0);
  // Each host that is looked at has at least one GPU free, so as many hosts as a guest has GPUs are enough.
  const result = await sql<{ free: bigint; unclaimed: bigint }>`
    SELECT
      (SELECT coalesce(sum(free), 0)::bigint FROM (
        SELECT r.free FROM node_slice_room r JOIN nodes n ON n.id = r.node_id
        WHERE r.sku = ${sku} AND r.free > 0 AND ${inRegion(wish)} AND ${readiness(wish)} LIMIT ${gpuCount}) AS host
      ) AS free,
      (SELECT count(*) FROM (
        SELECT s.id FROM gpuaas_node_resource_slots s JOIN nodes n ON n.id = s.node_id
        WHERE s.sku = ${sku} AND s.status = 'available' AND n.removed_at IS NULL AND ${inRegion(wish)}
        LIMIT ${gpuCount}) AS slot
      ) AS unclaimed`.execute(reader);
  const [row] = result.rows;
  return {
    places: Math.min(places, count),
    freeGpus: Math.min(Number(row?.free ?? 0n), gpuCount),
    unclaimedGpus: Number(row?.unclaimed ?? 0n),
  };
}
