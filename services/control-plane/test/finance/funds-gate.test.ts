import { type AllocationId, newId } from '@gpuaas/kernel';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { FundsDecision, FundsRequest } from '../../src/domains/finance/index.js';
import type {
  RestrictionScopeType,
  RestrictionSource,
  RestrictionState,
} from '../../src/domains/finance/rules/restriction.js';
import { setRestriction } from '../../src/domains/finance/store/restrictions.js';
import { inTransaction } from '../../src/spine/transaction.js';
import { type Owner, openBooks } from './books.js';

let books: Awaited<ReturnType<typeof openBooks>>;
beforeAll(async () => {
  books = await openBooks();
});
afterAll(() => books.close());

function requestOf(owner: Owner, hourlyMinor: bigint): FundsRequest {
  return {
    tenantId: owner.tenantId,
    userId: owner.userId,
    projectId: owner.projectId,
    hourlyMinor,
    currency: owner.currency,
  };
}

function hold(owner: Owner, hourlyMinor: bigint, allocationId: AllocationId = newId()): Promise<FundsDecision> {
  return inTransaction(books.db, (tx) =>
    books.finance.fundsGate.hold(tx, { ...requestOf(owner, hourlyMinor), allocationId }),
  );
}

const release = (allocationId: AllocationId) =>
  inTransaction(books.db, (tx) => books.finance.fundsGate.release(tx, allocationId));

async function heldBy(owner: Owner): Promise<readonly bigint[]> {
  const rows = await books.db
    .selectFrom('wallet_holds')
    .select('amount_minor')
    .where('user_id', '=', owner.userId)
    .execute();
  return rows.map((row) => row.amount_minor);
}

async function giveAccount(owner: Owner, account: { walletScope: 'user' | 'tenant'; creditLimitMinor: bigint }) {
  const now = books.clock.now();
  await books.db
    .insertInto('billing_accounts')
    .values({
      id: newId(),
      tenant_id: owner.tenantId,
      wallet_scope: account.walletScope,
      credit_limit_minor: account.creditLimitMinor,
      created_at: now,
      updated_at: now,
    })
    .execute();
}

function restrict(
  scopeType: RestrictionScopeType,
  scopeId: string,
  source: RestrictionSource,
  state: RestrictionState,
) {
  const change = { scopeType, scopeId, source, state, reason: 'test', metadata: {} };
  return inTransaction(books.db, (tx) => setRestriction(tx, books.ctx, change));
}

describe('the funds gate', () => {
  it('refuses an empty wallet, also of someone who never had one, and says what is missing', async () => {
    const owner = books.newOwner();
    expect(await hold(owner, 200n)).toEqual({
      allowed: false,
      code: 'insufficient_balance',
      reason: 'insufficient_funds',
      currency: 'USD',
      availableMinor: 0n,
      requiredMinor: 200n,
    });
    expect(await heldBy(owner)).toEqual([]);
  });

  it('lets what costs nothing pass with nothing, and holds nothing for it', async () => {
    const owner = books.newOwner();
    expect(await hold(owner, 0n)).toEqual({ allowed: true });
    expect(await heldBy(owner)).toEqual([]);
  });

  it('lets at most three of ten parallel launches pass where the money is for three', async () => {
    const owner = books.newOwner();
    await books.credit(owner, 3n * 800n + 799n);
    const decisions = await Promise.all(Array.from({ length: 10 }, () => hold(owner, 800n)));
    expect(decisions.filter((decision) => decision.allowed)).toHaveLength(3);
    expect(await heldBy(owner)).toEqual([800n, 800n, 800n]);
  });

  it('gives a released hour free for the next', async () => {
    const owner = books.newOwner();
    await books.credit(owner, 500n);
    const first: AllocationId = newId();
    expect((await hold(owner, 500n, first)).allowed).toBe(true);
    expect((await hold(owner, 1n)).allowed).toBe(false);
    await release(first);
    await release(first);
    expect((await hold(owner, 500n)).allowed).toBe(true);
  });

  it('counts a hold of the same allocation once', async () => {
    const owner = books.newOwner();
    await books.credit(owner, 500n);
    const allocation: AllocationId = newId();
    expect((await hold(owner, 300n, allocation)).allowed).toBe(true);
    expect((await hold(owner, 400n, allocation)).allowed).toBe(true);
    expect(await heldBy(owner)).toEqual([400n]);
  });

  it('keeps the hold of a rolled back launch no longer than the launch', async () => {
    const owner = books.newOwner();
    await books.credit(owner, 500n);
    const launch = inTransaction(books.db, async (tx) => {
      await books.finance.fundsGate.hold(tx, { ...requestOf(owner, 500n), allocationId: newId() });
      throw new Error('no capacity');
    });
    await expect(launch).rejects.toThrow('no capacity');
    expect((await hold(owner, 500n)).allowed).toBe(true);
  });

  it('counts what runs and is not yet charged, and ends a hold with its first charge', async () => {
    const owner = books.newOwner();
    await books.credit(owner, 2_000n);
    const running: AllocationId = newId();
    expect((await hold(owner, 1_000n, running)).allowed).toBe(true);
    await books.start(owner, { allocationId: running, unitPriceMinor: 1_000n });
    expect((await hold(owner, 1_000n, newId())).allowed).toBe(true);
    books.clock.advance(36_000);
    // 10 used, 2 × 1000 held
    expect(await hold(owner, 1n)).toMatchObject({ allowed: false, availableMinor: -10n });

    books.clock.advance(84_000);
    await books.rate();
    expect(await heldBy(owner)).toEqual([1_000n]);
    const asked = await books.finance.fundsGate.check(books.db, requestOf(owner, 968n));
    expect(asked).toMatchObject({ allowed: false, availableMinor: 967n });
    await books.stop(running);
  });

  it('ends the hold of an allocation that is released before it ran', async () => {
    const owner = books.newOwner();
    await books.credit(owner, 100n);
    const allocation: AllocationId = newId();
    await hold(owner, 100n, allocation);
    await books.stop(allocation);
    expect(await heldBy(owner)).toEqual([]);
  });

  it('previews without locking or reserving', async () => {
    const owner = books.newOwner();
    await books.credit(owner, 100n);
    await inTransaction(books.db, async (tx) => {
      await books.finance.fundsGate.hold(tx, { ...requestOf(owner, 100n), allocationId: newId() });
      expect(await books.finance.fundsGate.check(books.db, requestOf(owner, 100n))).toEqual({ allowed: true });
    });
    expect(await heldBy(owner)).toEqual([100n]);
  });

  it('takes several allocations together or none of them', async () => {
    const rich = books.newOwner();
    const poor = { ...books.newOwner(), tenantId: rich.tenantId };
    await books.credit(rich, 1_000n);
    await books.credit(poor, 10n);
    const holdMany = (owners: readonly Owner[], hourly: bigint) =>
      inTransaction(books.db, (tx) =>
        books.finance.fundsGate.holdMany(
          tx,
          owners.map((owner) => ({ ...requestOf(owner, hourly), allocationId: newId<'allocation'>() })),
        ),
      );
    expect(await holdMany([rich, rich, rich], 400n)).toMatchObject({ allowed: false, requiredMinor: 1_200n });
    expect(await holdMany([rich, poor], 400n)).toMatchObject({ allowed: false, requiredMinor: 400n });
    expect(await heldBy(rich)).toEqual([]);
    expect(await holdMany([rich, rich], 400n)).toEqual({ allowed: true });
    expect(await heldBy(rich)).toEqual([400n, 400n]);
  });

  it('lends what the account lends, and no more', async () => {
    const owner = books.newOwner();
    await giveAccount(owner, { walletScope: 'user', creditLimitMinor: 300n });
    expect((await hold(owner, 200n)).allowed).toBe(true);
    expect(await hold(owner, 101n)).toMatchObject({ allowed: false, availableMinor: 100n });
    expect((await hold({ ...owner, currency: 'EUR' }, 1n)).allowed).toBe(false);
  });

  it('counts the money of the whole tenant where its members share it, and shares it once', async () => {
    const one = books.newOwner();
    const two = { ...books.newOwner(), tenantId: one.tenantId };
    await giveAccount(one, { walletScope: 'tenant', creditLimitMinor: 0n });
    await books.credit(one, 1_000n);
    const decisions = await Promise.all(Array.from({ length: 8 }, (_, index) => hold(index % 2 ? one : two, 400n)));
    expect(decisions.filter((decision) => decision.allowed)).toHaveLength(2);
    const together = inTransaction(books.db, (tx) =>
      books.finance.fundsGate.holdMany(tx, [
        { ...requestOf(one, 150n), allocationId: newId() },
        { ...requestOf(two, 150n), allocationId: newId() },
      ]),
    );
    expect(await together).toMatchObject({ allowed: false, availableMinor: 200n, requiredMinor: 300n });
  });
});

