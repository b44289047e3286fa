import { newId } from '@gpuaas/kernel';
import fc from 'fast-check';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { costAfter } from '../../src/domains/finance/rules/rating.js';
import { openDatabase } from '../../src/spine/database.js';
import { inTransaction, sqlState } from '../../src/spine/transaction.js';
import { type Books, type Owner, openBooks } from './books.js';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

let books: Awaited<ReturnType<typeof openBooks>>;
beforeAll(async () => {
  books = await openBooks();
});
afterAll(() => books.close());

const recordsOf = (allocationId: string) =>
  books.db
    .selectFrom('usage_records')
    .select(['id', 'start_time', 'end_time', 'last_billed_at', 'rated_minor', 'next_rate_at', 'pricing_snapshot'])
    .where('allocation_id', '=', allocationId)
    .orderBy('start_time')
    .execute();

const linesOf = (allocationId: string) =>
  books.db
    .selectFrom('rated_usage_lines as line')
    .innerJoin('usage_records as usage', 'usage.id', 'line.usage_record_id')
    .select(['line.id', 'line.bill_from', 'line.bill_to', 'line.amount_minor', 'line.ledger_entry_id'])
    .where('usage.allocation_id', '=', allocationId)
    .orderBy('line.bill_from')
    .execute();

const totalOf = (lines: readonly { amount_minor: bigint }[]) =>
  lines.reduce((sum, line) => sum + line.amount_minor, 0n);

async function charged(owner: Owner, credited: bigint): Promise<bigint> {
  return credited - (await books.balanceOf(owner));
}

describe('usage from start to stop', () => {
  it('costs exactly its time: the wallet drops by what the lines sum to, and not by more later', async () => {
    const owner = books.newOwner();
    await books.credit(owner, 100_000n);
    const allocation = await books.start(owner, { units: 8, unitPriceMinor: 251n });
    for (let minute = 0; minute < 5; minute += 1) {
      books.clock.advance(MINUTE);
      await books.rate();
    }
    books.clock.advance(17_321);
    await books.stop(allocation);

    const [record] = await recordsOf(allocation);
    const lines = await linesOf(allocation);
    const cost = costAfter({ unitPriceMinor: 251n, units: 8n }, BigInt(5 * MINUTE + 17_321));
    expect(totalOf(lines)).toBe(cost);
    expect(await charged(owner, 100_000n)).toBe(cost);
    expect(record).toMatchObject({
      end_time: books.clock.now(),
      last_billed_at: books.clock.now(),
      next_rate_at: null,
    });
    expect(lines.length).toBe(6);

    books.clock.advance(HOUR);
    await books.rate();
    await books.stop(allocation);
    expect(await charged(owner, 100_000n)).toBe(cost);
    expect(await books.finance.reconcile(books.db)).toEqual([]);
  });

  it('charges nothing for a release in the millisecond of the start', async () => {
    const owner = books.newOwner();
    const allocation = await books.start(owner);
    await books.stop(allocation);
    expect(await linesOf(allocation)).toEqual([]);
    expect(await recordsOf(allocation)).toMatchObject([{ next_rate_at: null, rated_minor: 0n }]);
    expect(await books.balanceOf(owner)).toBe(0n);
  });

  it('keeps lines for what is free and posts nothing for them', async () => {
    const owner = books.newOwner();
    const allocation = await books.start(owner, { unitPriceMinor: 0n });
    books.clock.advance(HOUR);
    await books.stop(allocation);
    expect(await linesOf(allocation)).toMatchObject([
      { amount_minor: 0n, ledger_entry_id: null },
      { amount_minor: 0n, ledger_entry_id: null },
    ]);
    expect(await books.balanceOf(owner)).toBe(0n);
  });

  it('is started once: a second start changes nothing, a start after the stop never overlaps', async () => {
    const owner = books.newOwner();
    const allocation = await books.start(owner);
    books.clock.advance(1_000);
    await books.start(owner, { allocationId: allocation });
    expect(await recordsOf(allocation)).toHaveLength(1);

    await books.stop(allocation);
    const end = books.clock.now();
    books.clock.advance(-500);
    await books.start(owner, { allocationId: allocation });
    books.clock.advance(2_500);
    await books.stop(allocation);
    expect(await recordsOf(allocation)).toMatchObject([{ end_time: end }, { start_time: end }]);
  });

  it('ends no earlier than what is already charged', async () => {
    const owner = books.newOwner();
    const allocation = await books.start(owner);
    books.clock.advance(2 * MINUTE);
    await books.rate();
    const [rated] = await recordsOf(allocation);
    await inTransaction(books.db, (tx) =>
      books.finance.metering.stop(tx, books.ctx, { allocationId: allocation, endedAt: new Date(0) }),
    );
    expect(await recordsOf(allocation)).toMatchObject([
      { end_time: rated?.last_billed_at, rated_minor: rated?.rated_minor, next_rate_at: null },
    ]);
  });

  it('writes one line an hour after the rater was away, and the same money', async () => {
    const owner = books.newOwner();
    const allocation = await books.start(owner, { units: 3, unitPriceMinor: 7n });
    const start = books.clock.now().getTime();
    books.clock.advance(40 * HOUR);
    await books.rate();
    const lines = await linesOf(allocation);
    expect(lines.length).toBe(41);
    const until = lines.at(-1)?.bill_to.getTime() ?? 0;
    expect(books.clock.now().getTime() - until).toBeLessThan(MINUTE);
    expect(totalOf(lines)).toBe(costAfter({ units: 3n, unitPriceMinor: 7n }, BigInt(until - start)));
    await books.stop(allocation);
  });

  it('states the price it was promised, whatever the list says later', async () => {
    const owner = books.newOwner();
    const first = await books.start(owner, { unitPriceMinor: 900n });
    const second = await books.start(owner, { unitPriceMinor: 901n });
    const third = await books.start(owner, { unitPriceMinor: 900n });
    const versions = await Promise.all(
      [first, second, third].map(async (allocation) => (await recordsOf(allocation))[0]?.pricing_snapshot),
    );
    expect(versions).toMatchObject([
      { unit_price_minor: 900, rule: 'telescoping_half_up_v1' },
      { unit_price_minor: 901 },
      { unit_price_minor: 900 },
    ]);
    const versionIds = versions.map((snapshot) => Reflect.get(Object(snapshot), 'price_version_id'));
    expect(versionIds[0]).toBe(versionIds[2]);
    expect(versionIds[0]).not.toBe(versionIds[1]);
    for (const allocation of [first, second, third]) await books.stop(allocation);
  });
});

