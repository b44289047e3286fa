import { createLogger, systemClock } from '@gpuaas/kernel';
import { type RawBuilder, sql } from 'kysely';
import { z } from 'zod';
import { composeDomains, type Domains } from '../../src/app/compose.js';
import { openCertificateAuthority } from '../../src/spine/certificate-authority.js';
import { createCustody, parseCustodyKeys } from '../../src/spine/custody.js';
import type { Reader } from '../../src/spine/operation.js';
import { policies } from '../../src/spine/policy-registry.js';
import { createSignals } from '../../src/spine/signals.js';
import { WORKFLOW_CONSUMER } from '../../src/spine/workflows.js';
import type { Told } from './journey.js';
import { CUSTODY_KEY, type ProcessHost, type ProcessSite, stateText, WINDOW_SECONDS } from './process-site.js';

/** Rows that still wait for somebody to go on with them; empty once the site has come to rest. */
export async function findOpenEnds(db: Reader): Promise<string[]> {
  return findings(db, OPEN_ENDS);
}

const OPEN_ENDS = {
  'event not delivered': sql`
    SELECT event_type || ' ' || status FROM outbox_events WHERE status IN ('pending', 'publishing')`,
  'task not ended': sql`
    SELECT task_type || ' ' || status || ' ' || id FROM node_tasks WHERE status IN ('queued', 'dispatched')`,
  'operation not ended': sql`
    SELECT kind || ' ' || status || ' ' || allocation_id FROM allocation_operations WHERE status IN ('queued', 'running')`,
  'usage not rated to its end': sql`SELECT id FROM usage_records WHERE next_rate_at IS NOT NULL`,
  'workflow not ended': sql`
    SELECT name || ' ' || status FROM workflow_runs WHERE status IN ('pending', 'running', 'compensating')`,
  'run of the engine not ended': sql`
    SELECT name || ' ' || status FROM dbos.workflow_status WHERE status IN ('PENDING', 'ENQUEUED')`,
} as const;

/**
 * Everything that is not as it must be, seen over `db`, once the site has come to rest after all its customers have released what they
 * had: one line each, empty when all of it holds.
 */
export async function findUntruths(site: ProcessSite, told: Told, db: Reader = site.db): Promise<string[]> {
  return [
    ...(await findings(db, WRONG_ROWS)),
    ...(await findOpenEnds(db)),
    ...(await domainsOf(site, async (domains) => [
      ...(await findUndelivered(db, domains)),
      ...(await findLedgerErrors(db, domains)),
    ])),
    ...(await findUnexplained(db, told)),
    ...(await Promise.all(site.hosts.map((host) => findHostErrors(db, host)))).flat(),
  ];
}

