import { asId, newId } from '@gpuaas/kernel';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { createDepletionWatch } from '../../src/domains/finance/depletion.js';
import { type PolicyKey, policies, setPolicyValue } from '../../src/spine/policy-registry.js';
import { inTransaction } from '../../src/spine/transaction.js';
import { type Books, type Owner, openBooks } from './books.js';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

let books: Awaited<ReturnType<typeof openBooks>>;
beforeAll(async () => {
  books = await openBooks();
});
afterEach(async () => {
  const running = await books.db
    .selectFrom('usage_records')
    .select('allocation_id')
    .where('end_time', 'is', null)
    .execute();
  for (const { allocation_id } of running) if (allocation_id) await books.stop(asAllocation(allocation_id));
});
afterAll(() => books.close());

type AllocationIdOf = Parameters<Books['stop']>[0];
const asAllocation = (id: string): AllocationIdOf => asId(id);

/** A minute passes as it does on a site: rated, then swept. */
async function pass(milliseconds: number): Promise<void> {
  books.clock.advance(milliseconds);
  await books.rate();
  await books.sweep();
}

async function eventsOf(owner: Owner): Promise<readonly string[]> {
  const rows = await books.db
    .selectFrom('outbox_events')
    .select('event_type')
    .where('aggregate_type', '=', 'wallet')
    .where('aggregate_id', '=', `${owner.tenantId}:${owner.userId}:${owner.currency}`)
    .orderBy('seq')
    .execute();
  return rows.map((row) => row.event_type.split('.').slice(-1)[0] ?? '');
}

async function postureOf(owner: Owner): Promise<string | undefined> {
  const row = await books.db
    .selectFrom('wallet_postures')
    .select('posture')
    .where('user_id', '=', owner.userId)
    .where('currency', '=', owner.currency)
    .executeTakeFirst();
  return row?.posture;
}

async function restrictionOf(owner: Owner): Promise<string | undefined> {
  const row = await books.db
    .selectFrom('financial_restrictions')
    .select('state')
    .where('scope_id', '=', owner.userId)
    .where('source', '=', 'depletion')
    .executeTakeFirst();
  return row?.state;
}

async function topUp(owner: Owner, amountMinor: bigint): Promise<void> {
  await books.credit(owner, amountMinor);
  const watch = createDepletionWatch({ policies });
  await inTransaction(books.db, (tx) => watch.afterCredit(tx, books.ctx, owner));
}

function setPolicy(key: PolicyKey, owner: Owner, value: string | boolean | number): Promise<void> {
  return inTransaction(books.db, (tx) =>
    setPolicyValue(tx, books.ctx, { key, scope: 'tenant', scopeId: owner.tenantId, value }),
  );
}

describe('a prepaid wallet that runs dry', () => {
  it('is warned, announced, depleted and its work released, each told once', async () => {
    const owner = books.newOwner();
    await books.credit(owner, 1_000n);
    await books.start(owner, { unitPriceMinor: 200n });
    await pass(MINUTE);
    expect(await postureOf(owner)).toBeUndefined();

    await pass(3 * HOUR);
    await pass(MINUTE);
    expect(await postureOf(owner)).toBe('low_balance');
    await pass(HOUR + 10 * MINUTE);
    await pass(MINUTE);
    expect(await postureOf(owner)).toBe('auto_release_pending');
    expect(await restrictionOf(owner)).toBe('at_risk');
    await pass(HOUR);
    await pass(MINUTE);
    expect(await postureOf(owner)).toBe('depleted');
    expect(await restrictionOf(owner)).toBe('restricted');
    expect(await eventsOf(owner)).toEqual([
      'low_balance_warning',
      'auto_release_pending',
      'balance_depleted',
      'force_release_requested',
    ]);
    const transitions = await books.db
      .selectFrom('posture_transitions')
      .select(['from_posture', 'to_posture', 'selected_action'])
      .where('user_id', '=', owner.userId)
      .orderBy('created_at')
      .execute();
    expect(transitions).toEqual([
      { from_posture: 'healthy', to_posture: 'low_balance', selected_action: '' },
      { from_posture: 'low_balance', to_posture: 'auto_release_pending', selected_action: '' },
      { from_posture: 'auto_release_pending', to_posture: 'depleted', selected_action: 'force_release' },
    ]);
  });

  it('gets its notice before its depletion, also when the sweep comes too late for one', async () => {
    const owner = books.newOwner();
    await books.credit(owner, 100n);
    await books.start(owner, { unitPriceMinor: 100n });
    await pass(9 * HOUR);
    expect(await eventsOf(owner)).toEqual(['auto_release_pending']);
    await pass(MINUTE);
    expect(await eventsOf(owner)).toEqual(['auto_release_pending', 'balance_depleted', 'force_release_requested']);
  });

  it('is asked again for the release of what still runs, and no more once nothing does', async () => {
    const owner = books.newOwner();
    const allocation = await books.start(owner, { unitPriceMinor: 100n });
    const requests = async () => (await eventsOf(owner)).filter((event) => event === 'force_release_requested').length;
    await pass(HOUR);
    await pass(MINUTE);
    expect(await requests()).toBe(1);
    await pass(10 * MINUTE);
    expect(await requests()).toBe(1);
    await pass(5 * MINUTE);
    expect(await requests()).toBe(2);
    await books.stop(allocation);
    await pass(HOUR);
    expect(await requests()).toBe(2);
    expect(await postureOf(owner)).toBe('depleted');
  });

  it('is healthy again with the top-up itself, without waiting for the sweep', async () => {
    const owner = books.newOwner();
    await books.start(owner, { unitPriceMinor: 100n });
    await pass(HOUR);
    await pass(MINUTE);
    expect(await postureOf(owner)).toBe('depleted');
    await topUp(owner, 100_000n);
    expect(await postureOf(owner)).toBe('healthy');
    expect(await restrictionOf(owner)).toBe('healthy');
    expect((await eventsOf(owner)).at(-1)).toBe('restored');
  });

  it('keeps the person restricted while another of their wallets is dry', async () => {
    const owner = books.newOwner();
    const euros = { ...owner, currency: 'EUR' };
    await books.start(owner, { unitPriceMinor: 100n });
    await books.start(euros, { unitPriceMinor: 100n });
    await pass(HOUR);
    await pass(MINUTE);
    await topUp(owner, 100_000n);
    expect(await postureOf(owner)).toBe('healthy');
    expect(await restrictionOf(owner)).toBe('restricted');
    await topUp(euros, 100_000n);
    expect(await restrictionOf(owner)).toBe('healthy');
  });
});

