import { randomInt } from 'node:crypto';
import { asId, type NodeId } from '@gpuaas/kernel';
import { type RawBuilder, sql } from 'kysely';
import type { Tx } from '../../../spine/operation.js';
import { refuse } from '../../../spine/refusal.js';
import { freshnessOf, freshSince } from '../rules/freshness.js';
import { findHeartbeat, lockNode } from './nodes.js';

export interface PlacementWish {
  readonly sku: string;
  /** null: any region */
  readonly regionCode: string | null;
  readonly count: number;
  /** this node and no other */
  readonly nodeId: NodeId | null;
  readonly now: Date;
}

export interface FreeNode {
  readonly nodeId: NodeId;
  readonly hostname: string | null;
  readonly host: string;
  readonly port: number;
  readonly gpusTotal: number;
  readonly regionCode: string;
}

/** Placement keys lie in [0, PLACEMENT_KEYS): as many values as randomInt can span. */
const PLACEMENT_KEYS = 2 ** 48 - 1;

export const newPlacementKey = (): number => randomInt(PLACEMENT_KEYS);

/**
 * Locks up to `count` nodes that can be sold whole, until commit; fewer where there are not so many. A named node is
 * locked or refused: node_not_found, node_offline (not schedulable), node_in_use, sku_unavailable (another SKU).
 *
 * First free nodes that nobody else holds, read from a random point so that rivals rarely meet. Only where that does
 * not suffice does it wait for rivals, whose transactions may yet roll back; it has let go of its own locks then, and
 * everybody who waits takes locks in the same order, so none waits in a circle.
 */
export async function lockFreeNodes(tx: Tx, wish: PlacementWish): Promise<readonly FreeNode[]> {
  if (wish.nodeId !== null) return [await lockNamedNode(tx, wish.nodeId, wish)];
  if (wish.count < 1) return [];
  // Also for one: a candidate that a rival claimed between being seen and being locked is passed over, but its lock
  // stays, and whoever waits while holding such locks does wait in a circle.
  await sql`SAVEPOINT free_nodes`.execute(tx);
  const found = await takeUnlocked(tx, wish);
  if (found.length === wish.count) {
    await sql`RELEASE SAVEPOINT free_nodes`.execute(tx);
    return found;
  }
  await sql`ROLLBACK TO SAVEPOINT free_nodes`.execute(tx);
  await sql`RELEASE SAVEPOINT free_nodes`.execute(tx);
  return takeWaiting(tx, wish);
}

async function takeUnlocked(tx: Tx, wish: PlacementWish): Promise<FreeNode[]> {
  const start = randomInt(PLACEMENT_KEYS);
  const upper = await lockFree(tx, wish, wish.count, sql`AND n.placement_key >= ${start}`, sql`SKIP LOCKED`);
  if (upper.length === wish.count) return upper;
  const lower = await lockFree(
    tx,
    wish,
    wish.count - upper.length,
    sql`AND n.placement_key < ${start}`,
    sql`SKIP LOCKED`,
  );
  return [...upper, ...lower];
}

function takeWaiting(tx: Tx, wish: PlacementWish): Promise<FreeNode[]> {
  return lockFree(tx, wish, wish.count, sql``, sql``);
}

/**
 * The conditions stand as literals so that the planner sees the partial index. The heartbeat is asked row by row:
 * joined, it would be read whole before the first row is found.
 */
async function lockFree(
  tx: Tx,
  wish: PlacementWish,
  limit: number,
  range: RawBuilder<unknown>,
  locking: RawBuilder<unknown>,
): Promise<FreeNode[]> {
  const region = wish.regionCode === null ? sql`` : sql`AND n.region_code = ${wish.regionCode}`;
  const result = await sql<{
    id: string;
    hostname: string | null;
    host: string;
    port: number;
    gpus_total: number;
    region_code: string;
  }>`
    SELECT n.id, n.hostname, n.host, n.port, n.gpus_total, n.region_code
    FROM nodes n
    WHERE n.status = 'active' AND n.open_claims = 0 AND NOT n.slice_mode AND n.removed_at IS NULL
      AND n.sku = ${wish.sku} ${region} ${range}
      AND (SELECT h.last_seen_at FROM node_heartbeats h WHERE h.node_id = n.id) >= ${freshSince(wish.now)}
    ORDER BY n.placement_key
    LIMIT ${limit}
    FOR UPDATE OF n ${locking}`.execute(tx);
  return result.rows.map((row) => ({
    nodeId: asId(row.id),
    hostname: row.hostname,
    host: row.host,
    port: row.port,
    gpusTotal: row.gpus_total,
    regionCode: row.region_code,
  }));
}

async function lockNamedNode(tx: Tx, nodeId: NodeId, wish: PlacementWish): Promise<FreeNode> {
  const node = await lockNode(tx, nodeId);
  const current = { current_status: node.status };
  if (node.openClaims > 0) throw refuse('node_in_use', { reason: 'node_has_claims', ...current });
  const freshness = freshnessOf(await findHeartbeat(tx, nodeId), wish.now);
  if (node.status !== 'active') throw refuse('node_offline', { reason: `node_is_${node.status}`, ...current });
  if (freshness !== 'fresh') throw refuse('node_offline', { reason: 'heartbeat_stale', ...current });
  if (node.sliceMode) throw refuse('node_in_use', { reason: 'node_is_sold_in_slices', ...current });
  if (node.sku !== wish.sku || (wish.regionCode !== null && node.regionCode !== wish.regionCode)) {
    throw refuse('sku_unavailable', { reason: 'node_does_not_match', ...current });
  }
  return {
    nodeId: node.id,
    hostname: node.hostname,
    host: node.host,
    port: node.port,
    gpusTotal: node.gpusTotal,
    regionCode: node.regionCode,
  };
}
