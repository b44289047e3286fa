import type { Reader } from '../../../spine/operation.js';

export interface FailedEvent {
  readonly id: string;
  readonly aggregate_type: string;
  readonly aggregate_id: string;
  readonly event_type: string;
  readonly payload: unknown;
  readonly correlation_id: string;
  readonly retry_count: number;
  readonly last_attempted_at: Date | null;
  readonly occurred_at: Date;
}

export interface FailedEventPosition {
  readonly occurredAt: Date;
  readonly id: string;
}

/** Events that were given up and that nobody has decided on, newest first. */
export async function listFailedEvents(
  db: Reader,
  page: { readonly after: FailedEventPosition | null; readonly limit: number },
): Promise<readonly FailedEvent[]> {
  let rows = db
    .selectFrom('outbox_events')
    .select([
      'id',
      'aggregate_type',
      'aggregate_id',
      'event_type',
      'payload',
      'correlation_id',
      'retry_count',
      'last_attempted_at',
      'occurred_at',
    ])
    .where('status', '=', 'failed');
  const { after } = page;
  if (after) {
    rows = rows.where((eb) => eb(eb.refTuple('occurred_at', 'id'), '<', eb.tuple(after.occurredAt, after.id)));
  }
  return rows.orderBy('occurred_at', 'desc').orderBy('id', 'desc').limit(page.limit).execute();
}

export interface DeadMessage {
  readonly stream_seq: bigint;
  readonly subject: string;
  readonly original_topic: string | null;
  readonly event_type: string | null;
  readonly consumer: string;
  readonly correlation_id: string | null;
  readonly occurred_at: Date | null;
  readonly payload: unknown;
}

/** Dead letters that nobody has decided on, newest first. */
export async function listDeadMessages(
  db: Reader,
  page: { readonly subjectPrefix: string | null; readonly after: bigint | null; readonly limit: number },
): Promise<readonly DeadMessage[]> {
  let rows = db
    .selectFrom('dead_letters')
    .select([
      'stream_seq',
      'subject',
      'original_topic',
      'event_type',
      'consumer',
      'correlation_id',
      'occurred_at',
      'payload',
    ])
    .where('state', '=', 'dead');
  if (page.subjectPrefix !== null) rows = rows.where('subject', 'like', `${escapeLike(page.subjectPrefix)}%`);
  if (page.after !== null) rows = rows.where('stream_seq', '<', page.after);
  return rows.orderBy('stream_seq', 'desc').limit(page.limit).execute();
}

function escapeLike(text: string): string {
  return text.replaceAll(/[\\%_]/g, (character) => `\\${character}`);
}
