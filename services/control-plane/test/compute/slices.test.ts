import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { until } from '../harness/waiting.js';
import { type ComputeSite, startComputeSite } from './site-with-hosts.js';

const SLICE = 'h200-sxm-slice';

let site: ComputeSite;
beforeAll(async () => {
  site = await startComputeSite();
});
afterAll(() => site?.stop());

/** Declares slots that a guest could have, as if the host had reported and an operator approved them. */
async function slice(nodeId: string, slots: number): Promise<void> {
  const now = new Date();
  await site.db
    .insertInto('node_facts')
    .values({ node_id: nodeId, topology: JSON.stringify({ blockers: [] }) })
    .onConflict((conflict) => conflict.column('node_id').doUpdateSet({ topology: JSON.stringify({ blockers: [] }) }))
    .execute();
  await site.db
    .insertInto('gpuaas_node_resource_slots')
    .values(
      Array.from({ length: slots }, (_, index) => ({
        id: randomUUID(),
        node_id: nodeId,
        slot_index: index,
        status: 'available' as const,
        capacity_shape: 'gpu_slice' as const,
        sku: SLICE,
        approved: true,
        health_state: 'healthy',
        numa_node: index < slots / 2 ? 0 : 1,
        pci_address: `0000:${(16 + index).toString(16)}:00.0`,
        nvme_device: `/dev/nvme${index}n1`,
        private_ip: `10.9.0.${10 + index}`,
        capacity_metadata: JSON.stringify({
          storage_ownership: 'slice',
          destructive_wipe_policy: 'blkdiscard',
          fabric_claim_mode: 'per_slot_vf',
          fabric_vf_pci_address: `0000:${(64 + index).toString(16)}:00.1`,
        }),
        created_at: now,
        updated_at: now,
      })),
    )
    .execute();
  await site.db.updateTable('nodes').set({ slice_mode: true }).where('id', '=', nodeId).execute();
}

const slotsOf = async (...nodeIds: string[]) =>
  (
    await site.db
      .selectFrom('gpuaas_node_resource_slots')
      .select(['status', 'claimed_by', 'health_state'])
      .where('node_id', 'in', nodeIds)
      .orderBy('node_id')
      .orderBy('slot_index')
      .execute()
  ).map((row) => ({ status: row.status, claimedBy: row.claimed_by, health: row.health_state }));
const statusesOf = async (...nodeIds: string[]) => (await slotsOf(...nodeIds)).map((slot) => slot.status).sort();

const gpus = (count: number, region: string) => ({
  capacity_shape: 'gpu_slice',
  gpu_count: count,
  scheduler_request: { region_code: region },
});