describe('the action at depletion', () => {
  const actionOf = async (owner: Owner) => {
    await books.start(owner, { unitPriceMinor: 100n });
    await pass(3 * HOUR);
    await pass(MINUTE);
    const row = await books.db
      .selectFrom('posture_transitions')
      .select('selected_action')
      .where('user_id', '=', owner.userId)
      .where('to_posture', '=', 'depleted')
      .executeTakeFirst();
    return { action: row?.selected_action, events: await eventsOf(owner) };
  };

  it('only bars new work where the tenant has credit, once that is used up', async () => {
    const owner = books.newOwner();
    const now = books.clock.now();
    await books.db
      .insertInto('billing_accounts')
      .values({ id: newId(), tenant_id: owner.tenantId, credit_limit_minor: 250n, created_at: now, updated_at: now })
      .execute();
    const { action, events } = await actionOf(owner);
    expect(action).toBe('restrict');
    expect(events).not.toContain('force_release_requested');
    expect(await restrictionOf(owner)).toBe('restricted');
  });

  it('is what the site says where it says something', async () => {
    const owner = books.newOwner();
    await setPolicy('billing.depletion_action', owner, 'restrict');
    expect(await actionOf(owner)).toMatchObject({ action: 'restrict' });
  });

  it('comes without a low-balance warning where the site wants none', async () => {
    const owner = books.newOwner();
    await setPolicy('notification.low_balance_enabled', owner, false);
    await books.credit(owner, 500n);
    await books.start(owner, { unitPriceMinor: 100n });
    await pass(MINUTE);
    expect(await postureOf(owner)).toBe('low_balance');
    expect(await eventsOf(owner)).toEqual([]);
  });
});

describe('the sweep', () => {
  it('leaves alone who never had money and runs nothing', async () => {
    const owner = books.newOwner();
    await inTransaction(books.db, (tx) =>
      books.finance.fundsGate.hold(tx, { ...owner, allocationId: newId(), hourlyMinor: 5n }),
    );
    await pass(HOUR);
    expect(await postureOf(owner)).toBeUndefined();
  });

  it('reads shared wallets together: the money of one pays for the work of the other', async () => {
    const payer = books.newOwner();
    const worker = { ...books.newOwner(), tenantId: payer.tenantId };
    const now = books.clock.now();
    await books.db
      .insertInto('billing_accounts')
      .values({ id: newId(), tenant_id: payer.tenantId, wallet_scope: 'tenant', created_at: now, updated_at: now })
      .execute();
    await books.credit(payer, 10_000n);
    await books.start(worker, { unitPriceMinor: 100n });
    await pass(10 * HOUR);
    expect(await books.balanceOf(worker)).toBeLessThan(0n);
    expect(await postureOf(worker)).toBeUndefined();
    await pass(86 * HOUR);
    expect(await postureOf(worker)).toBe('low_balance');
    expect(await postureOf(payer)).toBeUndefined();
  });

  it('tells once when several sweeps meet', async () => {
    const owner = books.newOwner();
    await books.start(owner, { unitPriceMinor: 100n });
    books.clock.advance(HOUR);
    await books.rate();
    await Promise.all([books.sweep(), books.sweep(), books.sweep()]);
    const events = await eventsOf(owner);
    expect(events.filter((event) => event === 'auto_release_pending')).toHaveLength(1);
    expect(events.filter((event) => event === 'balance_depleted').length).toBeLessThanOrEqual(1);
  });
});
