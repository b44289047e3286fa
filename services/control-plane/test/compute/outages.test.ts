import { createLogger, ManualClock } from '@gpuaas/kernel';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { jobContext } from '../../src/spine/periodic-jobs.js';
import { enroll, hostKeys } from '../fleet/hosts.js';
import { until } from '../harness/waiting.js';
import { type ComputeSite, startComputeSite } from './site-with-hosts.js';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const log = createLogger({ program: 'test', level: 'silent' });

let clock: ManualClock;
let site: ComputeSite;
beforeEach(async () => {
  clock = new ManualClock(new Date());
  // Without a worker: sweeps run when the test says so.
  site = await startComputeSite({ clock, roles: ['api'] });
});
afterEach(() => site?.stop());

/** One round of a worker: what is due is charged, then looked after. */
async function work(): Promise<void> {
  const { compute, finance } = site.controlPlane.domains;
  for (const job of [...(finance.periodicJobs ?? []), ...(compute.periodicJobs ?? [])]) {
    await job.run(site.db, jobContext('work', { clock, log }), new AbortController().signal);
  }
}
/** Rounds as close to each other as listening without a pause asks for. */
async function workFor(minutes: number): Promise<void> {
  for (let left = minutes; left > 0; left -= 4) {
    clock.advance(Math.min(left, 4) * MINUTE);
    await work();
  }
}

async function serving(amountMinor = 10_000_000) {
  const { nodeId, agent } = await site.addHost();
  const person = await site.customer({ amountMinor });
  const { id } = (await site.launch(person, { node_id: nodeId })).body.allocation;
  await site.untilStatus(person, id, 'active');
  await agent.stop();
  return { nodeId, person, id };
}
const statusOf = async (id: string) =>
  (await site.db.selectFrom('allocations').select('status').where('id', '=', id).executeTakeFirstOrThrow()).status;

it('hosts count as lost for what a control plane heard, not for the time that it was away itself', async () => {
  const { id } = await serving();
  await work();
  clock.advance(2 * HOUR);
  await work();
  expect(await statusOf(id)).toBe('active');
  await workFor(29);
  expect(await statusOf(id)).toBe('active');
  await workFor(2);
  expect(await statusOf(id)).toBe('failed');
});

it('what was charged for a host that was gone is given back, and the books hold', async () => {
  const { nodeId, person, id } = await serving();
  const { active_at } = await site.db
    .selectFrom('allocations')
    .select('active_at')
    .where('id', '=', id)
    .executeTakeFirstOrThrow();
  // It was heard for ten minutes, which cost 600 of the 3600 an hour.
  const seen = new Date((active_at ?? new Date(0)).getTime() + 10 * MINUTE);
  await site.db.updateTable('node_heartbeats').set({ last_seen_at: seen }).where('node_id', '=', nodeId).execute();
  await workFor(45);
  expect(await statusOf(id)).toBe('failed');
  const wallet = await site.db
    .selectFrom('wallet_balances')
    .select('balance_minor')
    .where('user_id', '=', person.userId)
    .executeTakeFirstOrThrow();
  expect(wallet.balance_minor).toBe(10_000_000n - 600n);
  expect(await site.controlPlane.domains.finance.reconcile(site.db)).toEqual([]);
});

it('one allocation that cannot be swept does not hold up the others', async () => {
  const person = await site.customer();
  const launch = async () => {
    const nodeId = await site.addSilentHost();
    return (await site.launch(person, { node_id: nodeId })).body.allocation.id as string;
  };
  const [broken, sound] = [await launch(), await launch()];
  await site.db.updateTable('allocations').set({ node_id: null }).where('id', '=', broken).execute();
  clock.advance(31 * MINUTE);
  await work();
  expect(await statusOf(sound)).toBe('failed');
});

it('a release takes back a restart that the host has not heard of', async () => {
  const { person, id } = await serving();
  expect((await site.as(person, 'POST', `/api/v1/allocations/${id}/restart`)).status).toBe(202);
  expect((await site.as(person, 'POST', `/api/v1/allocations/${id}/release`)).status).toBe(202);
  const tasks = await site.db
    .selectFrom('node_tasks')
    .select(['task_type', 'status'])
    .where('subject_id', '=', id)
    .where('status', 'in', ['queued', 'dispatched'])
    .execute();
  expect(tasks).toEqual([{ task_type: 'allocation.deprovision_user', status: 'queued' }]);
});

it('a host cannot claim a newer set of keys than it was given', async () => {
  const nodeId = await site.addSilentHost();
  const person = await site.customer();
  const { id } = (await site.launch(person, { node_id: nodeId })).body.allocation;
  const task = await site.db
    .selectFrom('node_tasks')
    .select('id')
    .where('subject_id', '=', id)
    .executeTakeFirstOrThrow();
  const token = await internalTokenOf(nodeId);
  await until(async () => {
    const poll = await site.call({ path: `/internal/v1/nodes/${nodeId}/tasks/wait`, token });
    return poll.status === 200;
  });
  const answer = await site.call({
    method: 'POST',
    path: `/internal/v1/nodes/${nodeId}/tasks/${task.id}/result`,
    token,
    body: {
      status: 'success',
      completed_at: clock.now().toISOString(),
      output: {
        host: '127.0.0.1',
        port: 22,
        authorized_keys: { version: 2_000_000_000, count: 1, sha256: 'a'.repeat(64) },
      },
    },
  });
  expect([answer.status, answer.body]).toEqual([200, { ok: true }]);
  const row = await site.db
    .selectFrom('allocations')
    .select(['status', 'key_set_version', 'key_set_applied_version'])
    .where('id', '=', id)
    .executeTakeFirstOrThrow();
  expect(row).toEqual({ status: 'active', key_set_version: 1, key_set_applied_version: 1 });
});

async function internalTokenOf(nodeId: string): Promise<string> {
  const issued = await site.asOperator('POST', `/api/v1/admin/nodes/${nodeId}/enrollment-token`, {});
  if (issued.status !== 201) throw new Error(`no enrolment token: ${JSON.stringify(issued.body)}`);
  const { csr } = await hostKeys();
  const enrolled = await enroll(site, nodeId, csr, issued.body.enrollment_token);
  return enrolled.headers.get('x-node-internal-token') ?? '';
}
