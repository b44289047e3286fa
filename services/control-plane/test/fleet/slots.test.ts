import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ComputeSite, SKU, startComputeSite } from '../compute/site-with-hosts.js';
import { addSlicedHost, approved, discover, putSlots, SLICE_SKU } from '../compute/sliced-hosts.js';

let site: ComputeSite;
beforeAll(async () => {
  site = await startComputeSite();
});
afterAll(() => site?.stop());

const slotsPath = (nodeId: string) => `/api/v1/admin/nodes/${nodeId}/resource-slots`;
const listSlots = async (nodeId: string) => (await site.asOperator('GET', slotsPath(nodeId))).body.items;
const findNode = async (nodeId: string) => {
  const answer = await site.asOperator('GET', '/api/v1/admin/nodes?page_size=200');
  return answer.body.items.find((node: { id: string }) => node.id === nodeId);
};
const isSliced = async (nodeId: string) =>
  (await site.db.selectFrom('nodes').select('slice_mode').where('id', '=', nodeId).executeTakeFirstOrThrow())
    .slice_mode;

describe('the slots of a node', () => {
  it('are what its host proposes and an operator approves, and then count as capacity', async () => {
    const { nodeId } = await site.addHost({ region: 'journey' });
    expect(await findNode(nodeId)).toMatchObject({ slot_summary: null, occupancy_status: 'available' });
    const proposals = await discover(site, nodeId);
    expect(proposals).toHaveLength(8);
    const put = await putSlots(site, nodeId, [
      ...proposals.slice(0, 6).map((slot) => approved(slot, slot.slot_index === 5 ? { health_state: 'degraded' } : {})),
      { ...proposals[6], capacity_metadata: {} },
    ]);
    expect(put.status).toBe(200);
    expect(put.body.items).toHaveLength(7);
    expect(put.body.items[0]).toMatchObject({
      node_id: nodeId,
      slot_index: 0,
      status: 'available',
      health_state: 'healthy',
      nvme_device: '/dev/nvme0n1',
      capacity_metadata: { storage_ownership: 'slice', fabric_claim_mode: 'per_slot_vf' },
    });
    expect(await isSliced(nodeId)).toBe(true);
    expect(await findNode(nodeId)).toMatchObject({
      in_use: false,
      occupancy_status: 'available',
      slot_summary: {
        total: 7,
        available: 6,
        schedulable_available: 5,
        disabled: 1,
        by_sku: [{ sku: SKU, total: 7, available: 6, schedulable_available: 5 }],
      },
    });

    const twins = ['/api/v1/platform/lifecycle/nodes/', '/api/v1/v3/platform/lifecycle/nodes/'];
    for (const twin of twins) {
      const same = await site.asOperator('GET', `${twin}${nodeId}/resource-slots`);
      expect(same.body).toEqual(put.body);
    }
    const again = await site.asOperator('PUT', `${twins[0]}${nodeId}/resource-slots`, {
      slots: [{ slot_index: 6, status: 'cleanup', capacity_shape: 'gpu_slice' }],
    });
    expect(again.body.items).toHaveLength(7);
    expect(again.body.items[6]).toMatchObject({ slot_index: 6, status: 'cleanup', gpu_uuid: null });
    expect(again.body.items.slice(0, 6)).toEqual(put.body.items.slice(0, 6));
  });

  it('check 8: without the address of its virtual function no slot is offered, and nothing is written', async () => {
    const { nodeId } = await site.addHost({ region: 'check-8' });
    const [first, second] = await discover(site, nodeId);
    const blind = approved(second);
    delete blind.capacity_metadata.fabric_vf_pci_address;
    const refused = await putSlots(site, nodeId, [approved(first), blind]);
    expect(refused.status).toBe(400);
    expect(refused.body).toMatchObject({
      code: 'invalid_request',
      details: {
        reason: 'slot_not_schedulable',
        issues: [{ pointer: '/body/slots/1/capacity_metadata/fabric_vf_pci_address' }],
      },
    });
    expect(refused.body.message).toContain('fabric_vf_pci_address');
    expect(await listSlots(nodeId)).toEqual([]);
    expect(await isSliced(nodeId)).toBe(false);
  });

  it('are not offered before the host has said that nothing bars slices', async () => {
    const { nodeId } = await site.addHost({ region: 'unseen' });
    const proposals = await discover(site, (await site.addHost({ region: 'unseen' })).nodeId);
    const offer = [approved(proposals[0])];
    const blind = await putSlots(site, nodeId, offer);
    expect([blind.status, blind.body.details.reason]).toEqual([400, 'discovery_missing']);
    await discover(site, nodeId);
    // GPUs of another host
    const foreign = await putSlots(site, nodeId, offer);
    expect([foreign.status, foreign.body.details.reason]).toEqual([400, 'device_not_discovered']);
    await site.db
      .updateTable('node_facts')
      .set((eb) => ({
        topology: eb.fn('jsonb_set', [
          'topology',
          eb.val('{blockers}'),
          eb.cast(eb.val('[{"code":"nat_missing","message":"no"}]'), 'jsonb'),
        ]),
      }))
      .where('node_id', '=', nodeId)
      .execute();
    const barred = await putSlots(site, nodeId, offer);
    expect([barred.status, barred.body.details.reason]).toEqual([400, 'discovery_blocked']);
    expect(barred.body.message).toContain('nat_missing');
  });

  it('make a node one that is sold in slices exactly while one of them is in use', async () => {
    const { nodeId } = await addSlicedHost(site, { region: 'mode', sku: SKU, slots: 2 });
    const person = await site.customer();
    const whole = await site.launch(person, { node_id: nodeId });
    expect([whole.status, whole.body.code, whole.body.details.reason]).toEqual([
      409,
      'node_in_use',
      'node_is_sold_in_slices',
    ]);
    const disable = (index: number) => ({ slot_index: index, status: 'disabled', capacity_shape: 'gpu_slice' });
    await putSlots(site, nodeId, [disable(0)]);
    expect(await isSliced(nodeId)).toBe(true);
    await putSlots(site, nodeId, [disable(1)]);
    expect(await isSliced(nodeId)).toBe(false);
    expect(await findNode(nodeId)).toMatchObject({ occupancy_status: 'available', slot_summary: { disabled: 2 } });

    expect((await site.launch(person, { node_id: nodeId })).status).toBe(201);
    const [proposal] = await discover(site, nodeId);
    const taken = await putSlots(site, nodeId, [approved(proposal)]);
    expect([taken.status, taken.body.details.reason]).toEqual([400, 'node_in_use']);
    expect(await isSliced(nodeId)).toBe(false);
  });

  it('are sold as what their metadata says, and as nothing that the catalogue lacks', async () => {
    const { nodeId } = await site.addHost({ region: 'sku' });
    const [proposal] = await discover(site, nodeId);
    const sold = (sku: string) => {
      const slot = approved(proposal);
      return { ...slot, capacity_metadata: { ...slot.capacity_metadata, sku } };
    };
    const unknown = await putSlots(site, nodeId, [sold('nothing')]);
    expect([unknown.status, unknown.body.details.reason]).toEqual([400, 'sku_not_found']);
    expect((await putSlots(site, nodeId, [sold(SLICE_SKU)])).status).toBe(200);
    expect((await findNode(nodeId)).slot_summary.by_sku).toMatchObject([{ sku: SLICE_SKU, schedulable_available: 1 }]);
  });

  it('count for nothing while their host is out of service', async () => {
    const { nodeId } = await addSlicedHost(site, { region: 'silent', slots: 3 });
    expect((await findNode(nodeId)).slot_summary.schedulable_available).toBe(3);
    const cordon = await site.call({
      method: 'POST',
      path: `/api/v1/platform/lifecycle/nodes/${nodeId}/cordon`,
      token: await site.operator(),
      key: randomUUID(),
      body: { reason: 'test' },
    });
    expect(cordon.status).toBe(200);
    expect(await findNode(nodeId)).toMatchObject({
      occupancy_status: 'unavailable',
      slot_summary: { available: 3, schedulable_available: 0 },
    });
  });

  it('are unhealthy while their host does not report the GPU, and healthy once it does again', async () => {
    const { nodeId } = await addSlicedHost(site, { region: 'lost-gpu', slots: 2 });
    const [lost] = await listSlots(nodeId);
    // As if the operator's card had been moved to another place of the same host.
    const elsewhere = '0000:ff:00.0';
    const relabel = (from: string, to: string) =>
      site.db
        .updateTable('gpuaas_node_resource_slots')
        .set({ pci_address: to })
        .where('node_id', '=', nodeId)
        .where('pci_address', '=', from)
        .execute();
    await relabel(lost.pci_address, elsewhere);
    await discover(site, nodeId);
    expect(await listSlots(nodeId)).toMatchObject([
      { health_state: 'device_missing', health_detail: { reason: 'device_missing' } },
      { health_state: 'healthy' },
    ]);
    expect((await findNode(nodeId)).slot_summary).toMatchObject({ available: 2, schedulable_available: 1 });
    await relabel(elsewhere, lost.pci_address);
    await discover(site, nodeId);
    expect((await findNode(nodeId)).slot_summary.schedulable_available).toBe(2);
  });

  it('are recorded when they change, and belong to operators alone', async () => {
    const { nodeId } = await addSlicedHost(site, { region: 'record', slots: 1 });
    const entries = await site.db
      .selectFrom('audit_logs')
      .select('metadata')
      .where('action', '=', 'node.slots.upsert')
      .where('target_id', '=', nodeId)
      .execute();
    expect(entries.map((entry) => entry.metadata)).toEqual([
      { slice_mode: true, slots: [{ slot_index: 0, from: null, to: 'available' }] },
    ]);
    const events = await site.db
      .selectFrom('outbox_events')
      .select('payload')
      .where('event_type', '=', 'fleet.slot.changed')
      .where('aggregate_id', '=', nodeId)
      .execute();
    expect(events).toMatchObject([{ payload: { node_id: nodeId, cause: 'declared', allocation_id: null } }]);

    const person = await site.customer();
    const slot = { slot_index: 0, status: 'disabled', capacity_shape: 'gpu_slice' };
    for (const answer of [
      await site.as(person, 'GET', slotsPath(nodeId)),
      await site.as(person, 'PUT', slotsPath(nodeId), { slots: [slot] }),
    ]) {
      expect([answer.status, answer.body.code]).toEqual([403, 'admin_required']);
    }
    const unknown = await putSlots(site, randomUUID(), [slot]);
    expect([unknown.status, unknown.body.code]).toEqual([404, 'node_not_found']);
  });

  it('stay as they are on a node that has left service', async () => {
    const { nodeId } = await addSlicedHost(site, { region: 'retired', slots: 1 });
    expect((await site.asOperator('DELETE', `/api/v1/admin/nodes/${nodeId}`)).status).toBe(204);
    const refused = await putSlots(site, nodeId, [{ slot_index: 0, status: 'disabled', capacity_shape: 'gpu_slice' }]);
    expect([refused.status, refused.body.details.reason]).toEqual([409, 'node_is_retired']);
  });
});
