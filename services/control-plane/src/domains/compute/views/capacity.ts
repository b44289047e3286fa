// Reads fleet's `nodes` and `node_heartbeats` beside compute's own tables, and changes nothing.
import { HEARTBEAT_FRESH_SECONDS } from '@gpuaas/node-protocol';
import { sql } from 'kysely';
import type { Reader } from '../../../spine/operation.js';

export interface CapacityWish {
  readonly sku: string;
  readonly regionCode: string | null;
  /** counting ends here: whoever asks for three need not know about ten thousand */
  readonly atMost: number;
  readonly now: Date;
}

/** Whole hosts that a launch could take right now, counted up to `atMost`. */
export async function countFreeHosts(reader: Reader, wish: CapacityWish): Promise<number> {
  const region = wish.regionCode === null ? sql`` : sql`AND n.region_code = ${wish.regionCode}`;
  const since = new Date(wish.now.getTime() - HEARTBEAT_FRESH_SECONDS * 1000);
  const result = await sql<{ count: bigint }>`
    SELECT count(*) AS count FROM (
      SELECT 1 FROM nodes n
      WHERE n.status = 'active' AND n.open_claims = 0 AND NOT n.slice_mode AND n.removed_at IS NULL
        AND n.sku = ${wish.sku} ${region}
        AND (SELECT h.last_seen_at FROM node_heartbeats h WHERE h.node_id = n.id) >= ${since}
      LIMIT ${wish.atMost}) AS free`.execute(reader);
  return Number(result.rows[0]?.count ?? 0n);
}

/** Whether there is a host of the SKU that nobody holds, whatever else keeps it from being used. */
export async function hasUnclaimedHost(reader: Reader, wish: Omit<CapacityWish, 'atMost' | 'now'>): Promise<boolean> {
  let query = reader
    .selectFrom('nodes')
    .select('id')
    .where('sku', '=', wish.sku)
    .where('open_claims', '=', 0)
    .where('slice_mode', '=', false)
    .where('removed_at', 'is', null)
    .where('status', 'not in', ['retired', 'removing'])
    .limit(1);
  if (wish.regionCode !== null) query = query.where('region_code', '=', wish.regionCode);
  return (await query.executeTakeFirst()) !== undefined;
}

/** Whether the fleet has anything in the region at all. */
export async function isKnownRegion(reader: Reader, regionCode: string): Promise<boolean> {
  const row = await reader
    .selectFrom('nodes')
    .select('id')
    .where('region_code', '=', regionCode)
    .where('removed_at', 'is', null)
    .limit(1)
    .executeTakeFirst();
  return row !== undefined;
}