describe('restrictions at the gate', () => {
  it.each(['user', 'tenant', 'project'] as const)(
    'bar a launch from a restricted %s whatever its money',
    async (scopeType) => {
      const owner = books.newOwner();
      await books.credit(owner, 1_000n);
      const scopeId = { user: owner.userId, tenant: owner.tenantId, project: owner.projectId }[scopeType];
      await restrict(scopeType, scopeId, 'operator', 'restricted');
      expect(await hold(owner, 100n)).toEqual({
        allowed: false,
        code: 'insufficient_permissions',
        reason: 'financial_restriction',
        scopeType,
        state: 'restricted',
      });
      await restrict(scopeType, scopeId, 'operator', 'at_risk');
      expect((await hold(owner, 100n)).allowed).toBe(true);
    },
  );

  it('leave each source its own word: lifting one does not lift the other', async () => {
    const owner = books.newOwner();
    await books.credit(owner, 1_000n);
    await restrict('user', owner.userId, 'operator', 'suspended');
    await restrict('user', owner.userId, 'chargeback', 'collections_hold');
    expect(await hold(owner, 100n)).toMatchObject({ state: 'collections_hold' });
    await restrict('user', owner.userId, 'chargeback', 'healthy');
    expect(await hold(owner, 100n)).toMatchObject({ state: 'suspended' });
  });

  it('remember every change and what it replaced, also when two come at once', async () => {
    const { userId } = books.newOwner();
    const states = ['at_risk', 'restricted', 'suspended', 'healthy'] as const;
    await Promise.all(states.map((state) => restrict('user', userId, 'operator', state)));
    const history = await books.db
      .selectFrom('restriction_history as entry')
      .innerJoin('financial_restrictions as set', 'set.id', 'entry.restriction_id')
      .select(['entry.from_state', 'entry.to_state', 'set.state'])
      .where('set.scope_id', '=', userId)
      .execute();
    expect(history).toHaveLength(4);
    expect(history.filter((entry) => entry.from_state === null)).toHaveLength(1);
    const replaced = history.flatMap((entry) => entry.from_state ?? []);
    expect([...replaced, history[0]?.state].sort()).toEqual([...states].sort());
  });

  it('of the depletion sweep do not outlive the money: the wallet itself answers', async () => {
    const owner = books.newOwner();
    await restrict('user', owner.userId, 'depletion', 'restricted');
    expect(await hold(owner, 100n)).toMatchObject({ code: 'insufficient_balance' });
    await books.credit(owner, 1_000n);
    expect((await hold(owner, 100n)).allowed).toBe(true);
  });
});