describe('GPU slices', () => {
  it('check 6: a host of which slots are used is not taken whole, whatever the code believes', async () => {
    const nodeId = await site.addSilentHost({ region: 'check-6' });
    await slice(nodeId, 4);
    const person = await site.customer();
    const launched = await site.launch(person, gpus(2, 'check-6'));
    expect(launched.status).toBe(201);
    expect(launched.body.allocation).toMatchObject({
      capacity_shape: 'gpu_slice',
      sku: SLICE,
      gpus_total: 2,
      node_id: nodeId,
      status: 'requested',
      connection: null,
    });
    expect(JSON.stringify(launched.body)).not.toMatch(/0000:|nvme/);
    expect(await statusesOf(nodeId)).toEqual(['available', 'available', 'reserved', 'reserved']);

    const whole = await site.launch(person, { node_id: nodeId });
    expect([whole.status, whole.body.code]).toEqual([409, 'node_in_use']);
    const { id } = launched.body.allocation;
    const claim = { allocation_id: id, node_id: nodeId, status: 'active' as const, created_at: new Date() };
    const claims = await site.db
      .selectFrom('placement_claims')
      .select('slot_id')
      .where('allocation_id', '=', id)
      .execute();
    const insert = (values: { kind: 'slot' | 'node_exclusive'; slot_id: string | null }) =>
      site.db
        .insertInto('placement_claims')
        .values({ id: randomUUID(), ...claim, ...values })
        .execute();
    await expect(insert({ kind: 'node_exclusive', slot_id: null })).rejects.toThrow(/placement_claims_one_kind_a_node/);
    await expect(insert({ kind: 'slot', slot_id: claims[0]?.slot_id ?? '' })).rejects.toThrow(
      /placement_claims_one_a_slot/,
    );
    await expect(insert({ kind: 'slot', slot_id: null })).rejects.toThrow(/placement_claims_slot_named/);
    const node = await site.db
      .selectFrom('nodes')
      .select('open_claims')
      .where('id', '=', nodeId)
      .executeTakeFirstOrThrow();
    expect(node.open_claims).toBe(2);

    const released = await site.as(person, 'POST', `/api/v1/allocations/${id}/release`);
    expect(released.body.allocation.status).toBe('released');
    expect(await statusesOf(nodeId)).toEqual(Array(4).fill('available'));
    expect((await slotsOf(nodeId)).every((slot) => slot.claimedBy === null)).toBe(true);
  });

  it('check 7: four GPUs over two hosts with two free each are refused, and no slot moves', async () => {
    const nodes = [await site.addSilentHost({ region: 'check-7' }), await site.addSilentHost({ region: 'check-7' })];
    for (const nodeId of nodes) await slice(nodeId, 2);
    const person = await site.customer();
    const before = await slotsOf(...nodes);
    const refused = await site.launch(person, gpus(4, 'check-7'));
    expect([refused.status, refused.body.code, refused.body.details.reason]).toEqual([
      409,
      'sku_unavailable',
      'no_single_node_fit',
    ]);
    expect(await slotsOf(...nodes)).toEqual(before);
    const holds = await site.db
      .selectFrom('wallet_holds')
      .select('allocation_id')
      .where('user_id', '=', person.userId)
      .execute();
    expect(holds).toEqual([]);
    const precheck = await site.as(person, 'POST', '/api/v1/launch/compute/precheck', {
      sku: SLICE,
      unit_count: 4,
      region_code: 'check-7',
    });
    expect(precheck.body).toMatchObject({
      ready: false,
      resolved: { placement: { availability_state: 'blocked_capacity' } },
    });
    const odd = await site.launch(person, gpus(3, 'check-7'));
    expect([odd.status, odd.body.details.reason]).toEqual([400, 'gpu_count_not_offered']);

    const fits = await site.as(
      person,
      'POST',
      '/api/v1/launch/compute',
      { sku: SLICE, unit_count: 2, region_code: 'check-7' },
      randomUUID(),
    );
    expect(fits.status).toBe(202);
    expect(await statusesOf(...nodes)).toEqual(['available', 'available', 'reserved', 'reserved']);
  });

  it('never give a slot to two, however many ask at once', async () => {
    const nodeId = await site.addSilentHost({ region: 'rush' });
    await slice(nodeId, 4);
    const people = await Promise.all([1, 2, 3].map(() => site.customer()));
    const launchAs = (person: (typeof people)[number] | undefined) => {
      if (!person) throw new Error('nobody');
      return site.launch(person, gpus(1, 'rush'));
    };
    const answers = await Promise.all(Array.from({ length: 12 }, (_, index) => launchAs(people[index % 3])));
    expect(answers.filter((answer) => answer.status === 201)).toHaveLength(4);
    expect(answers.filter((answer) => answer.status === 409)).toHaveLength(8);
    expect(await statusesOf(nodeId)).toEqual(Array(4).fill('reserved'));
    const owners = (await slotsOf(nodeId)).map((slot) => slot.claimedBy);
    expect(new Set(owners).size).toBe(4);
  });

  it('become guests of their host, are restarted, and leave wiped slots behind', async () => {
    const { nodeId } = await site.addHost({ region: 'guests' });
    await slice(nodeId, 4);
    const person = await site.customer();
    const launched = await site.launch(person, { ...gpus(2, 'guests'), requested_count: 2 });
    expect(launched.body).toMatchObject({ created_count: 2, failed_count: 0 });
    const [first, second] = launched.body.allocations.map((allocation: { id: string }) => allocation.id);
    const active = await site.untilStatus(person, first, 'active');
    expect(active.connection).toMatchObject({ host: expect.stringMatching(/^10\.9\./), port: 22 });
    await site.untilStatus(person, second, 'active');
    expect(await statusesOf(nodeId)).toEqual(Array(4).fill('active'));
    const usage = await site.as(person, 'GET', '/api/v1/billing/usage');
    expect(usage.body.items.map((item: { allocation_id: string }) => item.allocation_id).sort()).toEqual(
      [first, second].sort(),
    );

    expect((await site.as(person, 'POST', `/api/v1/allocations/${first}/restart`)).status).toBe(202);
    await site.untilStatus(person, first, 'active');
    for (const id of [first, second]) await site.as(person, 'POST', `/api/v1/allocations/${id}/release`);
    for (const id of [first, second]) await site.untilStatus(person, id, 'released');
    expect(await statusesOf(nodeId)).toEqual(Array(4).fill('available'));
  });

  it('are blocked where the host cannot prove that a failed guest is gone, until someone vouches for it', async () => {
    const { nodeId, agent } = await site.addHost({
      region: 'broken',
      faults: [
        { id: 'launch', task: 'slice.vm_provision', fail: 'no' },
        { id: 'teardown', task: 'slice.vm_release', fail: 'no' },
      ],
    });
    await slice(nodeId, 2);
    const person = await site.customer();
    const { id } = (await site.launch(person, gpus(1, 'broken'))).body.allocation;
    const failed = await site.untilStatus(person, id, 'failed');
    expect(failed.failure_reason).toBe('injected_fault');
    await until(async () => (await statusesOf(nodeId)).join() === 'available,cleanup_blocked');
    expect((await slotsOf(nodeId)).filter((slot) => slot.health === 'failed')).toHaveLength(1);

    await agent.stop();
    await site.db
      .updateTable('node_heartbeats')
      .set({ last_seen_at: new Date(0) })
      .where('node_id', '=', nodeId)
      .execute();
    const cleaned = await site.asOperator('POST', `/api/v1/admin/allocations/${id}/force-cleanup`, {
      reason: 'looked at the host',
      runtime_verified_absent: true,
    });
    expect(cleaned.body.allocation.status).toBe('released');
    expect(await statusesOf(nodeId)).toEqual(['available', 'available']);
  });
});
