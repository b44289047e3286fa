import { type AllocationId, asId, type NodeId, newId } from '@gpuaas/kernel';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { FreeSlice, SliceWish } from '../../src/domains/fleet/index.js';
import type { Tx } from '../../src/spine/operation.js';
import { Refusal } from '../../src/spine/refusal.js';
import { inTransaction } from '../../src/spine/transaction.js';
import { until } from '../harness/waiting.js';
import { type FleetOnDatabase, fleetOnDatabase, type NodeGiven, START } from './fleet-on-database.js';

let site: FleetOnDatabase;
beforeAll(async () => {
  site = await fleetOnDatabase();
});
afterAll(() => site.stop());

interface SlotGiven {
  readonly numaNode?: number | null;
  readonly group?: string;
  readonly sku?: string;
  readonly health?: string;
  readonly approved?: boolean;
}

const hex = (value: number) => value.toString(16).padStart(2, '0');

/** A host with slots that can be taken, unless `given` says otherwise. */
async function addHost(
  sku: string,
  slots: readonly SlotGiven[],
  given: Partial<NodeGiven> & { readonly blockers?: readonly unknown[]; readonly images?: readonly string[] } = {},
): Promise<NodeId> {
  const [nodeId] = await site.addNodes(1, { sku, sliceMode: true, ...given });
  if (nodeId === undefined) throw new Error('no node');
  await site.db
    .insertInto('node_facts')
    .values({
      node_id: nodeId,
      topology: JSON.stringify({ blockers: given.blockers ?? [], images: given.images ?? null }),
    })
    .execute();
  for (const digest of given.images ?? []) {
    await site.db
      .insertInto('node_image_cache')
      .values({ node_id: nodeId, digest, image_ref: 'oci://images.test/x', verified_at: START })
      .execute();
  }
  await site.db
    .insertInto('gpuaas_node_resource_slots')
    .values(
      slots.map((slot, index) => ({
        id: newId(),
        node_id: nodeId,
        slot_index: index,
        status: 'available' as const,
        capacity_shape: 'gpu_slice' as const,
        sku: slot.sku ?? sku,
        numa_node: slot.numaNode === undefined ? 0 : slot.numaNode,
        pci_address: `0000:${hex(index)}:00.0`,
        health_state: slot.health ?? 'healthy',
        approved: slot.approved ?? true,
        capacity_metadata: JSON.stringify({
          destructive_wipe_policy: 'blkdiscard',
          ...(slot.group !== undefined && { topology_group: slot.group }),
        }),
        created_at: START,
        updated_at: START,
      })),
    )
    .execute();
  return nodeId;
}

const plain = (count: number): SlotGiven[] => Array.from({ length: count }, () => ({}));

type Wish = Partial<Pick<SliceWish, 'count' | 'regionCode' | 'nodeId' | 'imageDigest'>>;
const wish = (sku: string, gpuCount: number, more: Wish = {}): SliceWish => ({
  sku,
  gpuCount,
  count: more.count ?? 1,
  regionCode: more.regionCode ?? null,
  nodeId: more.nodeId ?? null,
  imageDigest: more.imageDigest ?? null,
  now: START,
});

/** What compute does with the places: claims them, and counts on the node. */
async function claim(tx: Tx, slices: readonly FreeSlice[]): Promise<AllocationId[]> {
  const ids: AllocationId[] = [];
  for (const slice of slices) {
    const allocationId = newId<'allocation'>();
    const slotIds = slice.slots.map((slot) => slot.slotId);
    await site.fleet.moveSlots(tx, site.ctx, { slotIds, event: 'reserve', allocationId });
    await tx
      .updateTable('nodes')
      .set((eb) => ({ open_claims: eb('open_claims', '+', slotIds.length) }))
      .where('id', '=', slice.nodeId)
      .execute();
    ids.push(allocationId);
  }
  return ids;
}

const place = (sku: string, gpuCount: number, more: Wish = {}) =>
  inTransaction(site.db, async (tx) => {
    const slices = await site.fleet.lockFreeSlots(tx, wish(sku, gpuCount, more));
    await claim(tx, slices);
    return slices;
  });

const claimants = async (sku: string) =>
  site.db
    .selectFrom('gpuaas_node_resource_slots')
    .select(['id', 'node_id', 'status', 'claimed_by'])
    .where('sku', '=', sku)
    .execute();

async function refusalOf(work: Promise<unknown>): Promise<{ code: string; status: number; reason: unknown }> {
  const error = await work.then(
    () => null,
    (reason: unknown) => reason,
  );
  if (!(error instanceof Refusal)) throw new Error(`expected a refusal, got ${String(error)}`);
  return { code: error.code, status: error.status, reason: error.details?.reason };
}