describe('the books under faults and races', () => {
  it('hold after any mixture of starts, stops, ratings and transactions that died', { timeout: 300_000 }, async () => {
    const step = fc.oneof(
      fc.record({
        kind: fc.constant('start' as const),
        price: fc.bigInt({ min: 0n, max: 5_000n }),
        units: fc.integer({ min: 1, max: 8 }),
      }),
      fc.record({ kind: fc.constant('stop' as const), which: fc.nat(5) }),
      fc.record({ kind: fc.constant('rate' as const) }),
      fc.record({ kind: fc.constant('crash' as const), which: fc.nat(5) }),
      fc.record({ kind: fc.constant('wait' as const), milliseconds: fc.integer({ min: 1, max: 3 * HOUR }) }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
        const owner = books.newOwner();
        const running: { id: Awaited<ReturnType<Books['start']>>; at: number; price: bigint; units: number }[] = [];
        let expected = 0n;
        const end = async (which: number) => {
          const [usage] = running.splice(which % running.length, 1);
          if (!usage) return;
          await books.stop(usage.id);
          const length = BigInt(books.clock.now().getTime() - usage.at);
          expected += costAfter({ unitPriceMinor: usage.price, units: BigInt(usage.units) }, length);
        };
        for (const action of steps) {
          if (action.kind === 'wait') books.clock.advance(action.milliseconds);
          if (action.kind === 'rate') await books.rate();
          if (action.kind === 'start') {
            const id = await books.start(owner, { units: action.units, unitPriceMinor: action.price });
            running.push({ id, at: books.clock.now().getTime(), price: action.price, units: action.units });
          }
          if (action.kind === 'stop' && running.length > 0) await end(action.which);
          if (action.kind === 'crash' && running.length > 0) {
            const victim = running[action.which % running.length];
            const died = inTransaction(books.db, async (tx) => {
              if (victim) {
                const endedAt = books.clock.now();
                await books.finance.metering.stop(tx, books.ctx, { allocationId: victim.id, endedAt });
              }
              throw new Error('power cut');
            });
            await expect(died).rejects.toThrow('power cut');
          }
        }
        while (running.length > 0) await end(0);
        expect(await charged(owner, 0n)).toBe(expected);
      }),
      { numRuns: 25 },
    );
    expect(await books.finance.reconcile(books.db)).toEqual([]);
  });

  it('hold when raters, releases and group releases meet on the same wallets', { timeout: 120_000 }, async () => {
    const owners = Array.from({ length: 4 }, () => books.newOwner());
    const begun = books.clock.now().getTime();
    const usages = await Promise.all(
      Array.from({ length: 40 }, (_, index) =>
        books.start(owners[index % 4] ?? books.newOwner(), { unitPriceMinor: 97n }),
      ),
    );
    books.clock.advance(95_000);
    const pairs = Array.from({ length: 10 }, (_, index) => usages.slice(index * 4, index * 4 + 4).reverse());
    await Promise.all([
      books.rate(),
      books.rate(),
      books.rate(),
      ...pairs.map((group) =>
        // Several releases in one transaction, their wallets in an order of their own.
        inTransaction(books.db, async (tx) => {
          for (const allocationId of group) {
            await books.finance.metering.stop(tx, books.ctx, { allocationId, endedAt: books.clock.now() });
          }
        }),
      ),
      books.rate(),
    ]);
    const cost = costAfter({ unitPriceMinor: 97n, units: 1n }, BigInt(books.clock.now().getTime() - begun));
    for (const owner of owners) expect(await charged(owner, 0n)).toBe(10n * cost);
    expect(await books.finance.reconcile(books.db)).toEqual([]);
  });

  it('are rated once when the same moment is rated by many', async () => {
    const owner = books.newOwner();
    const begun = books.clock.now().getTime();
    const allocation = await books.start(owner, { unitPriceMinor: 6_000n });
    books.clock.advance(3 * MINUTE);
    await Promise.all(Array.from({ length: 8 }, () => books.rate()));
    await books.rate();
    const lines = await linesOf(allocation);
    const until = lines.at(-1)?.bill_to.getTime() ?? 0;
    expect(totalOf(lines)).toBe(costAfter({ unitPriceMinor: 6_000n, units: 1n }, BigInt(until - begun)));
    expect(await charged(owner, 0n)).toBe(totalOf(lines));
    await books.stop(allocation);
  });

  it('stop rating where they were told to stop', async () => {
    const owner = books.newOwner();
    const allocation = await books.start(owner);
    books.clock.advance(2 * MINUTE);
    await books.rate(AbortSignal.abort());
    expect(await linesOf(allocation)).toEqual([]);
    await books.stop(allocation);
  });
});

