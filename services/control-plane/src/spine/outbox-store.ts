import { redactText } from '@gpuaas/kernel';
import { sql } from 'kysely';
import { notifyQuery, OUTBOX_CHANNEL } from './after-commit.js';
import type { Reader, Tx } from './operation.js';
import { deadLetterSubject } from './outbox-rules.js';

/** An event that one relay has taken to deliver. */
export interface ClaimedEvent {
  readonly id: string;
  readonly event_type: string;
  readonly version: number;
  readonly aggregate_type: string;
  readonly aggregate_id: string;
  readonly payload: unknown;
  readonly correlation_id: string;
  readonly trace_id: string;
  readonly occurred_at: Date;
  readonly retry_count: number;
  readonly attempts_total: number;
}

/**
 * Takes up to `limit` events that are due at `now`, each the oldest undelivered one of its aggregate, and holds them
 * for `leaseMilliseconds` of the server's time. What a relay held that has died is taken after its lease. Relays that
 * ask at the same moment get different events.
 */
export async function claimEvents(
  db: Reader,
  claim: { readonly claimedBy: string; readonly now: Date; readonly limit: number; readonly leaseMilliseconds: number },
): Promise<readonly ClaimedEvent[]> {
  // Others look at the same candidates; with more than it needs each still finds some that are free.
  const wide = claim.limit * 4;
  const { rows } = await sql<ClaimedEvent>`
    WITH candidates AS (
      (SELECT e.id FROM outbox_events e
       WHERE e.status = 'pending' AND e.next_attempt_at IS NULL AND ${isOldestOfAggregate}
       ORDER BY e.seq LIMIT ${wide})
      UNION ALL
      (SELECT e.id FROM outbox_events e
       WHERE e.status = 'pending' AND e.next_attempt_at <= ${claim.now} AND ${isOldestOfAggregate}
       ORDER BY e.next_attempt_at LIMIT ${wide})
      UNION ALL
      (SELECT e.id FROM outbox_events e
       WHERE e.status = 'publishing' AND e.claimed_until < clock_timestamp()
       ORDER BY e.claimed_until LIMIT ${wide})
    ), taken AS (
      -- The status is asked again here, on the row itself: another relay may have had it since.
      SELECT e.id FROM outbox_events e
      WHERE e.id IN (SELECT id FROM candidates)
        AND (e.status = 'pending' OR (e.status = 'publishing' AND e.claimed_until < clock_timestamp()))
      ORDER BY e.seq LIMIT ${claim.limit}
      FOR UPDATE OF e SKIP LOCKED
    )
    UPDATE outbox_events AS e
    SET status = 'publishing', claimed_by = ${claim.claimedBy},
        claimed_until = clock_timestamp() + ${claim.leaseMilliseconds} * interval '1 millisecond',
        last_attempted_at = ${claim.now}
    FROM taken WHERE e.id = taken.id
    RETURNING e.id, e.event_type, e.version, e.aggregate_type, e.aggregate_id, e.payload, e.correlation_id, e.trace_id,
              e.occurred_at, e.retry_count, e.attempts_total`.execute(db);
  return rows;
}

const isOldestOfAggregate = sql<boolean>`NOT EXISTS (
  SELECT FROM outbox_events earlier
  WHERE earlier.aggregate_type = e.aggregate_type AND earlier.aggregate_id = e.aggregate_id
    AND earlier.seq < e.seq AND earlier.status IN ('pending', 'publishing'))`;

/** Prolongs what this relay still works on. */
export async function renewClaims(
  db: Reader,
  claimedBy: string,
  ids: readonly string[],
  leaseMilliseconds: number,
): Promise<void> {
  await sql`
    UPDATE outbox_events SET claimed_until = clock_timestamp() + ${leaseMilliseconds} * interval '1 millisecond'
    WHERE id = ANY(${ids}::uuid[]) AND status = 'publishing' AND claimed_by = ${claimedBy}`.execute(db);
}

/** Gives back what was taken and not tried. */
export async function releaseClaims(db: Reader, claimedBy: string, ids: readonly string[]): Promise<void> {
  await sql`
    UPDATE outbox_events SET status = 'pending', claimed_by = NULL, claimed_until = NULL
    WHERE id = ANY(${ids}::uuid[]) AND status = 'publishing' AND claimed_by = ${claimedBy}`.execute(db);
}

/**
 * Settles events that every consumer has had. One that still has a dead letter of an earlier round stays failed.
 * Does nothing for an event that another relay has taken over meanwhile: that one settles it.
 */