const WRONG_ROWS = {
  'claims overlap': sql`
    SELECT format('%s: %s until %s, %s from %s', earlier.node_id, earlier.id, earlier.released_at, later.id, later.created_at)
    FROM placement_claims earlier JOIN placement_claims later
      ON later.node_id = earlier.node_id AND later.id > earlier.id
    WHERE 'node_exclusive' IN (earlier.kind, later.kind)
      AND tstzrange(earlier.created_at, earlier.released_at) && tstzrange(later.created_at, later.released_at)`,
  'claim still open': sql`SELECT id FROM placement_claims WHERE released_at IS NULL`,
  'count of open claims': sql`
    SELECT id FROM nodes WHERE open_claims <>
      (SELECT count(*) FROM placement_claims WHERE node_id = nodes.id AND released_at IS NULL)`,
  'allocation without exactly one claim': sql`
    SELECT id FROM allocations WHERE 1 <> (SELECT count(*) FROM placement_claims WHERE allocation_id = allocations.id)`,
  'allocation not released': sql`SELECT status || ' ' || id FROM allocations WHERE status <> 'released'`,
  'operation failed': sql`
    SELECT kind || ' ' || status || ' ' || coalesce(failure_reason, '') || ' ' || allocation_id
    FROM allocation_operations WHERE status = 'failed'`,
  // a restart keeps the window open, so a launch has one window however often it was restarted
  'activation without exactly one usage record': sql`
    SELECT id FROM allocations
    WHERE (active_at IS NOT NULL)::int <> (SELECT count(*) FROM usage_records WHERE allocation_id = allocations.id)`,
  'usage outside of the time it served': sql`
    SELECT format('%s: %s to %s, active %s to %s', a.id, u.start_time, u.end_time, a.active_at, a.releasing_at)
    FROM usage_records u JOIN allocations a ON a.id = u.allocation_id
    WHERE u.start_time <> a.active_at
      -- while a release waits for its turn the rater may charge up to the end of a window
      OR u.end_time <> greatest(a.releasing_at, (SELECT max(r.bill_to) FROM rated_usage_lines r
        WHERE r.usage_record_id = u.id AND extract(epoch FROM r.bill_to) % ${WINDOW_SECONDS} = 0))`,
  'hold left behind': sql`SELECT allocation_id FROM wallet_holds`,
  'balance unlike its postings': sql`
    SELECT user_id FROM wallet_balances w WHERE balance_minor <>
      (SELECT coalesce(sum(amount_minor), 0) FROM postings p
       WHERE p.account_code = 'wallet' AND (p.tenant_id, p.user_id, p.currency) = (w.tenant_id, w.user_id, w.currency))`,
  'task that nobody did': sql`
    SELECT task_type || ' ' || status || ' ' || coalesce(error, '') || ' ' || id FROM node_tasks
    WHERE status <> 'completed' AND NOT (status = 'expired' AND error = 'withdrawn' AND attempt = 0)`,
  'released without proof of the host': sql`
    SELECT id FROM allocations a WHERE status = 'released'
      AND NOT EXISTS (SELECT FROM node_tasks WHERE subject_id = a.id::text
        AND task_type = 'allocation.deprovision_user' AND status = 'completed')
      AND NOT EXISTS (SELECT FROM node_tasks WHERE subject_id = a.id::text
        AND task_type = 'allocation.provision_user' AND status = 'expired' AND error = 'withdrawn')`,
  'key set not brought to the host': sql`
    SELECT id FROM allocations WHERE active_at IS NOT NULL AND key_set_applied_version IS NULL`,
  'event given up': sql`SELECT event_type || ' ' || status FROM outbox_events WHERE status IN ('failed', 'discarded')`,
  'dead letter': sql`SELECT subject || ' ' || error FROM dead_letters`,
  'key without an answer': sql`
    SELECT operation || ' ' || key FROM idempotency_keys
    WHERE status IS NULL OR (response IS NULL AND sealed_response IS NULL)`,
  'node out of service': sql`SELECT id || ' ' || status FROM nodes WHERE status <> 'active'`,
} as const;

/** Each row of each query becomes a line under the query's name. */
async function findings(db: Reader, queries: Readonly<Record<string, RawBuilder<unknown>>>): Promise<string[]> {
  const lines: string[] = [];
  for (const [name, query] of Object.entries(queries)) {
    const { rows } = await sql<{ subject: string }>`SELECT subject::text FROM (${query}) AS found (subject)`.execute(
      db,
    );
    lines.push(...rows.map(({ subject }) => `${name}: ${subject}`));
  }
  return lines;
}

/** Every subscriber has had every event of its types exactly once. */
async function findUndelivered(db: Reader, { subscribers }: Domains): Promise<string[]> {
  const consumers = [...subscribers, WORKFLOW_CONSUMER];
  const wanted = consumers.flatMap(({ name, eventTypes }) => eventTypes.map((type) => ({ name, type })));
  const rows = await sql<{ subject: string }>`
    WITH wanted AS (
      SELECT e.id AS event_id, w.consumer
      FROM unnest(${wanted.map(({ name }) => name)}::text[], ${wanted.map(({ type }) => type)}::text[])
        AS w (consumer, event_type)
      JOIN outbox_events e ON e.event_type = w.event_type
    )
    SELECT coalesce(wanted.consumer, inbox.consumer) || ' ' || coalesce(wanted.event_id, inbox.event_id) AS subject
    FROM wanted FULL JOIN inbox USING (event_id, consumer)
    WHERE wanted.event_id IS NULL OR inbox.event_id IS NULL`.execute(db);
  return rows.rows.map(({ subject }) => `delivered, or not, against the list of subscribers: ${subject}`);
}

