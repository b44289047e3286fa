import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { until } from '../harness/waiting.js';
import { type ComputeSite, startComputeSite } from './site-with-hosts.js';
import { addSlicedHost, guest, SLICE_SKU } from './sliced-hosts.js';

let site: ComputeSite;
beforeAll(async () => {
  site = await startComputeSite();
});
afterAll(() => site?.stop());

interface Slot {
  readonly slot_index: number;
  readonly status: string;
  readonly health_state: string | null;
  readonly health_detail: Readonly<Record<string, unknown>>;
}

const slotsOf = async (nodeId: string): Promise<readonly Slot[]> =>
  (await site.asOperator('GET', `/api/v1/admin/nodes/${nodeId}/resource-slots`)).body.items;
const tally = async (nodeId: string) => {
  const counts: Record<string, number> = {};
  for (const { status } of await slotsOf(nodeId)) counts[status] = (counts[status] ?? 0) + 1;
  return counts;
};
const claimsOf = (allocationId: string) =>
  site.db
    .selectFrom('placement_claims')
    .select(['status', 'kind', 'slot_id', 'node_id'])
    .where('allocation_id', '=', allocationId)
    .orderBy('created_at')
    .execute();
const silence = async (nodeId: string) => {
  await site.db
    .updateTable('node_heartbeats')
    .set({ last_seen_at: new Date(Date.now() - 91_000) })
    .where('node_id', '=', nodeId)
    .execute();
};
const forceCleanup = (allocationId: string, verified: boolean) =>
  site.asOperator('POST', `/api/v1/admin/allocations/${allocationId}/force-cleanup`, {
    reason: 'test',
    runtime_verified_absent: verified,
  });

