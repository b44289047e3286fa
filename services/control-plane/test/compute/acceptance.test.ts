import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { until } from '../harness/waiting.js';
import { type ComputeSite, SKU, startComputeSite } from './site-with-hosts.js';

const statuses = (answers: readonly { status: number }[]) => answers.map((answer) => answer.status).sort();
const repeat = <Result>(count: number, run: (index: number) => Promise<Result>) =>
  Promise.all(Array.from({ length: count }, (_, index) => run(index)));

let site: ComputeSite;
beforeAll(async () => {
  site = await startComputeSite();
});
afterAll(() => site?.stop());

/** Each test uses a region of its own, so that none takes another's hosts. */
const inRegion = (region: string, sku: string = SKU) => ({ scheduler_request: { sku, region_code: region } });
const openClaims = async (column: 'node_id' | 'allocation_id', ids: readonly string[]) =>
  (
    await site.db
      .selectFrom('placement_claims')
      .select('id')
      .where(column, 'in', ids)
      .where('released_at', 'is', null)
      .execute()
  ).length;

describe('placement', () => {
  it('check 1: 30 parallel creates on 10 hosts place 10 on distinct hosts and refuse 20', async () => {
    const nodes = await repeat(10, () => site.addSilentHost({ region: 'check-1' }));
    const people = await repeat(3, () => site.customer());
    const answers = await repeat(30, (index) => {
      const person = people[index % people.length];
      if (!person) throw new Error('nobody');
      return site.launch(person, inRegion('check-1'));
    });
    expect(statuses(answers)).toEqual([...Array(10).fill(201), ...Array(20).fill(409)]);
    const placed = answers.filter((answer) => answer.status === 201).map((answer) => answer.body.allocation.node_id);
    expect(new Set(placed)).toEqual(new Set(nodes));
    for (const refused of answers.filter((answer) => answer.status === 409)) {
      expect(refused.body).toMatchObject({ code: 'sku_unavailable', details: { reason: 'no_capacity_in_region' } });
    }
    const held = await site.db.selectFrom('wallet_holds').select('allocation_id').execute();
    expect(held).toHaveLength(10);
  });

  it('check 2: one key, ten times in parallel, makes one workload; another body or no key is refused', async () => {
    await repeat(3, () => site.addSilentHost({ region: 'check-2' }));
    const person = await site.customer();
    const body = { sku: SKU, region_code: 'check-2', name: 'once' };
    const key = randomUUID();
    const submit = (payload: unknown, withKey?: string) =>
      site.as(person, 'POST', '/api/v1/launch/compute', payload, withKey);
    const answers = await repeat(10, () => submit(body, key));
    expect(new Set(answers.map((answer) => answer.status))).toEqual(new Set([202]));
    expect(new Set(answers.map((answer) => JSON.stringify(answer.body))).size).toBe(1);
    const list = await site.as(person, 'GET', '/api/v1/allocations');
    expect(list.body.items).toHaveLength(1);
    expect(list.body.items[0].id).toBe(answers[0]?.body.workload_id);

    const other = await submit({ ...body, name: 'twice' }, key);
    expect(other.status).toBe(409);
    expect(other.body.details.reason).toBe('idempotency_key_reused');
    const without = await submit(body);
    expect(without.status).toBe(400);
    expect(without.body.details.reason).toBe('idempotency_key_required');

    const task = await site.as(person, 'GET', `/api/v1/tasks/${answers[0]?.body.task_id}`);
    expect(task.body.task).toMatchObject({ kind: 'launch', resource_id: answers[0]?.body.workload_id });
  });

  it('check 3: five parallel creates under a limit of two make two', async () => {
    await repeat(5, () => site.addSilentHost({ region: 'check-3' }));
    const person = await site.customer();
    await site.setLimit(2);
    try {
      const answers = await repeat(5, () => site.launch(person, inRegion('check-3')));
      expect(statuses(answers)).toEqual([201, 201, 409, 409, 409]);
      for (const refused of answers.filter((answer) => answer.status === 409)) {
        expect(refused.body.code).toBe('allocation_concurrency_limit');
      }
      const limits = await site.as(person, 'GET', '/api/v1/allocations/limits');
      expect(limits.body).toEqual({
        max_concurrent_allocations: 2,
        current_concurrent_allocations: 2,
        available_allocation_slots: 0,
      });
    } finally {
      await site.setLimit(50);
    }
  });

  it('check 4: five asked for and three free make three', async () => {
    await repeat(3, () => site.addSilentHost({ region: 'check-4' }));
    const person = await site.customer();
    const answer = await site.launch(person, { requested_count: 5, ...inRegion('check-4') });
    expect(answer.status).toBe(201);
    expect(answer.body).toMatchObject({ requested_count: 5, created_count: 3, failed_count: 2 });
    const held = await site.db
      .selectFrom('wallet_holds')
      .select('allocation_id')
      .where('user_id', '=', person.userId)
      .execute();
    expect(held.map((hold) => hold.allocation_id).sort()).toEqual(
      answer.body.allocations.map((allocation: { id: string }) => allocation.id).sort(),
    );
  });

  it('check 5: an empty wallet gets nothing, and the precheck says what to do', async () => {
    const nodeId = await site.addSilentHost({ region: 'check-5' });
    const person = await site.customer({ amountMinor: 0 });
    const refused = await site.launch(person, inRegion('check-5'));
    expect(refused.status).toBe(409);
    expect(refused.body.code).toBe('insufficient_balance');
    expect(await openClaims('node_id', [nodeId])).toBe(0);
    const holds = await site.db
      .selectFrom('wallet_holds')
      .select('allocation_id')
      .where('user_id', '=', person.userId)
      .execute();
    expect(holds).toEqual([]);

    const precheck = await site.as(person, 'POST', '/api/v1/launch/compute/precheck', {
      sku: SKU,
      region_code: 'check-5',
    });
    expect(precheck.status).toBe(200);
    expect(precheck.body).toMatchObject({ ready: false, severity: 'blocker' });
    const balance = precheck.body.checks.find((check: { id: string }) => check.id === 'balance');
    expect(balance).toMatchObject({ status: 'blocker', inline_action_kind: 'add_funds' });

    await site.credit(person, 3600);
    const again = await site.as(person, 'POST', '/api/v1/launch/compute/precheck', {
      sku: SKU,
      region_code: 'check-5',
    });
    expect(again.body).toMatchObject({
      ready: true,
      estimate: { hourly_rate: { amount_minor: 3600, currency: 'USD' } },
    });
    expect((await site.launch(person, inRegion('check-5'))).status).toBe(201);
  });

  it('an unknown SKU is a blocker of the precheck and a 400 of the launch', async () => {
    const person = await site.customer();
    const precheck = await site.as(person, 'POST', '/api/v1/launch/compute/precheck', { sku: 'nothing' });
    expect(precheck.status).toBe(200);
    expect(precheck.body.ready).toBe(false);
    expect(precheck.body.estimate.hourly_rate).toBeNull();
    const launch = await site.as(person, 'POST', '/api/v1/launch/compute', { sku: 'nothing' }, randomUUID());
    expect(launch.status).toBe(400);
    expect(launch.body.code).toBe('sku_not_found');
  });

  it('a named host is taken or refused with the reason', async () => {
    const nodeId = await site.addSilentHost({ region: 'named' });
    const person = await site.customer();
    expect((await site.launch(person, { node_id: randomUUID() })).body.code).toBe('node_not_found');
    expect((await site.launch(person, { node_id: nodeId, requested_count: 2 })).status).toBe(400);
    const taken = await site.launch(person, { node_id: nodeId });
    expect(taken.body.allocation.node_id).toBe(nodeId);
    const inUse = await site.launch(person, { node_id: nodeId });
    expect([inUse.status, inUse.body.code]).toEqual([409, 'node_in_use']);
    const stale = await site.addSilentHost({ region: 'named' });
    await site.db
      .updateTable('node_heartbeats')
      .set({ last_seen_at: new Date(Date.now() - 91_000) })
      .where('node_id', '=', stale)
      .execute();
    const offline = await site.launch(person, { node_id: stale });
    expect([offline.status, offline.body.code]).toEqual([409, 'node_offline']);
    const blocked = await site.launch(person, inRegion('named'));
    expect(blocked.body).toMatchObject({ code: 'sku_unavailable', details: { reason: 'readiness_blocked' } });
  });

  it('check 15: a group of three required members on two hosts creates nothing', async () => {
    const nodes = await repeat(2, () => site.addSilentHost({ region: 'check-15' }));
    const person = await site.customer();
    const create = (count: number) =>
      site.as(person, 'POST', `/api/v1/projects/${person.projectId}/allocation-groups`, {
        display_name: 'trainers',
        group_kind: 'cluster',
        sku: SKU,
        scheduler_type: 'slurm',
        member_intents: [{ requested_count: count, required: true }],
        scheduler_request: { region_code: 'check-15' },
      });
    const refused = await create(3);
    expect([refused.status, refused.body.code]).toEqual([409, 'sku_unavailable']);
    expect(await openClaims('node_id', nodes)).toBe(0);
    const groups = await site.as(person, 'GET', `/api/v1/projects/${person.projectId}/allocation-groups`);
    expect(groups.body.items).toEqual([]);

    const made = await create(2);
    expect(made.status).toBe(202);
    expect(made.body).toMatchObject({ requested_member_count: 2, created_member_count: 2 });
    expect(made.body.allocation_group).toMatchObject({ status: 'requested', required_member_count: 2 });
    const released = await site.as(
      person,
      'POST',
      `/api/v1/projects/${person.projectId}/allocation-groups/${made.body.allocation_group.id}/release`,
    );
    expect(released.status).toBe(202);
    // no host had seen the launches: they end at once
    expect(released.body).toMatchObject({
      release_requested_member_count: 2,
      allocation_group: { status: 'released' },
    });
    expect(await openClaims('node_id', nodes)).toBe(0);
  });
});

