import { systemClock } from '@gpuaas/kernel';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createFinanceDomain } from '../../src/domains/finance/index.js';
import { policies } from '../../src/spine/policy-registry.js';
import { type ComputeSite, SKU, startComputeSite } from '../compute/site-with-hosts.js';
import type { Person } from '../harness/site.js';
import { until } from '../harness/waiting.js';

let site: ComputeSite;
let hourlyMinor: number;
beforeAll(async () => {
  site = await startComputeSite();
  await site.addHosts(4);
  const skus = await site.asOperator('GET', '/api/v1/admin/skus');
  const sku = skus.body.items.find((item: { sku: string }) => item.sku === SKU);
  hourlyMinor = 8 * sku.unit_price.amount_minor;
});
afterAll(() => site?.stop());

const balanceOf = async (person: Person): Promise<number> =>
  (await site.as(person, 'GET', '/api/v1/billing/balance')).body.balance.amount_minor;
const allocationsOf = async (person: Person) =>
  (await site.as(person, 'GET', '/api/v1/allocations')).body.items.map((item: { id: string }) => item.id);
const holdsOf = (person: Person) =>
  site.db.selectFrom('wallet_holds').select('amount_minor').where('user_id', '=', person.userId).execute();
const reconcile = () => createFinanceDomain({ clock: systemClock, policies }).reconcile(site.db);

async function release(person: Person, allocationId: string): Promise<void> {
  const answer = await site.as(person, 'POST', `/api/v1/allocations/${allocationId}/release`);
  expect(answer.status).toBe(202);
  await site.untilStatus(person, allocationId, 'released');
}

describe('a launch and its money', () => {
  it('is refused to an empty wallet without a trace, and accepted once there is credit', async () => {
    const person = await site.customer({ amountMinor: 0 });
    expect(await site.launch(person)).toMatchObject({ status: 409, body: { code: 'insufficient_balance' } });
    expect(await allocationsOf(person)).toEqual([]);
    expect(await holdsOf(person)).toEqual([]);

    await site.credit(person, hourlyMinor - 1);
    expect((await site.launch(person)).status).toBe(409);
    await site.credit(person, 1);
    const launched = await site.launch(person);
    expect(launched.status).toBe(201);
    await site.untilStatus(person, launched.body.allocation.id, 'active');
    await release(person, launched.body.allocation.id);
  });

  it('passes at most three times out of ten at once where the money is for three', async () => {
    const person = await site.customer({ amountMinor: 3 * hourlyMinor });
    const answers = await Promise.all(Array.from({ length: 10 }, () => site.launch(person)));
    const accepted = answers.filter((answer) => answer.status === 201);
    expect(accepted.length).toBe(3);
    expect(answers.filter((answer) => answer.body.code === 'insufficient_balance')).toHaveLength(7);
    expect(await allocationsOf(person)).toHaveLength(3);
    for (const answer of accepted) {
      await site.untilStatus(person, answer.body.allocation.id, 'active');
      await release(person, answer.body.allocation.id);
    }
    expect(await holdsOf(person)).toEqual([]);
  });

  it('costs until its release and no longer: balance, usage and rated lines say one number', async () => {
    const credited = 10 * hourlyMinor;
    const person = await site.customer({ amountMinor: credited });
    const launched = await site.launch(person);
    const { id } = launched.body.allocation;
    await site.untilStatus(person, id, 'active');
    // Long enough to cost something at eight GPUs.
    const usage = async () => (await site.as(person, 'GET', `/api/v1/billing/usage?allocation_id=${id}`)).body.items[0];
    await until(async () => (await usage()).cost.amount_minor > 0);
    await release(person, id);

    const ended = await usage();
    expect(ended.end_time).not.toBeNull();
    expect(ended.last_billed_at).toBe(ended.end_time);
    const lines = (await site.as(person, 'GET', `/api/v1/billing/rated-usage?usage_record_id=${ended.id}`)).body.items;
    const rated = lines.reduce(
      (sum: number, line: { amount: { amount_minor: number } }) => sum + line.amount.amount_minor,
      0,
    );
    expect(rated).toBeGreaterThan(0);
    expect(ended.cost.amount_minor).toBe(rated);
    expect(credited - (await balanceOf(person))).toBe(rated);
    expect(await reconcile()).toEqual([]);
  });

  it('is barred by a restriction of the tenant, while what runs goes on and is released as ever', async () => {
    const person = await site.customer();
    const running = (await site.launch(person)).body.allocation.id;
    await site.untilStatus(person, running, 'active');
    const restrict = (state: string) =>
      site.asOperator('POST', `/api/v1/admin/billing/financial-restrictions/tenant/${person.tenantId}`, {
        state,
        reason: 'unpaid',
      });
    expect((await restrict('restricted')).status).toBe(200);
    expect(await site.launch(person)).toMatchObject({
      status: 403,
      body: { code: 'insufficient_permissions', details: { reason: 'financial_restriction' } },
    });
    expect((await site.as(person, 'GET', `/api/v1/allocations/${running}`)).body.status).toBe('active');
    await release(person, running);
    await restrict('healthy');
    const again = await site.launch(person);
    expect(again.status).toBe(201);
    await site.untilStatus(person, again.body.allocation.id, 'active');
    await release(person, again.body.allocation.id);
  });
});