export async function settleDelivered(db: Reader, claimedBy: string, ids: readonly string[], now: Date): Promise<void> {
  await sql`
    UPDATE outbox_events AS e
    SET claimed_by = NULL, claimed_until = NULL, next_attempt_at = NULL, attempts_total = attempts_total + 1,
        status = CASE WHEN still_dead THEN 'failed' ELSE 'published' END,
        published_at = CASE WHEN still_dead THEN NULL ELSE ${now}::timestamptz END,
        error = CASE WHEN still_dead THEN e.error END
    FROM (
      SELECT done.id,
             EXISTS (SELECT FROM dead_letters d WHERE d.event_id = done.id AND d.state = 'dead') AS still_dead
      FROM unnest(${ids}::uuid[]) AS done (id)
    ) AS done
    WHERE e.id = done.id AND e.status = 'publishing' AND e.claimed_by = ${claimedBy}`.execute(db);
}

export interface DeliveryFailure {
  readonly consumer: string;
  readonly error: string;
}

/** Ends our claim on an event with an attempt that failed. */
function giveBack(
  db: Reader,
  claimedBy: string,
  event: ClaimedEvent,
  failures: readonly DeliveryFailure[],
  next: { readonly status: 'pending' | 'failed'; readonly next_attempt_at: Date | null },
) {
  return db
    .updateTable('outbox_events')
    .set((eb) => ({
      ...next,
      claimed_by: null,
      claimed_until: null,
      retry_count: event.retry_count + 1,
      attempts_total: eb('attempts_total', '+', 1),
      error: describe(failures),
    }))
    .where('id', '=', event.id)
    .where('status', '=', 'publishing')
    .where('claimed_by', '=', claimedBy);
}

/** Puts an event off until `nextAttemptAt`. */
export async function settleForRetry(
  db: Reader,
  claimedBy: string,
  event: ClaimedEvent,
  failures: readonly DeliveryFailure[],
  nextAttemptAt: Date,
): Promise<void> {
  await giveBack(db, claimedBy, event, failures, { status: 'pending', next_attempt_at: nextAttemptAt }).execute();
}

/** Gives an event up: one dead letter for each consumer that failed, in the same transaction. */
export async function settleAsFailed(
  tx: Tx,
  claimedBy: string,
  event: ClaimedEvent,
  failures: readonly DeliveryFailure[],
): Promise<void> {
  const settled = await giveBack(tx, claimedBy, event, failures, { status: 'failed', next_attempt_at: null })
    .returning('id')
    .executeTakeFirst();
  if (!settled) return;
  await tx
    .insertInto('dead_letters')
    .values(
      failures.map((failure) => ({
        subject: deadLetterSubject(event.event_type),
        original_topic: event.event_type,
        event_id: event.id,
        consumer: failure.consumer,
        event_type: event.event_type,
        correlation_id: event.correlation_id,
        payload: JSON.stringify(event.payload),
        error: safeText(failure.error),
        occurred_at: event.occurred_at,
      })),
    )
    .execute();
}

const LONGEST_ERROR = 2_000;

/** Errors of handlers may quote what they were given. */
function safeText(error: string): string {
  return redactText(error).slice(0, LONGEST_ERROR);
}

function describe(failures: readonly DeliveryFailure[]): string {
  return safeText(failures.map((failure) => `${failure.consumer}: ${failure.error}`).join('; '));
}

/** The consumers that are not to be tried: an operator has not decided yet, or has decided to let it go. */
export async function consumersGivenUp(db: Reader, eventId: string): Promise<ReadonlySet<string>> {
  const rows = await db
    .selectFrom('dead_letters')
    .select('consumer')
    .where('event_id', '=', eventId)
    .where('state', 'in', ['dead', 'discarded'])
    .execute();
  return new Set(rows.map((row) => row.consumer));
}

/** True for the one transaction that may let the consumer have its effect; false where it has had it already. */
export async function claimInbox(tx: Tx, consumer: string, eventId: string): Promise<boolean> {
  const row = await tx
    .insertInto('inbox')
    .values({ consumer, event_id: eventId })
    .onConflict((conflict) => conflict.columns(['event_id', 'consumer']).doNothing())
    .returning('event_id')
    .executeTakeFirst();
  return row !== undefined;
}

export type OutboxDecision =
  | { readonly kind: 'done' }
  | { readonly kind: 'unknown' }
  | { readonly kind: 'not_failed'; readonly status: string };