describe('failure and cleanup', () => {
  it('a launch that no host has seen is released at once, and its host is free again', async () => {
    const nodeId = await site.addSilentHost({ region: 'unseen' });
    const person = await site.customer();
    const { id } = (await site.launch(person, inRegion('unseen'))).body.allocation;
    const released = await site.as(person, 'POST', `/api/v1/allocations/${id}/release`);
    expect(released.body).toMatchObject({ allocation: { status: 'released' }, operation: { status: 'released' } });
    const holds = await site.db
      .selectFrom('wallet_holds')
      .select('allocation_id')
      .where('allocation_id', '=', id)
      .execute();
    expect(holds).toEqual([]);
    expect((await site.launch(person, { node_id: nodeId })).status).toBe(201);
  });

  it('a launch that fails on its host is taken away, and its host is free again', async () => {
    const { nodeId } = await site.addHost({
      region: 'fails-once',
      faults: [{ id: 'one', task: 'allocation.provision_user', times: 1, fail: 'disk is full' }],
    });
    const person = await site.customer();
    const { id } = (await site.launch(person, { node_id: nodeId })).body.allocation;
    const failed = await site.untilStatus(person, id, 'failed');
    expect(failed.failure_reason).toBe('injected_fault');
    await until(async () => (await openClaims('allocation_id', [id])) === 0);
    const again = (await site.launch(person, { node_id: nodeId })).body.allocation;
    await site.untilStatus(person, again.id, 'active');
  });

  it('check 8: what cannot be proven to be gone keeps its host until a person vouches for it', async () => {
    const { nodeId, agent } = await site.addHost({
      region: 'check-8',
      faults: [
        { id: 'launch', task: 'allocation.provision_user', fail: 'no' },
        { id: 'teardown', task: 'allocation.deprovision_user', fail: 'no' },
      ],
    });
    const person = await site.customer();
    const { id } = (await site.launch(person, { node_id: nodeId })).body.allocation;
    await site.untilStatus(person, id, 'failed');
    await until(async () => {
      const claim = await site.db
        .selectFrom('placement_claims')
        .select('status')
        .where('allocation_id', '=', id)
        .executeTakeFirst();
      return claim?.status === 'failed';
    });
    expect((await site.launch(person, { node_id: nodeId })).body.code).toBe('node_in_use');
    expect((await site.launch(person, inRegion('check-8'))).body.code).toBe('sku_unavailable');

    const cleanup = (verified: boolean) =>
      site.asOperator('POST', `/api/v1/admin/allocations/${id}/force-cleanup`, {
        reason: 'looked at the host',
        runtime_verified_absent: verified,
      });
    // check 9: a host that responds has to prove it itself
    const responding = await cleanup(true);
    expect([responding.status, responding.body.code]).toEqual([409, 'node_in_use']);
    await agent.stop();
    await site.db
      .updateTable('node_heartbeats')
      .set({ last_seen_at: new Date(Date.now() - 91_000) })
      .where('node_id', '=', nodeId)
      .execute();
    expect((await cleanup(false)).status).toBe(400);
    const cleaned = await cleanup(true);
    expect(cleaned.status).toBe(200);
    expect(cleaned.body.allocation.status).toBe('released');
    expect((await cleanup(true)).status).toBe(409);

    await site.db
      .updateTable('node_heartbeats')
      .set({ last_seen_at: new Date() })
      .where('node_id', '=', nodeId)
      .execute();
    await site.db.updateTable('nodes').set({ status: 'active' }).where('id', '=', nodeId).execute();
    expect((await site.launch(person, { node_id: nodeId })).status).toBe(201);
  });

  it('check 10: a second release is refused, the same key gets the same answer, and a late success changes nothing', async () => {
    const { nodeId } = await site.addHost({
      region: 'check-10',
      faults: [{ id: 'slow', task: 'allocation.provision_user', delayMilliseconds: 300 }],
    });
    const person = await site.customer();
    const { id } = (await site.launch(person, { node_id: nodeId })).body.allocation;
    const provisioning = await site.untilStatus(person, id, 'provisioning');
    expect(provisioning).toMatchObject({
      placement_status: 'provisioning',
      provisioning_started_at: expect.any(String),
    });
    const key = randomUUID();
    const first = await site.as(person, 'POST', `/api/v1/allocations/${id}/release`, undefined, key);
    expect(first.status).toBe(202);
    const replayed = await site.as(person, 'POST', `/api/v1/allocations/${id}/release`, undefined, key);
    expect([replayed.status, replayed.body]).toEqual([202, first.body]);
    const second = await site.as(person, 'POST', `/api/v1/allocations/${id}/release`);
    expect([second.status, second.body.code]).toEqual([409, 'allocation_already_releasing']);

    await site.untilStatus(person, id, 'released');
    const launchTask = await site.db
      .selectFrom('node_tasks')
      .select('status')
      .where('subject_id', '=', id)
      .where('task_type', '=', 'allocation.provision_user')
      .executeTakeFirstOrThrow();
    expect(launchTask.status).toBe('completed');
    const usage = await site.as(person, 'GET', '/api/v1/billing/usage');
    expect(usage.body.items).toEqual([]);
    expect((await site.as(person, 'POST', `/api/v1/allocations/${id}/release`)).body.code).toBe(
      'allocation_not_active',
    );
  });

  it('an operator may force a release and says why', async () => {
    const { nodeId } = await site.addHost({ region: 'forced' });
    const person = await site.customer();
    const { id } = (await site.launch(person, { node_id: nodeId })).body.allocation;
    await site.untilStatus(person, id, 'active');
    const forced = await site.asOperator('POST', `/api/v1/admin/allocations/${id}/force-release`, {
      reason: 'fire drill',
    });
    expect(forced.status).toBe(202);
    expect(forced.body.allocation.placement_claims).toHaveLength(1);
    await site.untilStatus(person, id, 'released');
    const rows = await site.db
      .selectFrom('audit_logs')
      .select(['action', 'metadata'])
      .where('target_id', '=', id)
      .where('action', '=', 'allocation.force_release')
      .execute();
    expect(rows).toHaveLength(1);
    const events = await site.db
      .selectFrom('outbox_events')
      .select('event_type')
      .where('aggregate_id', '=', id)
      .execute();
    expect(events.map((event) => event.event_type)).toEqual(
      expect.arrayContaining([
        'gpuaas.provisioning.requested',
        'gpuaas.provisioning.active',
        'gpuaas.provisioning.force_release_requested',
        'gpuaas.provisioning.releasing.requested',
        'gpuaas.provisioning.releasing.completed',
      ]),
    );
  });
});