describe('placement of guests', () => {
  it('gives each of many rivals slots of its own, on one host each, until none fits any more', async () => {
    const sku = 'rush';
    for (let host = 0; host < 6; host += 1) await addHost(sku, plain(8));
    const sizes = Array.from({ length: 60 }, (_unused, index) => [1, 2, 4][index % 3] ?? 1);
    const answers = await Promise.all(sizes.map(async (size) => ({ size, slices: await place(sku, size) })));
    const placed = answers.flatMap((answer) => answer.slices);
    const slots = placed.flatMap((slice) => slice.slots.map((slot) => slot.slotId));
    expect(new Set(slots).size).toBe(slots.length);
    const rows = await claimants(sku);
    const taken = rows.filter((row) => row.claimed_by !== null);
    expect(taken.map((row) => row.id).sort()).toEqual([...slots].sort());
    const hostsOf = new Map<string, Set<string>>();
    for (const row of taken) {
      const hosts = hostsOf.get(row.claimed_by ?? '') ?? new Set();
      hostsOf.set(row.claimed_by ?? '', hosts.add(row.node_id));
    }
    expect([...hostsOf.values()].every((hosts) => hosts.size === 1)).toBe(true);
    // Slots were only ever taken: what was refused would not fit now either.
    const free = new Map<string, number>();
    for (const row of rows) if (row.claimed_by === null) free.set(row.node_id, (free.get(row.node_id) ?? 0) + 1);
    const refused = answers.filter((answer) => answer.slices.length === 0).map((answer) => answer.size);
    expect(Math.max(0, ...free.values())).toBeLessThan(Math.min(...refused));
  });

  it('does not call the hosts full while a rival may still roll back', async () => {
    const sku = 'rollback';
    await addHost(sku, plain(2));
    let waiting: Promise<readonly FreeSlice[]> | null = null;
    const rival = inTransaction(site.db, async (tx) => {
      expect(await site.fleet.lockFreeSlots(tx, wish(sku, 2))).toHaveLength(1);
      waiting = place(sku, 2);
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

  it('sees what a rival took while it waited', async () => {
    const sku = 'waited';
    await addHost(sku, plain(3));
    let waiting: Promise<readonly FreeSlice[]> | null = null;
    await inTransaction(site.db, async (tx) => {
      const slices = await site.fleet.lockFreeSlots(tx, wish(sku, 2));
      waiting = place(sku, 2);
      await until(async () => {
        const waiters = await sql`
          SELECT 1 FROM pg_locks WHERE locktype = 'tuple' AND relation = 'nodes'::regclass
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`.execute(site.db);
        return waiters.rows.length > 0;
      });
      await claim(tx, slices);
    });
    expect(await waiting).toEqual([]);
    expect(await place(sku, 1)).toHaveLength(1);
  });

  it('puts a guest on one host or nowhere', async () => {
    const sku = 'split';
    await addHost(sku, plain(2));
    await addHost(sku, plain(2));
    expect(await place(sku, 4)).toEqual([]);
    const room = await site.fleet.sliceRoom(site.db, wish(sku, 4));
    expect(room).toEqual({ places: 0, freeGpus: 4, unclaimedGpus: 4 });
    expect(await place(sku, 2, { count: 3 })).toHaveLength(2);
  });

  it('never makes one guest of two topology groups, and of two NUMA nodes only where it must', async () => {
    const sku = 'groups';
    const nodeId = await addHost(sku, [{ group: 'a' }, { group: 'a' }, { group: 'b' }]);
    expect(await place(sku, 3)).toEqual([]);
    const [pair] = await place(sku, 2);
    expect(pair).toMatchObject({ nodeId, slots: [{ slotIndex: 0 }, { slotIndex: 1 }] });

    const numa = 'numa';
    const spread = await addHost(numa, [{ numaNode: 0 }, { numaNode: 1 }]);
    const close = await addHost(numa, [{ numaNode: 0 }, { numaNode: 1 }, { numaNode: 1 }], { openClaims: 0 });
    expect((await place(numa, 2))[0]).toMatchObject({ nodeId: close, slots: [{ slotIndex: 1 }, { slotIndex: 2 }] });
    expect((await place(numa, 2))[0]).toMatchObject({ nodeId: spread });
  });

  it('gathers guests on hosts that carry some already, where they leave the least behind', async () => {
    const sku = 'fit';
    const empty = await addHost(sku, plain(4));
    const busy = await addHost(sku, plain(8));
    const fuller = await addHost(sku, plain(8));
    await place(sku, 2, { nodeId: busy });
    await place(sku, 4, { nodeId: fuller });
    const hosts: (NodeId | undefined)[] = [];
    for (const size of [2, 2, 4, 2, 4]) hosts.push((await place(sku, size))[0]?.nodeId);
    expect(hosts).toEqual([fuller, fuller, busy, busy, empty]);
  });

  it('takes only what is approved and healthy, of hosts in service that report nothing against it', async () => {
    const sku = 'picky';
    const here = await addHost(sku, [{}, { health: 'failed' }, { approved: false }, { sku: 'other' }]);
    await addHost(sku, plain(1), { status: 'cordoned' });
    await addHost(sku, plain(1), { seenAt: new Date(START.getTime() - 90_001) });
    await addHost(sku, plain(1), { seenAt: null });
    await addHost(sku, plain(1), { blockers: [{ code: 'nat_missing', message: 'no' }] });
    await addHost(sku, plain(1), { regionCode: 'region-2' });
    await inTransaction(site.db, async (tx) => {
      const found = await site.fleet.lockFreeSlots(tx, wish(sku, 1, { count: 20, regionCode: 'region-1' }));
      expect(found.map((slice) => [slice.nodeId, slice.slots.length])).toEqual([[here, 1]]);
    });
    expect(await site.fleet.sliceRoom(site.db, { ...wish(sku, 1, { count: 20 }), regionCode: 'region-1' })).toEqual({
      places: 1,
      freeGpus: 1,
      unclaimedGpus: 1,
    });
  });

  it('passes over hosts that keep images, but not the one to boot from', async () => {
    const sku = 'images';
    const [wanted, other] = [`sha256:${'a'.repeat(64)}`, `sha256:${'b'.repeat(64)}`];
    const bare = await addHost(sku, plain(1), { images: [] });
    await addHost(sku, plain(1), { images: [other] });
    const having = await addHost(sku, plain(1), { images: [other, wanted] });
    expect((await site.fleet.sliceRoom(site.db, { ...wish(sku, 1, { count: 3 }), imageDigest: wanted })).places).toBe(
      1,
    );
    const named = place(sku, 1, { nodeId: bare, imageDigest: wanted });
    expect(await refusalOf(named)).toMatchObject({ code: 'sku_unavailable', reason: 'readiness_blocked' });
    expect((await place(sku, 1, { count: 3, imageDigest: wanted })).map((slice) => slice.nodeId)).toEqual([having]);
    // one that keeps none fetches what it is told to boot
    const fetching = await addHost(sku, plain(1));
    expect((await place(sku, 1, { imageDigest: wanted }))[0]?.nodeId).toBe(fetching);
  });

  it('says of a named node why it cannot be had', async () => {
    const sku = 'named';
    const free = await addHost(sku, plain(2));
    const cordoned = await addHost(sku, plain(2), { status: 'cordoned' });
    const silent = await addHost(sku, plain(2), { seenAt: new Date(START.getTime() - 100_000) });
    const barred = await addHost(sku, plain(2), { blockers: [{}] });
    const [whole] = await site.addNodes(1, { sku });
    const [taken] = await site.addNodes(1, { sku, openClaims: 1 });
    const named = (nodeId: NodeId | undefined, gpus = 1) => place(sku, gpus, { nodeId: nodeId ?? null });
    expect(await refusalOf(named(asId(newId())))).toMatchObject({ code: 'node_not_found', status: 404 });
    expect(await refusalOf(named(cordoned))).toMatchObject({ code: 'node_offline', reason: 'node_is_cordoned' });
    expect(await refusalOf(named(silent))).toMatchObject({ code: 'node_offline', reason: 'heartbeat_stale' });
    expect(await refusalOf(named(barred))).toMatchObject({ code: 'sku_unavailable', reason: 'readiness_blocked' });
    expect(await refusalOf(named(whole))).toMatchObject({ code: 'sku_unavailable' });
    expect(await refusalOf(named(taken))).toMatchObject({ code: 'node_in_use' });
    expect(await named(free, 2)).toHaveLength(1);
    expect(await refusalOf(named(free))).toMatchObject({ code: 'node_in_use', reason: 'node_slots_taken' });
  });
});

describe('slots and their claimants', () => {
  it('part only together: what one of them cannot do none of them does', async () => {
    const sku = 'together';
    await addHost(sku, plain(4));
    const [slice] = await place(sku, 2);
    const slotIds = slice?.slots.map((slot) => slot.slotId) ?? [];
    const allocationId = asId<'allocation'>((await claimants(sku)).find((row) => row.claimed_by)?.claimed_by ?? '');
    const move = (event: 'provision' | 'activate' | 'release' | 'free' | 'block', of = allocationId, ids = slotIds) =>
      inTransaction(site.db, (tx) => site.fleet.moveSlots(tx, site.ctx, { slotIds: ids, event, allocationId: of }));
    await expect(move('free', newId())).rejects.toThrow(/0 can free/);
    await move('provision');
    await expect(move('free')).rejects.toThrow(/0 can free/);
    const stranger = (await claimants(sku)).find((row) => row.claimed_by === null)?.id ?? '';
    await expect(move('activate', allocationId, [...slotIds, asId(stranger)])).rejects.toThrow(/2 can activate/);
    await move('activate');
    await move('release');
    await inTransaction(site.db, (tx) =>
      site.fleet.moveSlots(tx, site.ctx, { slotIds, event: 'block', allocationId, reason: 'not_clean' }),
    );
    const blocked = await site.db
      .selectFrom('gpuaas_node_resource_slots')
      .select(['status', 'health_state', 'health_detail', 'schedulable'])
      .where('claimed_by', '=', allocationId)
      .execute();
    expect(blocked).toEqual(
      Array(2).fill({
        status: 'cleanup_blocked',
        health_state: 'failed',
        health_detail: { allocation_id: allocationId, reason: 'not_clean' },
        schedulable: false,
      }),
    );
    await move('release');
    await move('free');
    expect((await claimants(sku)).map((row) => [row.status, row.claimed_by])).toEqual(
      Array(4).fill(['available', null]),
    );
    expect(await place(sku, 4)).toHaveLength(1);
  });
});
