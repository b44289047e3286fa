import { sql } from 'kysely';
import type { Reader } from '../../../spine/operation.js';

const BATCH = 5_000;
const DAY = 86_400_000;

/** Days that something is kept after it has done its work; events about payments longer than others. */
export const RETENTION_DAYS = {
  publishedEvents: 7,
  paymentEvents: 30,
  decidedLetters: 30,
  inbox: 31,
  heartbeats: 7,
} as const;

/**
 * Removes what has served its time at `now`, in batches, each its own transaction, and makes the audit partitions of
 * the coming months. What still waits for a decision (failed events, open dead letters) is never removed.
 */
export async function removeExpired(db: Reader, now: Date, signal: AbortSignal): Promise<Record<string, number>> {
  const before = (days: number): Date => new Date(now.getTime() - days * DAY);
  const steps = {
    idempotencyKeys: sql`
      DELETE FROM idempotency_keys WHERE ctid IN (
        SELECT ctid FROM idempotency_keys WHERE expires_at <= ${now} LIMIT ${BATCH})`,
    events: sql`
      DELETE FROM outbox_events WHERE id IN (
        SELECT id FROM outbox_events
        WHERE status = 'published' AND published_at < ${before(RETENTION_DAYS.publishedEvents)}
          AND (event_type NOT LIKE 'platform.payments.%' OR published_at < ${before(RETENTION_DAYS.paymentEvents)})
        LIMIT ${BATCH})`,
    discardedEvents: sql`
      DELETE FROM outbox_events WHERE id IN (
        SELECT id FROM outbox_events
        WHERE status = 'discarded' AND occurred_at < ${before(RETENTION_DAYS.decidedLetters)} LIMIT ${BATCH})`,
    letters: sql`
      DELETE FROM dead_letters WHERE stream_seq IN (
        SELECT stream_seq FROM dead_letters
        WHERE state <> 'dead' AND decided_at < ${before(RETENTION_DAYS.decidedLetters)}
          -- While its event is still open the letter says which consumer is not to have it.
          AND NOT EXISTS (SELECT FROM outbox_events e WHERE e.id = dead_letters.event_id)
        LIMIT ${BATCH})`,
    inbox: sql`
      DELETE FROM inbox WHERE (event_id, consumer) IN (
        SELECT event_id, consumer FROM inbox
        WHERE handled_at < ${before(RETENTION_DAYS.inbox)}
          -- An event that may be delivered again needs its inbox, however old it is.
          AND NOT EXISTS (SELECT FROM outbox_events e WHERE e.id = inbox.event_id)
        LIMIT ${BATCH})`,
    heartbeats: sql`
      DELETE FROM component_heartbeats WHERE checked_at < ${before(RETENTION_DAYS.heartbeats)}`,
  };
  const removed: Record<string, number> = {};
  for (const [name, statement] of Object.entries(steps)) {
    let last = BATCH;
    while (last >= BATCH && !signal.aborted) {
      last = Number((await statement.execute(db)).numAffectedRows ?? 0n);
      removed[name] = (removed[name] ?? 0) + last;
    }
  }
  await sql`SELECT ensure_audit_partitions(3)`.execute(db);
  return removed;
}