describe('who may see and touch what', () => {
  it('check 11: a foreign allocation is unknown on every path', async () => {
    await site.addSilentHost({ region: 'check-11' });
    const owner = await site.customer();
    const stranger = await site.customer();
    const { id } = (await site.launch(owner, inRegion('check-11'))).body.allocation;
    const paths: [string, string, unknown?][] = [
      ['GET', ''],
      ['GET', '/timeline'],
      ['GET', '/access-grants'],
      ['POST', '/release'],
      ['POST', '/restart'],
      ['PUT', '/ssh-keys', { ssh_key_ids: [stranger.keyId] }],
      ['POST', '/access-grants', { grantee_user_id: stranger.userId, ssh_key_id: stranger.keyId }],
      ['DELETE', `/access-grants/${randomUUID()}`],
    ];
    for (const [method, path, body] of paths) {
      const foreign = await site.as(stranger, method, `/api/v1/allocations/${id}${path}`, body);
      expect([method, path, foreign.status, foreign.body.code]).toEqual([method, path, 404, 'allocation_not_found']);
      const unknown = await site.as(stranger, method, `/api/v1/allocations/${randomUUID()}${path}`, body);
      expect({ ...foreign.body, correlation_id: '' }).toEqual({ ...unknown.body, correlation_id: '' });
    }
    const inProject = await site.as(stranger, 'GET', `/api/v1/projects/${stranger.projectId}/allocations/${id}`);
    expect(inProject.body.code).toBe('allocation_not_found');
    const inOtherProject = await site.as(stranger, 'GET', `/api/v1/projects/${owner.projectId}/allocations/${id}`);
    expect(inOtherProject.status).toBe(403);
  });

  it('keys are replaced on the host, and the grantee of a key that is gone has lost it', async () => {
    const { nodeId } = await site.addHost({ region: 'keys' });
    const person = await site.customer();
    const { id } = (await site.launch(person, { node_id: nodeId })).body.allocation;
    await site.untilStatus(person, id, 'active');
    const put = await site.as(person, 'PUT', `/api/v1/v3/allocations/${id}/ssh-keys`, { ssh_key_ids: [person.keyId] });
    expect(put.status).toBe(200);
    expect(put.body.runtime_sync_queued).toBe(true);
    const plain = await site.as(person, 'PUT', `/api/v1/allocations/${id}/ssh-keys`, { ssh_key_ids: [person.keyId] });
    expect(plain.body.id).toBe(id);
    await until(async () => {
      const row = await site.db
        .selectFrom('allocations')
        .select(['key_set_version', 'key_set_applied_version'])
        .where('id', '=', id)
        .executeTakeFirstOrThrow();
      return row.key_set_version === 3 && row.key_set_applied_version === 3;
    });
    await site.call({ method: 'DELETE', path: `/api/v1/ssh-keys/${person.keyId}`, token: person.token });
    await until(async () => {
      const answer = await site.as(person, 'GET', `/api/v1/allocations/${id}`);
      return answer.body.ssh_keys.length === 0;
    });
    await until(async () => {
      const row = await site.db
        .selectFrom('allocations')
        .select('key_set_applied_version')
        .where('id', '=', id)
        .executeTakeFirstOrThrow();
      return row.key_set_applied_version === 4;
    });
  });
});
