import { asId, createLogger } from '@gpuaas/kernel';
import { parseSigningKeys, verifyTask } from '@gpuaas/node-protocol';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { jobContext } from '../../src/spine/periodic-jobs.js';
import { inTransaction } from '../../src/spine/transaction.js';
import { ManualClock } from '../harness/site.js';
import { until } from '../harness/waiting.js';
import { callOver, type FleetSite, startFleetSite, type TestHost } from './hosts.js';

let site: FleetSite;
const clock = new ManualClock(new Date('2026-11-20T12:00:00Z'));
const log = createLogger({ program: 'test', level: 'silent' });
beforeAll(async () => {
  site = await startFleetSite({ clock, roles: ['api'] });
});
afterAll(() => site?.stop());

const discover = async (nodeId: string) => {
  const answer = await site.asOperator('POST', `/api/v1/admin/nodes/${nodeId}/slice-topology/discovery`);
  expect(answer.status).toBe(202);
  return answer.body.item;
};
const latest = async (nodeId: string) =>
  (await site.asOperator('GET', `/api/v1/platform/lifecycle/nodes/${nodeId}/slice-topology/discovery`)).body.item;
/** What a worker does in its own time. */
const sweep = async (name: string) => {
  const job = site.controlPlane.domains.periodicJobs.find((one) => one.name === name);
  if (job === undefined) throw new Error(`no job ${name}`);
  await job.run(site.db, jobContext(name, { clock, log }), new AbortController().signal);
};
const topology = {
  schema_version: 1,
  host: {
    hostname: 'h',
    os: 'Debian 13',
    kernel: '6.12',
    architecture: 'x86_64',
    driver: '570',
    cuda: '12.8',
    cpu_model: null,
    vcpu_count: 8,
    memory_mib: 1024,
    numa: null,
    boot_id: null,
  },
  prerequisites: { kvm_available: null, iommu_group_count: null, iommu_kernel_args: null, vfio_available: null },
  slice_network: { bridge: null, ip_forwarding: null, nat: null },
  gpus: null,
  nvme: null,
  fabric: null,
  candidate_slots: [],
  blockers: [],
  warnings: [],
};