async function findLedgerErrors(db: Reader, { finance }: Domains): Promise<string[]> {
  const errors = await finance.reconcile(db);
  return errors.map(({ invariant, subject, detail }) => `books, ${invariant}: ${subject} ${detail}`);
}

async function domainsOf<Result>(site: ProcessSite, ask: (domains: Domains) => Promise<Result>): Promise<Result> {
  const log = createLogger({ program: 'test', level: 'silent' });
  const custody = createCustody(parseCustodyKeys(CUSTODY_KEY));
  const signals = createSignals({ url: site.database.url, log });
  try {
    const domains = composeDomains({
      db: site.db,
      custody,
      policies,
      authority: await openCertificateAuthority({ db: site.db, custody, clock: systemClock, environment: 'test' }),
      signals,
      clock: systemClock,
      log,
      tokenIssuer: 'test',
      nodeApiUrl: () => '',
      acceptsInternalTokens: false,
      settings: {},
    });
    try {
      return await ask(domains);
    } finally {
      await domains.close();
    }
  } finally {
    await signals.close();
  }
}

/** What the platform holds and what its callers were told are the same. */
async function findUnexplained(db: Reader, told: Told): Promise<string[]> {
  const lines: string[] = [];
  const same = (what: string, held: readonly string[], expected: readonly string[]): void => {
    const missing = without(expected, held);
    const extra = without(held, expected);
    lines.push(...missing.map((one) => `${what}, promised and not there: ${one}`));
    lines.push(...extra.map((one) => `${what}, there and never promised: ${one}`));
  };

  const launched = [...told.launches.values()].flat();
  const allocations = await db.selectFrom('allocations').select('id').execute();
  same(
    'allocation',
    allocations.map(({ id }) => id),
    launched,
  );
  const keys = await sql<{ key: string }>`
    SELECT key FROM idempotency_keys WHERE operation = 'createAllocation' AND status = 201`.execute(db);
  same(
    'key of a launch',
    keys.rows.map(({ key }) => key),
    [...told.launches.keys()],
  );

  const audited = async (action: string): Promise<string[]> => {
    const { rows } = await sql<{ target: string }>`
      SELECT coalesce(target_user_id::text, target_id) AS target FROM audit_logs
      WHERE action = ${action} AND result = 'success' AND action = 'user.balance.adjust'
      UNION ALL
      SELECT target_id FROM audit_logs
      WHERE action = ${action} AND result = 'success' AND action <> 'user.balance.adjust'`.execute(db);
    return rows.map(({ target }) => target);
  };
  same('audit of a launch', await audited('allocation.create'), launched);
  same('audit of a release', await audited('allocation.release'), repeated(told.releases));
  same('audit of a restart', await audited('allocation.restart'), repeated(told.restarts));
  same('audit of new keys', await audited('allocation.ssh_keys.update'), repeated(told.keyChanges));
  const credits = new Map([...told.credits].map(([userId, credit]) => [userId, credit.count]));
  same('audit of a credit', await audited('user.balance.adjust'), repeated(credits));
  const sshKeys = [(await audited('ssh_key.create')).length, (await audited('ssh_key.revoke')).length];
  if (sshKeys[0] !== told.sshKeys.made || sshKeys[1] !== told.sshKeys.revoked) {
    lines.push(`audit of SSH keys: ${sshKeys.join(' made, ')} revoked, promised ${JSON.stringify(told.sshKeys)}`);
  }

  // The callers' own sum: what they paid in less what was rated, whatever the journal says.
  const wallets = await sql<{ user_id: string; balance_minor: bigint; rated_minor: bigint }>`
    SELECT user_id, balance_minor,
      (SELECT coalesce(sum(amount_minor), 0)::bigint FROM rated_usage_lines r WHERE r.user_id = w.user_id) AS rated_minor
    FROM wallet_balances w`.execute(db);
  for (const wallet of wallets.rows) {
    const paidIn = told.credits.get(wallet.user_id)?.minor ?? 0n;
    if (wallet.balance_minor !== paidIn - wallet.rated_minor) {
      lines.push(`wallet of ${wallet.user_id}: ${wallet.balance_minor} is not ${paidIn} − ${wallet.rated_minor}`);
    }
  }
  return lines;
}