describe('a guest', () => {
  it('is launched in slots of one host, billed by its GPUs, restarted, and leaves wiped slots behind', async () => {
    const { nodeId } = await addSlicedHost(site, { region: 'journey' });
    const person = await site.customer();
    const launched = await site.launch(person, guest(2, 'journey'));
    expect(launched.status).toBe(201);
    const { id } = launched.body.allocation;
    expect(launched.body.allocation).toMatchObject({
      capacity_shape: 'gpu_slice',
      sku: SLICE_SKU,
      node_id: nodeId,
      gpus_total: 2,
      connection: null,
    });

    const active = await site.untilStatus(person, id, 'active');
    // Its own address and nothing of its host's.
    expect(active.connection).toEqual({
      host: expect.stringMatching(/^10\.77\.0\.\d+$/),
      hostname: null,
      port: 22,
      username_on_node: expect.any(String),
    });
    expect(active.node_hostname).toBeNull();
    expect(await tally(nodeId)).toEqual({ active: 2, available: 6 });
    expect(await claimsOf(id)).toMatchObject([
      { kind: 'slot', status: 'active' },
      { kind: 'slot', status: 'active' },
    ]);
    const usage = await site.db.selectFrom('usage_records').selectAll().where('allocation_id', '=', id).execute();
    expect(usage).toMatchObject([{ usage_unit: 'gpu_hour', units: 2n }]);

    expect((await site.as(person, 'POST', `/api/v1/allocations/${id}/restart`)).status).toBe(202);
    const again = await site.untilStatus(person, id, 'active');
    expect(again.connection).toEqual(active.connection);

    const released = await site.as(person, 'POST', `/api/v1/allocations/${id}/release`);
    expect(released.status).toBe(202);
    await site.untilStatus(person, id, 'released');
    expect(await tally(nodeId)).toEqual({ available: 8 });

    const timeline = await site.as(person, 'GET', `/api/v1/allocations/${id}/timeline?limit=100`);
    expect(timeline.body.items.map((item: { name: string }) => item.name)).toEqual(
      expect.arrayContaining([
        'requested',
        'slot_reserved',
        'provisioning_started',
        'slice.vm_provision',
        'ssh_ready',
        'active',
        'slice.restart',
        'slice.vm_release',
        'released',
      ]),
    );
    expect(JSON.stringify(timeline.body)).not.toMatch(/0000:|nvme|eui\./);
  });

  it('check 6: makes its host one that nobody takes whole, whatever the host is sold as', async () => {
    const { nodeId } = await addSlicedHost(site, { region: 'whole' });
    const person = await site.customer();
    const used = await site.launch(person, guest(1, 'whole'));
    await site.untilStatus(person, used.body.allocation.id, 'active');
    const whole = await site.launch(person, { node_id: nodeId, capacity_shape: 'baremetal' });
    expect([whole.status, whole.body.code]).toEqual([409, 'node_in_use']);
    expect(await tally(nodeId)).toEqual({ active: 1, available: 7 });
  });

  it('check 7: of four GPUs is refused by two hosts with two free each, whose slots stay as they are', async () => {
    const nodes = await Promise.all([1, 2].map(() => addSlicedHost(site, { region: 'check-7', slots: 2 })));
    const person = await site.customer();
    const before = await Promise.all(nodes.map(({ nodeId }) => slotsOf(nodeId)));
    const refused = await site.launch(person, guest(4, 'check-7'));
    expect(refused.status).toBe(409);
    expect(refused.body).toMatchObject({ code: 'sku_unavailable', details: { reason: 'no_single_node_fit' } });
    expect(await Promise.all(nodes.map(({ nodeId }) => slotsOf(nodeId)))).toEqual(before);

    const nowhere = await site.launch(person, guest(4, 'no-such-region'));
    expect(nowhere.body.details.reason).toBe('no_capacity_in_region');
    for (const { nodeId } of nodes) await silence(nodeId);
    const unready = await until(async () => {
      const answer = await site.launch(person, guest(1, 'check-7'));
      if (answer.status === 201) {
        // The host polled again before the launch came; it cannot have been told much by then.
        await site.as(person, 'POST', `/api/v1/allocations/${answer.body.allocation.id}/release`);
        for (const { nodeId } of nodes) await silence(nodeId);
        return null;
      }
      return answer;
    });
    expect(unready.body.details.reason).toBe('readiness_blocked');
  });

  it('that fails to start leaves nothing behind, and says in which step it failed', async () => {
    const { nodeId } = await addSlicedHost(site, {
      region: 'faulty',
      faults: [
        { id: 'vfio', task: 'slice.vm_provision', times: 1, code: 'vfio', fail: 'the device is bound elsewhere' },
      ],
    });
    const person = await site.customer();
    const { id } = (await site.launch(person, guest(8, 'faulty'))).body.allocation;
    const failed = await site.untilStatus(person, id, 'failed');
    expect(failed.failure_reason).toBe('vfio');
    await until(async () => (await tally(nodeId)).available === 8);
    expect((await claimsOf(id)).every((claim) => claim.status === 'released')).toBe(true);
    const next = (await site.launch(person, guest(8, 'faulty'))).body.allocation;
    await site.untilStatus(person, next.id, 'active');
  });

  it('whose disks could not be wiped keeps its slots blocked, and costs nothing, until someone vouches for it', async () => {
    const { nodeId, agent } = await addSlicedHost(site, {
      region: 'unwiped',
      faults: [{ id: 'wipe', task: 'slice.vm_release', code: 'wipe_failed', fail: 'the disk does not answer' }],
    });
    const person = await site.customer();
    const { id } = (await site.launch(person, guest(2, 'unwiped'))).body.allocation;
    await site.untilStatus(person, id, 'active');
    await site.as(person, 'POST', `/api/v1/allocations/${id}/release`);
    const stuck = await site.untilStatus(person, id, 'release_failed');
    expect(stuck.release_failed_reason).toBe('wipe_failed');
    expect(await tally(nodeId)).toEqual({ cleanup_blocked: 2, available: 6 });
    const blocked = (await slotsOf(nodeId)).filter((slot) => slot.status === 'cleanup_blocked');
    for (const slot of blocked) {
      expect(slot).toMatchObject({
        health_state: 'failed',
        health_detail: { allocation_id: id, reason: 'wipe_failed' },
      });
    }
    expect((await site.launch(person, guest(8, 'unwiped'))).body.code).toBe('sku_unavailable');
    const put = await site.asOperator('PUT', `/api/v1/admin/nodes/${nodeId}/resource-slots`, {
      slots: blocked.map(({ slot_index }) => ({ slot_index, status: 'disabled', capacity_shape: 'gpu_slice' })),
    });
    expect([put.status, put.body.details.reason]).toEqual([400, 'slot_claimed']);

    const responding = await forceCleanup(id, true);
    expect([responding.status, responding.body.code]).toEqual([409, 'node_in_use']);
    await agent.stop();
    await silence(nodeId);
    expect((await forceCleanup(id, false)).status).toBe(400);
    const cleaned = await forceCleanup(id, true);
    expect([cleaned.status, cleaned.body.allocation.status]).toEqual([200, 'released']);
    expect(await tally(nodeId)).toEqual({ available: 8 });
    expect((await slotsOf(nodeId)).every((slot) => slot.health_state === 'healthy')).toBe(true);
  });

  it('that failed and could not be taken away is freed by a word, also while its host answers', async () => {
    const { nodeId } = await addSlicedHost(site, {
      region: 'stuck',
      faults: [
        { id: 'launch', task: 'slice.vm_provision', times: 1, code: 'readiness', fail: 'no login' },
        { id: 'teardown', task: 'slice.vm_release', times: 3, code: 'wipe_failed', fail: 'no' },
      ],
    });
    const person = await site.customer();
    const { id } = (await site.launch(person, guest(4, 'stuck'))).body.allocation;
    await site.untilStatus(person, id, 'failed');
    await until(async () => (await tally(nodeId)).cleanup_blocked === 4);
    expect((await forceCleanup(id, false)).status).toBe(400);
    const cleaned = await forceCleanup(id, true);
    expect([cleaned.status, cleaned.body.allocation.status]).toEqual([200, 'released']);
    expect(await tally(nodeId)).toEqual({ available: 8 });
  });

  it('that never starts is ended by an operator, and its slots wait for someone who has looked', async () => {
    const { nodeId, agent } = await addSlicedHost(site, { region: 'dead' });
    await agent.stop();
    const person = await site.customer();
    const launch = async () => (await site.launch(person, guest(1, 'dead'))).body.allocation.id;
    const [looked, unseen] = [await launch(), await launch()];
    expect(await tally(nodeId)).toEqual({ reserved: 2, available: 6 });

    const ended = await forceCleanup(looked, true);
    expect([ended.status, ended.body.allocation.status]).toEqual([200, 'failed']);
    expect(await tally(nodeId)).toEqual({ reserved: 1, available: 7 });

    const doubtful = await forceCleanup(unseen, false);
    expect([doubtful.status, doubtful.body.allocation.status]).toEqual([200, 'failed']);
    expect(await tally(nodeId)).toEqual({ cleanup_blocked: 1, available: 7 });
    const later = await forceCleanup(unseen, true);
    expect([later.status, later.body.allocation.status]).toEqual([200, 'released']);
    expect(await tally(nodeId)).toEqual({ available: 8 });
    expect((await forceCleanup(unseen, true)).body.details.reason).toBe('cleanup_not_applicable');
    const held = await site.db
      .selectFrom('wallet_holds')
      .select('allocation_id')
      .where('user_id', '=', person.userId)
      .execute();
    expect(held).toEqual([]);
  });

  it('is given back before any host has seen it without asking the host', async () => {
    const { nodeId, agent } = await addSlicedHost(site, { region: 'unseen' });
    await agent.stop();
    const person = await site.customer();
    const { id } = (await site.launch(person, guest(4, 'unseen'))).body.allocation;
    const released = await site.as(person, 'POST', `/api/v1/allocations/${id}/release`);
    expect(released.body.allocation.status).toBe('released');
    expect(await tally(nodeId)).toEqual({ available: 8 });
  });

  it('boots only from an image that its host keeps, where the host keeps any', async () => {
    const image = await site.db
      .selectFrom('os_images')
      .select(['source_uri', 'digest_sha256'])
      .where('slug', '=', 'ubuntu-24.04-h200-cuda')
      .executeTakeFirstOrThrow();
    await addSlicedHost(site, {
      region: 'images',
      images: [{ ref: image.source_uri, digest: `sha256:${image.digest_sha256}` }],
    });
    const person = await site.customer();
    const wants = (slug: string) =>
      guest(1, 'images', { scheduler_request: { sku: SLICE_SKU, region_code: 'images', os_image_slug: slug } });
    const refused = await site.launch(person, wants('ubuntu-24.04-h200-base'));
    expect([refused.status, refused.body.details.reason]).toEqual([409, 'readiness_blocked']);
    const launched = await site.launch(person, wants('ubuntu-24.04-h200-cuda'));
    await site.untilStatus(person, launched.body.allocation.id, 'active');
  });

  it('lets in whoever its owner says, like any other allocation', async () => {
    await addSlicedHost(site, { region: 'keys' });
    const person = await site.customer();
    const { id } = (await site.launch(person, guest(1, 'keys'))).body.allocation;
    await site.untilStatus(person, id, 'active');
    const other = await site.as(person, 'POST', '/api/v1/ssh-keys', {
      name: 'second',
      public_key: `ssh-ed25519 ${Buffer.concat([Buffer.from([0, 0, 0, 11]), Buffer.from('ssh-ed25519'), Buffer.from([0, 0, 0, 32]), Buffer.alloc(32, 9)]).toString('base64')}`,
    });
    await site.as(person, 'PUT', `/api/v1/allocations/${id}/ssh-keys`, { ssh_key_ids: [other.body.key.id] });
    await until(async () => {
      const row = await site.db
        .selectFrom('allocations')
        .select(['key_set_version', 'key_set_applied_version'])
        .where('id', '=', id)
        .executeTakeFirstOrThrow();
      return row.key_set_version === 2 && row.key_set_applied_version === 2;
    });
  });
});

