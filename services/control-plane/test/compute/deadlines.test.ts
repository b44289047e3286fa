import { createLogger, ManualClock } from '@gpuaas/kernel';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { jobContext } from '../../src/spine/periodic-jobs.js';
import { type ComputeSite, startComputeSite } from './site-with-hosts.js';

const MINUTE = 60_000;
const log = createLogger({ program: 'test', level: 'silent' });

let clock: ManualClock;
let site: ComputeSite;
beforeEach(async () => {
  clock = new ManualClock(new Date());
  // Without a worker: sweeps run when the test says so.
  site = await startComputeSite({ clock, roles: ['api'] });
});
afterEach(() => site?.stop());

async function sweep(): Promise<void> {
  for (const job of site.controlPlane.domains.compute.periodicJobs ?? []) {
    await job.run(site.db, jobContext('sweep', { clock, log }), new AbortController().signal);
  }
}

async function sweepFor(minutes: number): Promise<void> {
  for (let left = minutes; left > 0; left -= 4) {
    clock.advance(Math.min(left, 4) * MINUTE);
    await sweep();
  }
}

const openClaimsOf = (allocationId: string) =>
  site.db
    .selectFrom('placement_claims')
    .select('status')
    .where('allocation_id', '=', allocationId)
    .where('released_at', 'is', null)
    .execute();

it('a launch that its host never answered has failed, frees the limit and the money, and still occupies the host', async () => {
  const nodeId = await site.addSilentHost();
  const person = await site.customer();
  const { id } = (await site.launch(person, { node_id: nodeId })).body.allocation;
  await sweep();
  expect((await site.as(person, 'GET', `/api/v1/allocations/${id}`)).body.status).toBe('requested');

  clock.advance(31 * MINUTE);
  await sweep();
  const token = (
    await site.call({
      method: 'POST',
      path: '/api/v1/auth/token/refresh',
      body: { refresh_token: person.refreshToken },
    })
  ).body.access_token;
  const again = { ...person, token };
  const failed = await site.as(again, 'GET', `/api/v1/allocations/${id}`);
  expect(failed.body).toMatchObject({ status: 'failed', failure_reason: 'deadline_exceeded' });
  expect(await openClaimsOf(id)).toEqual([{ status: 'releasing' }]);
  const limits = await site.as(again, 'GET', '/api/v1/allocations/limits');
  expect(limits.body.current_concurrent_allocations).toBe(0);
  const holds = await site.db
    .selectFrom('wallet_holds')
    .select('allocation_id')
    .where('allocation_id', '=', id)
    .execute();
  expect(holds).toEqual([]);
});

it('a release that its host never proved has failed, and blocks the host until someone vouches for it', async () => {
  const { nodeId, agent } = await site.addHost();
  const person = await site.customer();
  const { id } = (await site.launch(person, { node_id: nodeId })).body.allocation;
  await site.untilStatus(person, id, 'active');
  await agent.stop();
  expect((await site.as(person, 'POST', `/api/v1/allocations/${id}/release`)).status).toBe(202);
  clock.advance(31 * MINUTE);
  await sweep();
  const row = await site.db
    .selectFrom('allocations')
    .select(['status', 'release_failed_reason'])
    .where('id', '=', id)
    .executeTakeFirstOrThrow();
  expect(row).toEqual({ status: 'release_failed', release_failed_reason: 'deadline_exceeded' });
  expect(await openClaimsOf(id)).toEqual([{ status: 'failed' }]);

  const usage = await site.db.selectFrom('usage_records').select('end_time').where('allocation_id', '=', id).execute();
  expect(usage).toHaveLength(1);
  expect(usage[0]?.end_time).not.toBeNull();
});

it('what serves on a host that went silent is lost after a while, billed to its last sign of life, and still occupies', async () => {
  const { nodeId, agent } = await site.addHost();
  const person = await site.customer();
  const { id } = (await site.launch(person, { node_id: nodeId })).body.allocation;
  await site.untilStatus(person, id, 'active');
  await agent.stop();
  const seen = await site.db
    .selectFrom('node_heartbeats')
    .select('last_seen_at')
    .where('node_id', '=', nodeId)
    .executeTakeFirstOrThrow();

  await sweep();
  await sweepFor(10);
  const statusNow = async () =>
    await site.db
      .selectFrom('allocations')
      .select(['status', 'failure_reason'])
      .where('id', '=', id)
      .executeTakeFirstOrThrow();
  expect(await statusNow()).toEqual({ status: 'active', failure_reason: null });

  await sweepFor(21);
  expect(await statusNow()).toEqual({ status: 'failed', failure_reason: 'runtime_lost' });
  expect(await openClaimsOf(id)).toHaveLength(1);
  const usage = await site.db
    .selectFrom('usage_records')
    .select('end_time')
    .where('allocation_id', '=', id)
    .executeTakeFirstOrThrow();
  expect(usage.end_time?.getTime()).toBeLessThanOrEqual(seen.last_seen_at.getTime() + 1000);
});