describe('polling', () => {
  it('holds an idle poll and answers 204 (check 5)', async () => {
    const host = await site.active();
    const started = performance.now();
    const answer = await host.wait();
    expect(answer.status).toBe(204);
    expect(performance.now() - started).toBeGreaterThan(150);
  });

  it('puts a node into service with its first poll, and the agent into the list (check 6)', async () => {
    const host = await site.enrolled();
    expect(await site.statusOf(host.nodeId)).toBe('enrolling');
    await host.wait({ 'x-agent-version': '1.2.3', 'x-agent-commit': 'abc', 'x-agent-boot-id': 'boot-1' });
    expect(await site.statusOf(host.nodeId)).toBe('active');
    const list = await site.asOperator('GET', '/api/v1/admin/nodes?status=active&page_size=200');
    const row = list.body.items.find((item: { id: string }) => item.id === host.nodeId);
    expect(row).toMatchObject({
      status: 'active',
      occupancy_status: 'available',
      agent_version: '1.2.3',
      agent_reported_at: clock.now().toISOString(),
      agent_lifecycle: { drift_state: 'unknown', reported_agent_version: '1.2.3' },
    });
  });

  it('hands a task that is queued meanwhile to the poll that waits', async () => {
    const slow = await startFleetSite({ clock, roles: ['api'], planes: 1, domains: { pollHoldMilliseconds: 30_000 } });
    try {
      const host = await slow.enrolled();
      const poll = host.wait();
      await until(() => slow.controlPlane.domains.fleet.heldPolls() === 1);
      const started = performance.now();
      await slow.asOperator('POST', `/api/v1/admin/nodes/${host.nodeId}/slice-topology/discovery`);
      expect((await poll).body.task_type).toBe('slice.topology_discover');
      expect(performance.now() - started).toBeLessThan(5_000);
    } finally {
      await slow.stop();
    }
  });

  it('wakes a poll that waits in another process, and ends polls when a process stops', async () => {
    const slow = await startFleetSite({ clock, roles: ['api'], planes: 1, domains: { pollHoldMilliseconds: 30_000 } });
    try {
      const host = await slow.enrolled();
      const other = await slow.startAnother();
      const wait = { path: `/internal/v1/nodes/${host.nodeId}/tasks/wait`, token: host.internalToken };
      const poll = callOver(other.apiUrl, wait);
      await until(() => other.domains.fleet.heldPolls() === 1);
      await slow.asOperator('POST', `/api/v1/admin/nodes/${host.nodeId}/slice-topology/discovery`);
      const { task_type: type, task_id: taskId } = (await poll).body;
      expect(type).toBe('slice.topology_discover');
      const last = callOver(other.apiUrl, { ...wait, headers: { 'x-agent-running-tasks': taskId } });
      await until(() => other.domains.fleet.heldPolls() === 1);
      await other.close();
      expect([204, 503]).toContain(
        await last.then(
          ({ status }) => status,
          () => 503,
        ),
      );
    } finally {
      await slow.stop();
    }
  });

  it('ends an earlier poll of the same node with 204', async () => {
    const slow = await startFleetSite({ clock, roles: ['api'], planes: 1, domains: { pollHoldMilliseconds: 2_000 } });
    try {
      const host = await slow.enrolled();
      const started = performance.now();
      const first = host.wait();
      await until(() => slow.controlPlane.domains.fleet.heldPolls() === 1);
      const second = host.wait();
      expect((await first).status).toBe(204);
      expect(performance.now() - started).toBeLessThan(1_900);
      expect((await second).status).toBe(204);
    } finally {
      await slow.stop();
    }
  });

  it('takes a silent node out of service and its next poll puts it back', async () => {
    const host = await site.active();
    clock.advance(90_000);
    await sweep('fleet.silent-nodes');
    expect(await site.statusOf(host.nodeId)).toBe('active');
    clock.advance(1);
    const probe = await site.asOperator('POST', `/api/v1/admin/nodes/${host.nodeId}/probe`);
    expect(probe.body).toEqual({ ok: false, status: 'offline' });
    expect(await site.statusOf(host.nodeId)).toBe('offline');
    await host.wait();
    expect(await site.statusOf(host.nodeId)).toBe('active');
    const again = await site.asOperator('POST', `/api/v1/platform/lifecycle/nodes/${host.nodeId}/probe`);
    expect(again.body).toEqual({ ok: true, status: 'active' });
    clock.advance(90_001);
    await sweep('fleet.silent-nodes');
    expect(await site.statusOf(host.nodeId)).toBe('offline');
    const events = await site.db
      .selectFrom('outbox_events')
      .select('payload')
      .where('aggregate_id', '=', host.nodeId)
      .where('event_type', '=', 'fleet.node.status_changed')
      .orderBy('seq')
      .execute();
    expect(events.map(({ payload }) => payload)).toMatchObject([
      { from: 'registered', to: 'bootstrap_issued' },
      { from: 'bootstrap_issued', to: 'enrolling' },
      { from: 'enrolling', to: 'active', cause: 'poll' },
      { from: 'active', to: 'offline', cause: 'go_silent' },
      { from: 'offline', to: 'active', cause: 'poll' },
      { from: 'active', to: 'offline' },
    ]);
  });

  it('forgets a bootstrap that nobody used', async () => {
    const nodeId = await site.register();
    await site.asOperator('POST', `/api/v1/admin/nodes/${nodeId}/enrollment-token`);
    await sweep('fleet.lapsed-tokens');
    expect(await site.statusOf(nodeId)).toBe('bootstrap_issued');
    clock.advance(900_000);
    await sweep('fleet.lapsed-tokens');
    expect(await site.statusOf(nodeId)).toBe('registered');
  });
});

