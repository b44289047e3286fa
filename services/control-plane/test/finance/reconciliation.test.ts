import { newId } from '@gpuaas/kernel';
import type { Kysely } from 'kysely';
import { type RawBuilder, sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Database } from '../../src/spine/database.generated.js';
import { openDatabase } from '../../src/spine/database.js';
import { openBooks } from './books.js';

let books: Awaited<ReturnType<typeof openBooks>>;
let owner: Kysely<Database>;
beforeAll(async () => {
  books = await openBooks();
  owner = openDatabase({ url: books.database.url, poolSize: 1 });
  const person = books.newOwner();
  await books.credit(person, 50_000n);
  for (let index = 0; index < 3; index += 1) {
    const allocation = await books.start(person, { units: index + 1, unitPriceMinor: 333n });
    books.clock.advance(150_000);
    await books.rate();
    if (index > 0) await books.stop(allocation);
  }
  books.clock.advance(1_000);
});
afterAll(async () => {
  await owner.destroy();
  await books.close();
});

/** What the books say after somebody with the keys to the server has changed a row; undone afterwards. */
async function findingsAfter(tampering: RawBuilder<unknown>): Promise<readonly string[]> {
  let invariants: readonly string[] = [];
  const undone = new Error('undone');
  await owner
    .transaction()
    .execute(async (tx) => {
      await sql`SET LOCAL session_replication_role = replica`.execute(tx);
      const { numAffectedRows } = await tampering.execute(tx);
      expect(numAffectedRows).toBeGreaterThan(0n);
      const findings = await books.finance.reconcile(tx);
      expect(findings.every((finding) => finding.subject !== '' && finding.detail !== '')).toBe(true);
      invariants = [...new Set(findings.map((finding) => finding.invariant))].sort();
      throw undone;
    })
    .catch((error: unknown) => {
      if (error !== undone) throw error;
    });
  return invariants;
}

const ONE_LINE = sql`id = (SELECT id FROM rated_usage_lines WHERE amount_minor > 0 ORDER BY id LIMIT 1)`;

describe('reconciliation', () => {
  it('finds nothing in honest books, on the pool and inside a transaction', async () => {
    expect(await books.finance.reconcile(books.db)).toEqual([]);
    expect(await owner.transaction().execute((tx) => books.finance.reconcile(tx))).toEqual([]);
  });

  it.each<[string, RawBuilder<unknown>, string[]]>([
    [
      'a posting that is missing',
      sql`DELETE FROM postings WHERE id = (SELECT id FROM postings WHERE account_code = 'credits_granted' LIMIT 1)`,
      ['I1'],
    ],
    [
      'a posting that was changed',
      sql`UPDATE postings SET amount_minor = amount_minor + 1 WHERE account_code = 'revenue:usage'`,
      ['I1'],
    ],
    [
      'an entry without postings',
      sql`
      INSERT INTO journal_txns (id, kind, idempotency_key, currency, reference_type, reference_id, correlation_id, actor, created_at)
      VALUES (${newId()}, 'admin_credit', 'k', 'USD', 't', 'r', 'c', 'a', now())`,
      ['I1'],
    ],
    ['a balance out of nowhere', sql`UPDATE wallet_balances SET balance_minor = balance_minor + 1`, ['I2']],
    ['a wallet that is gone', sql`DELETE FROM wallet_balances`, ['I2']],
    [
      'a line that costs another amount than was charged',
      sql`UPDATE rated_usage_lines SET amount_minor = amount_minor + 1 WHERE ${ONE_LINE}`,
      ['I3', 'I5'],
    ],
    [
      'a line that was never charged',
      sql`UPDATE rated_usage_lines SET ledger_entry_id = ${newId()} WHERE ${ONE_LINE}`,
      ['I3'],
    ],
    ['a charge whose line is gone', sql`DELETE FROM rated_usage_lines WHERE ${ONE_LINE}`, ['I3', 'I4', 'I5']],
    [
      'a charge to somebody else',
      sql`UPDATE postings SET user_id = ${newId()} WHERE entry_type = 'usage_charge' AND account_code = 'wallet'`,
      ['I2', 'I3'],
    ],
    [
      'a gap between two windows',
      sql`UPDATE rated_usage_lines SET bill_to = bill_to - interval '1 second' WHERE ${ONE_LINE}`,
      ['I4'],
    ],
    [
      'a record billed into the future',
      sql`UPDATE usage_records SET last_billed_at = last_billed_at + interval '1 hour' WHERE end_time IS NULL`,
      ['I4', 'I5'],
    ],
    ['a sum that the record does not have', sql`UPDATE usage_records SET rated_minor = rated_minor + 1`, ['I5']],
    ['another price than was promised', sql`UPDATE usage_records SET unit_price_minor = unit_price_minor * 2`, ['I5']],
    [
      'a line in another tenant',
      sql`UPDATE rated_usage_lines SET tenant_id = ${newId()} WHERE ${ONE_LINE}`,
      ['I14', 'I3'],
    ],
    ['a line in another project', sql`UPDATE rated_usage_lines SET project_id = ${newId()} WHERE ${ONE_LINE}`, ['I14']],
  ])('finds %s', async (_, tampering, invariants) => {
    expect(await findingsAfter(tampering)).toEqual(invariants);
  });
});