describe('the rule in the database', () => {
  it('is the rule in the program', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.bigInt({ min: 0n, max: 1_000_000_000n }),
        fc.bigInt({ min: 1n, max: 1_000n }),
        fc.bigInt({ min: 0n, max: 10n ** 11n }),
        async (unitPriceMinor, units, milliseconds) => {
          const { rows } = await sql<{ cost: bigint; elapsed: bigint }>`
            SELECT usage_cost_minor(${unitPriceMinor}, ${units}, ${milliseconds}) AS cost,
              elapsed_milliseconds(${new Date(0)}::timestamptz, ${new Date(Number(milliseconds))}::timestamptz) AS elapsed
          `.execute(books.db);
          expect(rows).toEqual([{ cost: costAfter({ unitPriceMinor, units }, milliseconds), elapsed: milliseconds }]);
        },
      ),
      { numRuns: 200 },
    );
  });
});

describe('the journal', () => {
  const entry = (over: Record<string, unknown> = {}) => ({
    id: newId(),
    kind: 'admin_credit',
    idempotency_key: `test:${newId()}`,
    currency: 'USD',
    reference_type: 'test',
    reference_id: 'test',
    correlation_id: 'c',
    actor: 'a',
    created_at: new Date(),
    ...over,
  });
  const leg = (txnId: string, amount: bigint, over: Record<string, unknown> = {}) => ({
    id: newId(),
    txn_id: txnId,
    account_code: 'suspense' as const,
    amount_minor: amount,
    currency: 'USD',
    entry_type: 'test',
    created_at: new Date(),
    ...over,
  });
  const post = (legs: (txnId: string) => ReturnType<typeof leg>[]) =>
    inTransaction(books.db, async (tx) => {
      const txn = entry();
      await tx.insertInto('journal_txns').values(txn).execute();
      const rows = legs(txn.id);
      if (rows.length > 0) await tx.insertInto('postings').values(rows).execute();
      return txn.id;
    });

  it.each([
    ['without postings', () => []],
    ['with one side', (txn: string) => [leg(txn, 5n)]],
    ['that does not sum to zero', (txn: string) => [leg(txn, 5n), leg(txn, -4n)]],
  ])('takes no entry %s', async (_, legs) => {
    await expect(post(legs)).rejects.toThrow(/journal entry .* postings that sum to/);
  });

  it('takes no entry in two currencies', async () => {
    await expect(post((txn) => [leg(txn, 5n), leg(txn, -5n, { currency: 'EUR' })])).rejects.toThrow(
      'postings_one_currency',
    );
  });

  it('takes no posting of nothing, on no account, or into a wallet of nobody', async () => {
    await expect(post((txn) => [leg(txn, 0n), leg(txn, 0n)])).rejects.toThrow('postings_not_zero');
    await expect(post((txn) => [leg(txn, 5n, { account_code: 'cash' }), leg(txn, -5n)])).rejects.toThrow(
      'postings_account_known',
    );
    await expect(post((txn) => [leg(txn, 5n, { account_code: 'wallet' }), leg(txn, -5n)])).rejects.toThrow(
      'postings_wallet_has_owner',
    );
  });

  it('takes no second leg later', async () => {
    const txn = await post((id) => [leg(id, 5n), leg(id, -5n)]);
    await expect(books.db.insertInto('postings').values(leg(txn, 7n)).execute()).rejects.toThrow(/sum to 7/);
  });

  it.each([
    'journal_txns',
    'postings',
    'price_versions',
    'restriction_history',
    'posture_transitions',
    'rated_usage_lines',
  ])('is never rewritten: %s refuses change to the application and to the owner', async (table) => {
    const owner = openDatabase({ url: books.database.url, poolSize: 1 });
    try {
      for (const db of [books.db, owner]) {
        const attempts = [sql`DELETE FROM ${sql.table(table)}`, sql`TRUNCATE ${sql.table(table)} CASCADE`];
        if (table !== 'rated_usage_lines') attempts.push(sql`UPDATE ${sql.table(table)} SET id = id`);
        for (const attempt of attempts) {
          const error: unknown = await attempt.execute(db).catch((reason: unknown) => reason);
          expect(sqlState(error)).toBe('42501');
        }
      }
    } finally {
      await owner.destroy();
    }
  });

  it('lets a rated line change only by being invoiced, once', async () => {
    const allocation = await books.start(books.newOwner());
    books.clock.advance(MINUTE);
    await books.stop(allocation);
    const [line] = await linesOf(allocation);
    const change = (values: Record<string, unknown>) =>
      books.db
        .updateTable('rated_usage_lines')
        .set(values)
        .where('id', '=', line?.id ?? '')
        .execute();
    await expect(change({ amount_minor: 0n })).rejects.toThrow('permission denied');
    await change({ invoice_id: newId(), invoice_line_id: newId() });
    await expect(change({ invoice_id: newId() })).rejects.toThrow('append-only');
    await expect(change({ invoice_line_id: null })).rejects.toThrow('append-only');
  });

  it('keeps the facts of a usage and the end it once had', async () => {
    const allocation = await books.start(books.newOwner());
    const change = (values: Record<string, unknown>) =>
      books.db.updateTable('usage_records').set(values).where('allocation_id', '=', allocation).execute();
    await expect(change({ unit_price_minor: 1n })).rejects.toThrow('keeps its facts');
    await expect(change({ user_id: newId() })).rejects.toThrow('keeps its facts');
    books.clock.advance(MINUTE);
    await books.stop(allocation);
    await expect(change({ end_time: null, next_rate_at: new Date() })).rejects.toThrow('keeps its facts');
    await expect(change({ last_billed_at: null, next_rate_at: new Date() })).rejects.toThrow('keeps its facts');
  });
});
