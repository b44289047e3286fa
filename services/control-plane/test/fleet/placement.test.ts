import type { NodeId } from '@gpuaas/kernel';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Tx } from '../../src/spine/operation.js';
import { Refusal } from '../../src/spine/refusal.js';
import { inTransaction } from '../../src/spine/transaction.js';
import { until } from '../harness/waiting.js';
import { type FleetOnDatabase, fleetOnDatabase, START } from './fleet-on-database.js';

let site: FleetOnDatabase;
beforeAll(async () => {
  site = await fleetOnDatabase();
});
afterAll(() => site.stop());

/** What compute's trigger does when a claim is written. */
const claim = (tx: Tx, ids: readonly NodeId[]) =>
  tx
    .updateTable('nodes')
    .set((eb) => ({ open_claims: eb('open_claims', '+', 1) }))
    .where('id', 'in', [...ids])
    .execute();

const wish = (sku: string, more: { count?: number; regionCode?: string; nodeId?: NodeId } = {}) => ({
  sku,
  regionCode: more.regionCode ?? null,
  count: more.count ?? 1,
  nodeId: more.nodeId ?? null,
  now: START,
});

const place = (sku: string, count = 1) =>
  inTransaction(site.db, async (tx) => {
    const nodes = await site.fleet.lockFreeNodes(tx, wish(sku, { count }));
    const ids = nodes.map((node) => node.nodeId);
    if (ids.length > 0) await claim(tx, ids);
    return ids;
  });

async function refusalOf(work: Promise<unknown>): Promise<{ code: string; status: number; reason: unknown }> {
  const error = await work.then(
    () => null,
    (reason: unknown) => reason,
  );
  if (!(error instanceof Refusal)) throw new Error(`expected a refusal, got ${String(error)}`);
  return { code: error.code, status: error.status, reason: error.details?.reason };
}

describe('placement of whole nodes', () => {
  it('gives each of many rivals a node of its own until none is left', async () => {
    await site.addNodes(40, { sku: 'race' });
    const placed = (await Promise.all(Array.from({ length: 60 }, () => place('race')))).flat();
    expect(placed).toHaveLength(40);
    expect(new Set(placed).size).toBe(40);
  });

  it('places batches of several without losing or doubling any', async () => {
    await site.addNodes(60, { sku: 'batches' });
    const sizes = Array.from({ length: 45 }, (_unused, index) => (index % 3) + 1);
    const placed = (await Promise.all(sizes.map((size) => place('batches', size)))).flat();
    expect(placed).toHaveLength(60);
    expect(new Set(placed).size).toBe(60);
  });

  it('does not call the fleet sold out while a rival may still roll back', async () => {
    await site.addNodes(1, { sku: 'rollback' });
    let waiting: Promise<NodeId[]> | null = null;
    const rival = inTransaction(site.db, async (tx) => {
      expect(await site.fleet.lockFreeNodes(tx, wish('rollback'))).toHaveLength(1);
      waiting = place('rollback');
      // Whoever waits for a row holds its tuple lock meanwhile.
      await until(async () => {
        const waiters = await sql`
          SELECT 1 FROM pg_locks WHERE locktype = 'tuple' AND relation = 'nodes'::regclass
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`.execute(site.db);
        return waiters.rows.length > 0;
      });
      throw new Error('the rival changes its mind');
    });
    await expect(rival).rejects.toThrow('changes its mind');
    expect(await waiting).toHaveLength(1);
  });

  it('sells only nodes in service that were heard of lately, whole ones, of the SKU and the region', async () => {
    const sku = 'picky';
    const [here] = await site.addNodes(1, { sku });
    await site.addNodes(1, { sku, regionCode: 'region-2' });
    await site.addNodes(1, { sku, status: 'cordoned' });
    await site.addNodes(1, { sku, status: 'draining' });
    await site.addNodes(1, { sku, status: 'offline' });
    await site.addNodes(1, { sku, sliceMode: true });
    await site.addNodes(1, { sku, openClaims: 1 });
    await site.addNodes(1, { sku, seenAt: null });
    await site.addNodes(1, { sku, seenAt: new Date(START.getTime() - 90_001) });
    await inTransaction(site.db, async (tx) => {
      const found = await site.fleet.lockFreeNodes(tx, wish(sku, { count: 10, regionCode: 'region-1' }));
      expect(found.map((node) => node.nodeId)).toEqual([here]);
      expect(await site.fleet.lockFreeNodes(tx, wish(sku, { count: 10 }))).toHaveLength(2);
      expect(await site.fleet.lockFreeNodes(tx, wish('another', { count: 10 }))).toHaveLength(0);
    });
  });

  it('says of a named node why it cannot be had', async () => {
    const sku = 'named';
    const [free] = await site.addNodes(1, { sku });
    const [taken] = await site.addNodes(1, { sku, openClaims: 1 });
    const [silent] = await site.addNodes(1, { sku, seenAt: new Date(START.getTime() - 100_000) });
    const [cordoned] = await site.addNodes(1, { sku, status: 'cordoned' });
    const named = (nodeId: NodeId | undefined, of = sku) =>
      inTransaction(site.db, (tx) => site.fleet.lockFreeNodes(tx, { ...wish(of), nodeId: nodeId ?? null }));
    expect(await named(free)).toMatchObject([{ nodeId: free }]);
    expect(await refusalOf(named(taken))).toMatchObject({ code: 'node_in_use', status: 409 });
    expect(await refusalOf(named(silent))).toMatchObject({ code: 'node_offline', reason: 'heartbeat_stale' });
    expect(await refusalOf(named(cordoned))).toMatchObject({ code: 'node_offline', reason: 'node_is_cordoned' });
    expect(await refusalOf(named(free, 'other'))).toMatchObject({ code: 'sku_unavailable' });
  });

  it('reads the index of free nodes and no more, however many nodes there are', async () => {
    const sku = 'planned';
    await site.addNodes(300, { sku });
    await sql`ANALYZE nodes`.execute(site.db).catch(() => undefined);
    const plan = await sql<Record<string, string>>`
      EXPLAIN SELECT n.id FROM nodes n
      WHERE n.status = 'active' AND n.open_claims = 0 AND NOT n.slice_mode AND n.removed_at IS NULL
        AND n.sku = ${sku} AND n.placement_key >= ${1000}
        AND (SELECT h.last_seen_at FROM node_heartbeats h WHERE h.node_id = n.id) >= ${START}
      ORDER BY n.placement_key LIMIT 1 FOR UPDATE OF n SKIP LOCKED`.execute(site.db);
    const text = plan.rows.map((row) => Object.values(row).join()).join('\n');
    expect(text).toContain('nodes_free');
    expect(text).not.toContain('Seq Scan');
    expect(text).not.toContain('Sort');
  });
});
