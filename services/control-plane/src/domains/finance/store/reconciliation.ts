import { type RawBuilder, sql } from 'kysely';
import type { Reader } from '../../../spine/operation.js';

/** Numbered as in the finance documentation. */
export type LedgerInvariant = 'I1' | 'I2' | 'I3' | 'I4' | 'I5' | 'I14';

export interface LedgerFinding {
  readonly invariant: LedgerInvariant;
  /** the kind of row that is wrong and its id or key */
  readonly subject: string;
  readonly detail: string;
}

/** Beyond so many findings of one invariant more of them tell nothing new. */
const FINDINGS_AN_INVARIANT = 100;

/**
 * Proves the journal against the balances, the rated lines and the usage, in one repeatable-read snapshot; no finding
 * means all of it holds. Changes nothing and repairs nothing. `now` bounds how far anything may be billed.
 */
export async function findLedgerErrors(reader: Reader, now: Date): Promise<readonly LedgerFinding[]> {
  if (reader.isTransaction) return runChecks(reader, now);
  return reader
    .transaction()
    .setIsolationLevel('repeatable read')
    .setAccessMode('read only')
    .execute((tx) => runChecks(tx, now));
}

async function runChecks(reader: Reader, now: Date): Promise<readonly LedgerFinding[]> {
  const findings: LedgerFinding[] = [];
  for (const { invariant, check } of checks(now)) {
    const { rows } = await sql<{ subject: string; detail: string }>`
      SELECT subject, detail FROM (${check}) AS finding LIMIT ${FINDINGS_AN_INVARIANT}`.execute(reader);
    findings.push(...rows.map((row) => ({ invariant, ...row })));
  }
  return findings;
}

type Check = RawBuilder<unknown>;

const checks = (now: Date): readonly { invariant: LedgerInvariant; check: Check }[] => [
  { invariant: 'I1', check: ENTRIES_BALANCE },
  { invariant: 'I2', check: WALLETS_EQUAL_POSTINGS },
  { invariant: 'I3', check: LINES_ARE_CHARGED },
  { invariant: 'I3', check: CHARGES_HAVE_LINES },
  { invariant: 'I4', check: windowsAreGapless(now) },
  { invariant: 'I5', check: AMOUNTS_EQUAL_THE_RULE },
  { invariant: 'I14', check: LINES_KEEP_THEIR_OWNER },
];

const ENTRIES_BALANCE: Check = sql`
  SELECT 'journal_txn:' || entry.id AS subject,
    format('%s postings sum to %s', count(leg.id), coalesce(sum(leg.amount_minor), 0)) AS detail
  FROM journal_txns AS entry LEFT JOIN postings AS leg ON leg.txn_id = entry.id
  GROUP BY entry.id
  HAVING count(leg.id) < 2 OR sum(leg.amount_minor) <> 0`;

const WALLETS_EQUAL_POSTINGS: Check = sql`
  SELECT format('wallet:%s:%s:%s', tenant_id, user_id, currency) AS subject,
    format('balance %s, postings %s', coalesce(wallet.balance_minor, 0), coalesce(posted.total, 0)) AS detail
  FROM wallet_balances AS wallet
  FULL JOIN (
    SELECT tenant_id, user_id, currency, sum(amount_minor) AS total
    FROM postings WHERE account_code = 'wallet' GROUP BY tenant_id, user_id, currency
  ) AS posted USING (tenant_id, user_id, currency)
  WHERE coalesce(wallet.balance_minor, 0) <> coalesce(posted.total, 0)`;

const LINES_ARE_CHARGED: Check = sql`
  SELECT 'rated_usage_line:' || line.id AS subject,
    CASE WHEN leg.id IS NULL THEN 'no charge' ELSE 'the charge is another amount, owner or window' END AS detail
  FROM rated_usage_lines AS line
  LEFT JOIN postings AS leg ON leg.id = line.ledger_entry_id
  LEFT JOIN journal_txns AS entry ON entry.id = leg.txn_id
  WHERE line.amount_minor <> 0 AND (
    (leg.account_code = 'wallet' AND leg.amount_minor = -line.amount_minor AND leg.currency = line.currency
      AND leg.tenant_id = line.tenant_id AND leg.user_id = line.user_id
      AND entry.kind = 'usage_charge' AND entry.idempotency_key = 'usage:' || line.rating_key) IS NOT TRUE)`;

const CHARGES_HAVE_LINES: Check = sql`
  SELECT 'journal_txn:' || entry.id AS subject, 'a usage charge with no line of its own' AS detail
  FROM journal_txns AS entry
  LEFT JOIN rated_usage_lines AS line ON 'usage:' || line.rating_key = entry.idempotency_key AND line.amount_minor <> 0
  WHERE entry.kind = 'usage_charge' AND line.id IS NULL`;

const windowsAreGapless = (now: Date): Check => sql`
  SELECT 'usage_record:' || usage.id AS subject,
    format('%s windows do not join, rated to %s, billed to %s, end %s',
      rated.breaks, rated.until, usage.last_billed_at, usage.end_time) AS detail
  FROM usage_records AS usage
  LEFT JOIN (
    SELECT usage_record_id, max(bill_to) AS until,
      count(*) FILTER (WHERE bill_from IS DISTINCT FROM previous_to) AS breaks
    FROM (
      SELECT line.usage_record_id, line.bill_from, line.bill_to,
        lag(line.bill_to, 1, started.start_time)
          OVER (PARTITION BY line.usage_record_id ORDER BY line.bill_from) AS previous_to
      FROM rated_usage_lines AS line JOIN usage_records AS started ON started.id = line.usage_record_id
    ) AS windows
    GROUP BY usage_record_id
  ) AS rated ON rated.usage_record_id = usage.id
  WHERE rated.breaks > 0
    OR rated.until IS DISTINCT FROM usage.last_billed_at
    OR usage.last_billed_at > coalesce(usage.end_time, ${now}::timestamptz)`;

const AMOUNTS_EQUAL_THE_RULE: Check = sql`
  SELECT 'usage_record:' || usage.id AS subject,
    format('lines sum to %s, the record says %s, the rule %s',
      coalesce(rated.total, 0), usage.rated_minor, due.total) AS detail
  FROM usage_records AS usage
  LEFT JOIN (
    SELECT usage_record_id, sum(amount_minor) AS total FROM rated_usage_lines GROUP BY usage_record_id
  ) AS rated ON rated.usage_record_id = usage.id
  CROSS JOIN LATERAL (
    SELECT usage_cost_minor(usage.unit_price_minor, usage.units,
      elapsed_milliseconds(usage.start_time, coalesce(usage.last_billed_at, usage.start_time))) AS total
  ) AS due
  WHERE coalesce(rated.total, 0) <> due.total OR usage.rated_minor <> due.total`;

const LINES_KEEP_THEIR_OWNER: Check = sql`
  SELECT 'rated_usage_line:' || line.id AS subject, 'tenant, user, project or currency differ from the usage' AS detail
  FROM rated_usage_lines AS line JOIN usage_records AS usage ON usage.id = line.usage_record_id
  WHERE (line.tenant_id, line.user_id, line.project_id, line.currency)
    IS DISTINCT FROM (usage.tenant_id, usage.user_id, usage.project_id, usage.currency)`;