interface Decider {
  readonly now: Date;
  readonly userId: string | null;
}

/** Tries a failed event again with all its consumers. Of two at the same time one finds it no longer failed. */
export async function requeueFailedEvent(tx: Tx, eventId: string, by: Decider): Promise<OutboxDecision> {
  return decideFailedEvent(tx, eventId, 'pending', 'requeued', by);
}

/** Lets a failed event go; consumers that have had it keep their effect. */
export async function discardFailedEvent(tx: Tx, eventId: string, by: Decider): Promise<OutboxDecision> {
  return decideFailedEvent(tx, eventId, 'discarded', 'discarded', by);
}

async function decideFailedEvent(
  tx: Tx,
  eventId: string,
  status: 'pending' | 'discarded',
  letters: 'requeued' | 'discarded',
  by: Decider,
): Promise<OutboxDecision> {
  // The event's row is always locked before its letters, whichever of the two an operator starts from.
  const event = await tx
    .selectFrom('outbox_events')
    .select('status')
    .where('id', '=', eventId)
    .forUpdate()
    .executeTakeFirst();
  if (!event) return { kind: 'unknown' };
  if (event.status !== 'failed') return { kind: 'not_failed', status: event.status };
  await tx.updateTable('outbox_events').set(reopened(status)).where('id', '=', eventId).execute();
  await tx
    .updateTable('dead_letters')
    .set({ state: letters, decided_at: by.now, decided_by: by.userId })
    .where('event_id', '=', eventId)
    .where('state', '=', 'dead')
    .execute();
  if (status === 'pending') await tx.executeQuery(notifyQuery(OUTBOX_CHANNEL, ''));
  return { kind: 'done' };
}

const reopened = (status: 'pending' | 'discarded') =>
  status === 'pending'
    ? { status, retry_count: 0, next_attempt_at: null, error: null }
    : { status, next_attempt_at: null };

export interface DeadLetter {
  readonly stream_seq: bigint;
  readonly subject: string;
  readonly original_topic: string | null;
  readonly event_id: string;
  readonly event_type: string | null;
  readonly consumer: string;
  readonly correlation_id: string | null;
}

/** Locks a letter that nobody has decided on yet, and its event before it; null where there is none. */
export async function lockDeadLetter(tx: Tx, streamSeq: bigint): Promise<DeadLetter | null> {
  const found = await tx
    .selectFrom('dead_letters')
    .select('event_id')
    .where('stream_seq', '=', streamSeq)
    .executeTakeFirst();
  if (!found) return null;
  await tx.selectFrom('outbox_events').select('id').where('id', '=', found.event_id).forUpdate().execute();
  const letter = await tx
    .selectFrom('dead_letters')
    .select(['stream_seq', 'subject', 'original_topic', 'event_id', 'event_type', 'consumer', 'correlation_id'])
    .where('stream_seq', '=', streamSeq)
    .where('state', '=', 'dead')
    .forUpdate()
    .executeTakeFirst();
  return letter ?? null;
}

/** Delivers the event of a locked letter again, to its consumer only. */
export async function requeueDeadLetter(tx: Tx, letter: DeadLetter, by: Decider): Promise<void> {
  await decideLetter(tx, letter, 'requeued', by);
  await tx
    .updateTable('outbox_events')
    .set(reopened('pending'))
    .where('id', '=', letter.event_id)
    .where('status', '=', 'failed')
    .execute();
  await tx.executeQuery(notifyQuery(OUTBOX_CHANNEL, ''));
}

/** Lets the effect of a locked letter go; its event is done once no other letter of it is open. */
export async function discardDeadLetter(tx: Tx, letter: DeadLetter, by: Decider): Promise<void> {
  await decideLetter(tx, letter, 'discarded', by);
  await tx
    .updateTable('outbox_events')
    .set(reopened('discarded'))
    .where('id', '=', letter.event_id)
    .where('status', '=', 'failed')
    .where((eb) =>
      eb.not(
        eb.exists(
          eb
            .selectFrom('dead_letters')
            .select('stream_seq')
            .where('event_id', '=', letter.event_id)
            .where('state', '=', 'dead'),
        ),
      ),
    )
    .execute();
}

async function decideLetter(tx: Tx, letter: DeadLetter, state: 'requeued' | 'discarded', by: Decider): Promise<void> {
  await tx
    .updateTable('dead_letters')
    .set({ state, decided_at: by.now, decided_by: by.userId })
    .where('stream_seq', '=', letter.stream_seq)
    .execute();
}