describe('a race for slots', () => {
  it('never gives one to two, mixes no guests with whole hosts, and ends with every slot where its claim says', async () => {
    const region = 'race';
    const nodes = await Promise.all([1, 2, 3].map(() => addSlicedHost(site, { region })));
    const metal = await site.addHosts(2, { region });
    const people = await Promise.all([1, 2, 3].map(() => site.customer()));
    const sizes = [1, 2, 4, 8];
    const statuses = new Set<number>();
    const attempt = async (index: number) => {
      const person = people[index % people.length];
      if (person === undefined) throw new Error('nobody');
      const body =
        index % 7 === 0
          ? { scheduler_request: { sku: 'h200-sxm-baremetal-8g', region_code: region } }
          : index % 5 === 0
            ? { node_id: nodes[index % nodes.length]?.nodeId, capacity_shape: 'baremetal' }
            : guest(sizes[index % sizes.length] ?? 1, region);
      const answer = await site.launch(person, body, randomUUID());
      statuses.add(answer.status);
      if (answer.status !== 201) return;
      const { id } = answer.body.allocation;
      // Some leave before their host has seen them, some while it starts them, some later.
      if (index % 3 === 0) await site.untilStatus(person, id, 'active');
      if (index % 4 !== 1) {
        const released = await site.as(person, 'POST', `/api/v1/allocations/${id}/release`);
        statuses.add(released.status);
      }
    };
    await Promise.all(Array.from({ length: 40 }, (_, index) => attempt(index)));
    expect([...statuses].sort()).toEqual([201, 202, 409]);

    const ids = [...nodes, ...metal].map(({ nodeId }) => nodeId);
    await until(async () => {
      const moving = await site.db
        .selectFrom('allocations')
        .select('id')
        .where('node_id', 'in', ids)
        .where('status', 'in', ['requested', 'provisioning', 'releasing'])
        .execute();
      return moving.length === 0;
    });
    const claims = await site.db
      .selectFrom('placement_claims')
      .innerJoin('allocations', 'allocations.id', 'placement_claims.allocation_id')
      .select(['slot_id', 'placement_claims.node_id', 'kind', 'placement_claims.status', 'allocations.gpus_total'])
      .select('allocations.id as allocation_id')
      .where('placement_claims.node_id', 'in', ids)
      .where('placement_claims.released_at', 'is', null)
      .execute();
    const slots = await site.db
      .selectFrom('gpuaas_node_resource_slots')
      .select(['id', 'node_id', 'status', 'claimed_by'])
      .where('node_id', 'in', ids)
      .execute();
    const ofSlots = claims.filter((claim) => claim.kind === 'slot');
    expect(new Set(ofSlots.map((claim) => claim.slot_id)).size).toBe(ofSlots.length);
    for (const nodeId of ids) {
      const kinds = new Set(claims.filter((claim) => claim.node_id === nodeId).map((claim) => claim.kind));
      expect(kinds.size).toBeLessThanOrEqual(1);
    }
    for (const slot of slots) {
      const claim = ofSlots.find((one) => one.slot_id === slot.id);
      expect([slot.status, slot.claimed_by]).toEqual([
        claim === undefined ? 'available' : claim.status,
        claim?.allocation_id ?? null,
      ]);
    }
    for (const { allocation_id: id, gpus_total: gpus } of ofSlots) {
      const own = ofSlots.filter((claim) => claim.allocation_id === id);
      expect(own).toHaveLength(gpus);
      expect(new Set(own.map((claim) => claim.node_id)).size).toBe(1);
    }
    const room = await site.db
      .selectFrom('node_slice_room')
      .select(['node_id', 'free', 'taken'])
      .where('node_id', 'in', ids)
      .execute();
    expect(room).toHaveLength(nodes.length);
    for (const { node_id: nodeId, free, taken } of room) {
      const own = slots.filter((slot) => slot.node_id === nodeId);
      expect([free, taken]).toEqual([
        own.filter((slot) => slot.status === 'available').length,
        own.filter((slot) => slot.claimed_by !== null).length,
      ]);
    }
    const counted = await site.db.selectFrom('nodes').select(['id', 'open_claims']).where('id', 'in', ids).execute();
    for (const node of counted) {
      expect(node.open_claims).toBe(claims.filter((claim) => claim.node_id === node.id).length);
    }
  });
});
