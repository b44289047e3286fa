import type { Clock } from '@gpuaas/kernel';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { type ComputeSite, startComputeSite } from '../compute/site-with-hosts.js';
import { untilSomebodyWaits } from './locks.js';

// Times that are read while others go on: what is on record must be in the order in which it happened.

/** Shows another millisecond each time it is asked, as a busy machine does. */
class RestlessClock implements Clock {
  #shown = 0;

  now(): Date {
    this.#shown = Math.max(this.#shown + 1, Date.now());
    return new Date(this.#shown);
  }
}

let site: ComputeSite;
beforeEach(async () => {
  site = await startComputeSite({ clock: new RestlessClock() });
});
afterEach(() => site.stop());

it('bills from the very moment of activation to the very moment at which the release was accepted', async () => {
  await site.addHost();
  const person = await site.customer();
  const { id } = (await site.launch(person)).body.allocation;
  await site.untilStatus(person, id, 'active');
  await site.as(person, 'POST', `/api/v1/allocations/${id}/release`);
  await site.untilStatus(person, id, 'released');
  const served = await site.db
    .selectFrom('allocations')
    .select(['active_at', 'releasing_at'])
    .where('id', '=', id)
    .executeTakeFirstOrThrow();
  const usage = await site.db
    .selectFrom('usage_records')
    .select(['start_time', 'end_time'])
    .where('allocation_id', '=', id)
    .executeTakeFirstOrThrow();
  expect(usage).toEqual({ start_time: served.active_at, end_time: served.releasing_at });
});

it('dates a claim after the end of the one before it, however long ago the launch began', async () => {
  await site.addHost();
  const [first, second] = [await site.customer(), await site.customer()];
  const { id } = (await site.launch(first)).body.allocation;
  await site.untilStatus(first, id, 'active');

  // The second launch has begun and waits for its wallet while the first one goes.
  const launched = await site.db.transaction().execute(async (tx) => {
    await tx.selectFrom('wallet_balances').select('user_id').where('user_id', '=', second.userId).forUpdate().execute();
    const launching = site.launch(second);
    await untilSomebodyWaits(site.databaseUrl);
    await site.as(first, 'POST', `/api/v1/allocations/${id}/release`);
    await site.untilStatus(first, id, 'released');
    return { launching };
  });
  expect((await launched.launching).status).toBe(201);

  const claims = await site.db
    .selectFrom('placement_claims')
    .select(['created_at', 'released_at'])
    .orderBy('id')
    .execute();
  expect(claims).toHaveLength(2);
  expect(claims[1]?.created_at.getTime()).toBeGreaterThanOrEqual(claims[0]?.released_at?.getTime() ?? Number.NaN);
});
