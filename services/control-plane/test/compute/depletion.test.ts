import { createLogger, newId, systemClock } from '@gpuaas/kernel';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { publish } from '../../src/spine/outbox.js';
import { jobContext } from '../../src/spine/periodic-jobs.js';
import { inTransaction } from '../../src/spine/transaction.js';
import type { Person } from '../harness/site.js';
import { until } from '../harness/waiting.js';
import { type ComputeSite, startComputeSite } from './site-with-hosts.js';

const EVENT = 'gpuaas.provisioning.force_release_requested';
const HOUR_MINOR = 3600;
const ctx = jobContext('depletion-test', {
  clock: systemClock,
  log: createLogger({ program: 'test', level: 'silent' }),
});

let site: ComputeSite;
beforeAll(async () => {
  site = await startComputeSite();
});
afterAll(() => site?.stop());

async function serving(person: Person): Promise<string> {
  const { nodeId } = await site.addHost();
  const launched = await site.launch(person, { node_id: nodeId });
  expect([launched.status, launched.body.code]).toEqual([201, undefined]);
  await site.untilStatus(person, launched.body.allocation.id, 'active');
  return launched.body.allocation.id;
}
const statusOf = async (person: Person, id: string): Promise<string> =>
  (await site.as(person, 'GET', `/api/v1/allocations/${id}`)).body.status;

/** The sweep that a worker makes each minute. */
async function sweep(): Promise<void> {
  const jobs = site.controlPlane.domains.finance.periodicJobs ?? [];
  await jobs.find((job) => job.name === 'finance.depletion')?.run(site.db, ctx, new AbortController().signal);
}
const takeAllMoney = (person: Person, amountMinor: number) =>
  site.asOperator('POST', `/api/v1/admin/users/${person.userId}/balance`, {
    direction: 'debit',
    amount_minor: amountMinor,
    currency: 'USD',
    reason: 'test',
  });
const depleted = (person: Person) => `${person.tenantId}:${person.userId}:USD`;

async function untilHandled(aggregateId: string): Promise<void> {
  await until(
    async () => {
      const open = await site.db
        .selectFrom('outbox_events')
        .select('id')
        .where('event_type', '=', EVENT)
        .where('aggregate_id', '=', aggregateId)
        .where('status', '<>', 'published')
        .execute();
      return open.length === 0;
    },
    { what: 'the delivery of the request' },
  );
}

describe('the release of what a depleted wallet ran', () => {
  it('comes once, the ordinary way, on record, and reaches nobody else', async () => {
    const broke = await site.customer({ amountMinor: HOUR_MINOR });
    const neighbour = await site.customer();
    const id = await serving(broke);
    const theirs = await serving(neighbour);
    expect((await takeAllMoney(broke, HOUR_MINOR)).status).toBe(200);

    for (let round = 0; round < 4; round += 1) await sweep();
    await site.untilStatus(broke, id, 'released');
    await untilHandled(depleted(broke));
    expect(await statusOf(neighbour, theirs)).toBe('active');

    const audit = await site.db
      .selectFrom('audit_logs')
      .select(['actor_role', 'target_user_id', 'metadata'])
      .where('target_id', '=', id)
      .where('action', '=', 'allocation.force_release')
      .execute();
    expect(audit).toMatchObject([
      { actor_role: 'system', target_user_id: broke.userId, metadata: { from: 'active', reason: 'wallet_depleted' } },
    ]);
    const releases = await site.db
      .selectFrom('allocation_operations')
      .select(['status', 'reason'])
      .where('allocation_id', '=', id)
      .where('kind', '=', 'release')
      .execute();
    expect(releases).toEqual([{ status: 'succeeded', reason: 'wallet_depleted' }]);
    const refused = await site.launch(broke);
    expect(refused.status).toBe(409);
    expect(refused.body.code).toBe('insufficient_balance');
  });

  it('spares who has paid before the request was heard, and what was launched after it', async () => {
    const person = await site.customer();
    const id = await serving(person);
    const ask = (requestedAt: Date) =>
      inTransaction(site.db, (tx) =>
        publish(tx, ctx, {
          type: EVENT,
          aggregateType: 'wallet',
          aggregateId: depleted(person),
          payload: {
            tenant_id: person.tenantId,
            user_id: person.userId,
            currency: 'USD',
            reason: 'wallet_depleted',
            requested_at: requestedAt.toISOString(),
          },
        }),
      );
    await ask(new Date());
    await untilHandled(depleted(person));
    expect(await statusOf(person, id)).toBe('active');

    const posture = { posture: 'depleted', since: new Date(), updated_at: new Date() } as const;
    await site.db
      .insertInto('wallet_postures')
      .values({ tenant_id: person.tenantId, user_id: person.userId, currency: 'USD', ...posture })
      .onConflict((conflict) => conflict.columns(['tenant_id', 'user_id', 'currency']).doUpdateSet(posture))
      .execute();
    await ask(new Date(Date.now() - 3_600_000));
    await untilHandled(depleted(person));
    expect(await statusOf(person, id)).toBe('active');
  });

  it('is not what an operator asks for who forces the release of one allocation', async () => {
    const person = await site.customer();
    const [one, other] = [await serving(person), await serving(person)];
    const forced = await site.asOperator('POST', `/api/v1/admin/allocations/${one}/force-release`, { reason: 'drill' });
    expect(forced.status).toBe(202);
    await site.untilStatus(person, one, 'released');
    await untilHandled(one);
    expect(await statusOf(person, other)).toBe('active');
  });
});

it('a request that cannot be read is kept for an operator, and releases nothing', async () => {
  const person = await site.customer();
  const id = await serving(person);
  const aggregateId = newId();
  await inTransaction(site.db, (tx) =>
    publish(tx, ctx, { type: EVENT, aggregateType: 'wallet', aggregateId, payload: { user_id: person.userId } }),
  );
  await until(
    async () => {
      const row = await site.db
        .selectFrom('outbox_events')
        .select('retry_count')
        .where('aggregate_id', '=', aggregateId)
        .executeTakeFirstOrThrow();
      return row.retry_count > 0;
    },
    { what: 'the first failed delivery' },
  );
  expect(await statusOf(person, id)).toBe('active');
});