describe('a task', () => {
  it('is one for two equal requests, signed, and its result is read back (check 7)', async () => {
    const host = await site.active();
    expect(await latest(host.nodeId)).toBeNull();
    const first = await discover(host.nodeId);
    const second = await discover(host.nodeId);
    expect(second.task_id).toBe(first.task_id);
    expect(first).toMatchObject({ status: 'queued', task_type: 'slice.topology_discover' });

    const task = await host.task('slice.topology_discover');
    expect(task.task_id).toBe(first.task_id);
    const issued = await site.asOperator('POST', `/api/v1/admin/nodes/${host.nodeId}/enrollment-token`);
    const keys = parseSigningKeys(issued.body.bootstrap_bundle.task_signing_pubkeys);
    if (!keys.ok) throw new Error(keys.problem);
    expect(verifyTask(task, keys.keys, { nodeId: host.nodeId, now: clock.now() }).ok).toBe(true);
    expect(
      verifyTask({ ...task, expires_at: '2099-01-01T00:00:00Z' }, keys.keys, { nodeId: host.nodeId, now: clock.now() }),
    ).toMatchObject({ ok: false, reason: 'bad_signature' });

    expect((await latest(host.nodeId)).status).toBe('dispatched');
    const result = await host.result(task.task_id, { output: topology });
    expect([result.status, result.body]).toEqual([200, { ok: true }]);
    const item = await latest(host.nodeId);
    expect(item).toMatchObject({ status: 'completed', output: topology, error: null });
    const facts = await site.db
      .selectFrom('node_facts')
      .select(['kernel', 'driver_version', 'cuda_version'])
      .where('node_id', '=', host.nodeId)
      .executeTakeFirstOrThrow();
    expect(facts).toEqual({ kernel: '6.12', driver_version: '570', cuda_version: '12.8' });
  });

  it('has one effect of a result that comes twice; another result is evidence (check 15)', async () => {
    const host = await site.active();
    const { task_id: taskId } = await discover(host.nodeId);
    await host.task('slice.topology_discover');
    const [one, two] = await Promise.all([
      host.result(taskId, { output: { warnings: [] } }),
      host.result(taskId, { output: { warnings: [] } }),
    ]);
    expect([one.body, two.body]).toEqual([{ ok: true }, { ok: true }]);
    const other = await host.result(taskId, { status: 'failed', error: 'changed my mind' });
    expect([other.status, other.body]).toEqual([200, { ok: false }]);
    await host.result(taskId, { status: 'failed', error: 'changed my mind' });
    expect((await latest(host.nodeId)).status).toBe('completed');
    const late = await site.db.selectFrom('node_task_late_results').selectAll().where('task_id', '=', taskId).execute();
    expect(late).toMatchObject([{ task_status: 'completed', reported_status: 'failed', error: 'changed my mind' }]);
    await expect(
      site.db.updateTable('node_task_late_results').set({ error: null }).where('task_id', '=', taskId).execute(),
    ).rejects.toThrow(/permission denied/);
  });

  it('is unknown to every other node', async () => {
    const [mine, other] = [await site.active(), await site.active()];
    const { task_id: taskId } = await discover(mine.nodeId);
    await mine.task('slice.topology_discover');
    const foreign = await other.result(taskId);
    expect([foreign.status, foreign.body.details.reason]).toEqual([404, 'task_not_found']);
    const impostor = await site.call({
      method: 'POST',
      path: `/internal/v1/nodes/${mine.nodeId}/tasks/${taskId}/result`,
      token: other.internalToken,
      body: { status: 'success', completed_at: '2026-11-20T12:00:00Z', output: {} },
    });
    expect(impostor.status).toBe(403);
  });

  it('has no result before it was handed out', async () => {
    const host = await site.active();
    const { task_id: taskId } = await discover(host.nodeId);
    expect((await host.result(taskId)).body).toEqual({ ok: false });
    expect((await latest(host.nodeId)).status).toBe('queued');
  });

  it('comes again with the same id when its lease is lost, and not while it is named as running', async () => {
    const host = await site.active();
    const { task_id: taskId } = await discover(host.nodeId);
    const first = await host.task('slice.topology_discover');
    clock.advance(100_000);
    expect((await host.wait({ 'x-agent-running-tasks': taskId })).status).toBe(204);
    clock.advance(100_000);
    await sweep('fleet.tasks');
    expect((await latest(host.nodeId)).status).toBe('dispatched');
    clock.advance(20_000);
    await sweep('fleet.tasks');
    expect((await latest(host.nodeId)).status).toBe('queued');
    const again = await host.task('slice.topology_discover');
    expect(again).toEqual(first);
    expect((await host.result(taskId)).body).toEqual({ ok: true });
  });

  it('expires in either live state, and whoever reports then is too late', async () => {
    const host = await site.active();
    const { task_id: taskId } = await discover(host.nodeId);
    await host.task('slice.topology_discover');
    clock.advance(15 * 60_000);
    await sweep('fleet.tasks');
    expect(await latest(host.nodeId)).toMatchObject({ status: 'expired', error: 'expired' });
    expect((await host.result(taskId)).body).toEqual({ ok: false });
  });

  it('is not too large to report', async () => {
    const host = await site.active();
    const { task_id: taskId } = await discover(host.nodeId);
    await host.task('slice.topology_discover');
    const large = await host.result(taskId, {
      output: Object.fromEntries(Array.from({ length: 20 }, (_unused, index) => [`k${index}`, 'x'.repeat(60_000)])),
    });
    expect([400, 413]).toContain(large.status);
    expect((await latest(host.nodeId)).status).toBe('dispatched');
  });

  it('leads to quarantine with the third refused signature in a row, not before', async () => {
    const host = await site.active();
    const refuse = async (reason: string) => {
      const { task_id: taskId } = await discover(host.nodeId);
      await host.task('slice.topology_discover');
      await host.result(taskId, { status: 'rejected', output: { reason } });
    };
    await refuse('bad_signature');
    await refuse('unknown_signing_key');
    await refuse('expired');
    await refuse('bad_signature');
    await refuse('bad_signature');
    expect(await site.statusOf(host.nodeId)).toBe('active');
    await refuse('bad_signature');
    expect(await site.statusOf(host.nodeId)).toBe('quarantined');
  });
});