const repeated = (counts: ReadonlyMap<string, number>): string[] =>
  [...counts].flatMap(([id, count]) => Array.from({ length: count }, () => id));

/** `items` less one of its equals for each of `others`. */
function without(items: readonly string[], others: readonly string[]): string[] {
  const left = new Map<string, number>();
  for (const other of others) left.set(other, (left.get(other) ?? 0) + 1);
  return items.filter((item) => {
    const count = left.get(item) ?? 0;
    left.set(item, count - 1);
    return count <= 0;
  });
}

const journalLine = z.object({
  event: z.enum(['started', 'noted', 'finished', 'delivered']),
  task_id: z.string().optional(),
  envelope: z.object({ task_id: z.string() }).optional(),
  result: z.object({ status: z.enum(['success', 'failed', 'rejected']) }).optional(),
  accepted: z.boolean().optional(),
});
const hostUsers = z.object({
  users: z.array(z.object({ allocation_id: z.string(), username: z.string() })),
  released: z.array(z.string()),
});
const STATUS_OF_RESULT = { success: 'completed', failed: 'failed', rejected: 'rejected' } as const;

/** What the host did, by its own journal and its own accounts, is what the database says it did. */
async function findHostErrors(db: Reader, host: ProcessHost): Promise<string[]> {
  const lines: string[] = [];
  const say = (text: string): number => lines.push(`${host.agent.name}: ${text}`);

  const journal = new Map<string, { status: string | null; accepted: boolean | null }>();
  for (const text of ((await stateText(host, 'journal.jsonl')) ?? '').split('\n').filter((line) => line !== '')) {
    const line = journalLine.parse(JSON.parse(text));
    const taskId = line.task_id ?? line.envelope?.task_id ?? '';
    const before = journal.get(taskId) ?? { status: null, accepted: null };
    journal.set(taskId, {
      status: line.result ? STATUS_OF_RESULT[line.result.status] : before.status,
      accepted: line.accepted ?? (line.event === 'finished' ? null : before.accepted),
    });
  }
  const tasks = await db
    .selectFrom('node_tasks')
    .select(['id', 'task_type', 'status'])
    .where('node_id', '=', host.nodeId)
    .where('attempt', '>', 0)
    .execute();
  for (const task of tasks) {
    const done = journal.get(task.id);
    if (done?.status !== task.status) say(`${task.task_type} ${task.id} is ${task.status}, here ${done?.status}`);
    if (done?.accepted !== true) say(`${task.task_type} ${task.id} was never acknowledged`);
    journal.delete(task.id);
  }
  for (const taskId of journal.keys()) say(`task ${taskId} is known to nobody else`);

  const users = hostUsers.parse(JSON.parse((await stateText(host, 'host-users.json')) ?? '{"users":[],"released":[]}'));
  for (const user of users.users) say(`the account ${user.username} of ${user.allocation_id} is still there`);
  const tornDown = await sql<{ subject_id: string }>`
    SELECT DISTINCT subject_id FROM node_tasks WHERE node_id = ${host.nodeId}
      AND task_type = 'allocation.deprovision_user' AND status = 'completed'`.execute(db);
  for (const { subject_id: id } of tornDown.rows) {
    if (!users.released.includes(id)) say(`${id} was reported as torn down and never was`);
  }
  return lines;
}