describe('tasks that change the same thing', () => {
  const keys = (host: TestHost, allocationId: string, version: number) =>
    inTransaction(site.db, (tx) =>
      site.controlPlane.domains.fleet.queueNodeTask(tx, jobContext('test', { clock, log }), {
        nodeId: asId(host.nodeId),
        type: 'allocation.install_authorized_keys',
        params: { allocation_id: allocationId, username: 'someone', uid: 20_001, keys: [], key_set_version: version },
        operationId: null,
        subjectType: 'allocation',
        subjectId: allocationId,
      }),
    );
  const allocation = '0193f2d0-0000-7000-8000-00000000abcd';

  it('run one after the other; of those that nobody has seen only the newest stays', async () => {
    const host = await site.active();
    const unseen = await keys(host, allocation, 1);
    expect(await keys(host, allocation, 2)).toBe(unseen);
    const first = await host.task('allocation.install_authorized_keys');
    expect(first).toMatchObject({ task_id: unseen, params: { key_set_version: 2 } });

    const behind = await keys(host, allocation, 3);
    expect(behind).not.toBe(unseen);
    expect(await keys(host, allocation, 4)).toBe(behind);
    expect((await host.wait({ 'x-agent-running-tasks': first.task_id })).status).toBe(204);

    await host.result(first.task_id);
    const second = await host.task('allocation.install_authorized_keys');
    expect(second).toMatchObject({ task_id: behind, params: { key_set_version: 4 } });
    expect((await host.result(second.task_id)).body).toEqual({ ok: true });
  });

  it('can be taken back until a host has seen them', async () => {
    const host = await site.active();
    const withdraw = (taskId: Awaited<ReturnType<typeof keys>>) =>
      inTransaction(site.db, (tx) =>
        site.controlPlane.domains.fleet.withdrawNodeTask(tx, jobContext('test', { clock, log }), taskId),
      );
    const taskId = await keys(host, allocation, 1);
    expect(await withdraw(taskId)).toBe(true);
    expect(await withdraw(taskId)).toBe(false);
    expect((await host.wait()).status).toBe(204);
    const seen = await keys(host, allocation, 2);
    await host.task('allocation.install_authorized_keys');
    expect(await withdraw(seen)).toBe(false);
  });

  it('never show their params anywhere but to the host', async () => {
    const host = await site.active();
    await keys(host, allocation, 7);
    const rows = await site.db.selectFrom('node_tasks').selectAll().where('node_id', '=', asId(host.nodeId)).execute();
    expect(JSON.stringify(rows)).not.toContain('key_set_version');
    expect((await host.task('allocation.install_authorized_keys')).params.key_set_version).toBe(7);
  });
});
