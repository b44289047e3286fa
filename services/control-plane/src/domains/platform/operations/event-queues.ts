import { audit } from '../../../spine/audit.js';
import { pageOf, pageRequest } from '../../../spine/cursors.js';
import {
  type CommandContext,
  command,
  query,
  type Reader,
  type RequestContext,
  type Tx,
} from '../../../spine/operation.js';
import {
  type DeadLetter,
  discardDeadLetter,
  discardFailedEvent,
  lockDeadLetter,
  type OutboxDecision,
  requeueDeadLetter,
  requeueFailedEvent,
} from '../../../spine/outbox-store.js';
import { badRequest, conflict, notFound } from '../../../spine/refusal.js';
import type { EventSubscriber } from '../../../spine/relay.js';
import { listDeadMessages, listFailedEvents } from '../store/event-queues.js';
import { deadMessageView, failedEventView } from '../views/event-queues.js';

/** Who consumes what; a letter can be delivered again only while its consumer exists. */
export type Consumer = Pick<EventSubscriber, 'name' | 'eventTypes'>;

interface ListQuery {
  readonly cursor?: string | undefined;
  readonly page_size?: number | undefined;
}

async function failedEvents({ db, ctx, query }: { db: Reader; ctx: RequestContext; query: ListQuery }) {
  const request = pageRequest(
    ctx,
    { operation: 'failed outbox events', context: 'platform', filters: {}, sort: '-occurred_at' },
    query,
  );
  const [time, id] = request.after ?? [];
  const after = time && id ? { occurredAt: new Date(time), id } : null;
  const found = await listFailedEvents(db, { after, limit: request.pageSize + 1 });
  const { rows, pagination } = pageOf(ctx, request, found, (row) => [row.occurred_at.toISOString(), row.id]);
  return { status: 200 as const, body: { items: rows.map(failedEventView), pagination } };
}

export const adminListFailedOutboxEvents = query<'adminListFailedOutboxEvents'>(failedEvents);
export const listV3PlatformOpsFailedOutboxEvents = query<'listV3PlatformOpsFailedOutboxEvents'>(failedEvents);

interface EventInput {
  readonly tx: Tx;
  readonly ctx: CommandContext;
  readonly path: { readonly event_id: string };
}

async function requeueEvent({ tx, ctx, path }: EventInput) {
  settle(await requeueFailedEvent(tx, path.event_id, deciderOf(ctx)));
  await audit(tx, ctx, {
    action: 'platform.outbox.requeued',
    targetType: 'outbox_event',
    targetId: path.event_id,
  });
  return { status: 200 as const, body: { ok: true, outbox_event_id: path.event_id, status: 'pending' as const } };
}

async function discardEvent({ tx, ctx, path }: EventInput) {
  settle(await discardFailedEvent(tx, path.event_id, deciderOf(ctx)));
  await audit(tx, ctx, {
    action: 'platform.outbox.discarded',
    targetType: 'outbox_event',
    targetId: path.event_id,
  });
  return { status: 200 as const, body: { ok: true, outbox_event_id: path.event_id, status: 'discarded' as const } };
}

function settle(decision: OutboxDecision): void {
  if (decision.kind === 'unknown') throw notFound('outbox_event');
  if (decision.kind === 'not_failed') throw conflict('outbox_event_not_failed', { status: decision.status });
}

export const adminRequeueOutboxEvent = command<'adminRequeueOutboxEvent'>(requeueEvent);
export const requeueV3PlatformOpsOutboxEvent = adminRequeueOutboxEvent;
export const adminDiscardOutboxEvent = command<'adminDiscardOutboxEvent'>(discardEvent);
export const discardV3PlatformOpsOutboxEvent = adminDiscardOutboxEvent;

interface LetterInput {
  readonly tx: Tx;
  readonly ctx: CommandContext;
  readonly path: { readonly stream_seq: number };
}

/** The operations on dead letters. `consumers` is asked at each call: it is complete only once all domains stand. */
export function createDeadLetterOperations(consumers: () => readonly Consumer[]) {
  const canRequeue = (letter: Pick<DeadLetter, 'original_topic' | 'consumer'>): boolean =>
    letter.original_topic !== null &&
    consumers().some(
      ({ name, eventTypes }) => name === letter.consumer && eventTypes.includes(letter.original_topic ?? ''),
    );

  const deadMessages = async (input: {
    db: Reader;
    ctx: RequestContext;
    query: ListQuery & { readonly subject_prefix?: string | undefined };
  }) => {
    const { db, ctx, query } = input;
    const subjectPrefix = query.subject_prefix ?? null;
    const request = pageRequest(
      ctx,
      { operation: 'dead letters', context: 'platform', filters: { subjectPrefix }, sort: '-stream_seq' },
      query,
    );
    const [position] = request.after ?? [];
    const after = position ? BigInt(position) : null;
    const found = await listDeadMessages(db, { subjectPrefix, after, limit: request.pageSize + 1 });
    const { rows, pagination } = pageOf(ctx, request, found, (row) => [String(row.stream_seq)]);
    return {
      status: 200 as const,
      body: { items: rows.map((row) => deadMessageView(row, canRequeue(row))), pagination },
    };
  };

  const requeueMessage = async ({ tx, ctx, path }: LetterInput) => {
    const letter = await lockLetter(tx, path.stream_seq);
    if (!canRequeue(letter)) throw conflict('requeue_disabled', {}, 'nobody consumes this message any more');
    await requeueDeadLetter(tx, letter, deciderOf(ctx));
    await auditLetter(tx, ctx, 'platform.dlq.requeued', letter);
    return {
      status: 200 as const,
      body: {
        ok: true,
        stream_seq: path.stream_seq,
        status: 'requeued' as const,
        target_subject: letter.original_topic,
      },
    };
  };

  const discardMessage = async ({ tx, ctx, path }: LetterInput) => {
    const letter = await lockLetter(tx, path.stream_seq);
    await discardDeadLetter(tx, letter, deciderOf(ctx));
    await auditLetter(tx, ctx, 'platform.dlq.discarded', letter);
    return {
      status: 200 as const,
      body: { ok: true, stream_seq: path.stream_seq, status: 'discarded' as const, target_subject: null },
    };
  };

  const requeueDeadMessage = command<'adminRequeueDLQMessage'>(requeueMessage);
  const discardDeadMessage = command<'adminDiscardDLQMessage'>(discardMessage);

  return {
    adminListDLQMessages: query<'adminListDLQMessages'>(deadMessages),
    listV3PlatformOpsDLQMessages: query<'listV3PlatformOpsDLQMessages'>(deadMessages),
    adminRequeueDLQMessage: requeueDeadMessage,
    requeueV3PlatformOpsDLQMessage: requeueDeadMessage,
    adminDiscardDLQMessage: discardDeadMessage,
    discardV3PlatformOpsDLQMessage: discardDeadMessage,
  };
}

async function lockLetter(tx: Tx, streamSeq: number): Promise<DeadLetter> {
  // A larger number was rounded on its way and could name another message.
  if (!Number.isSafeInteger(streamSeq)) {
    throw badRequest('stream_seq_out_of_range', '/path/stream_seq', 'must be below 2^53');
  }
  const letter = await lockDeadLetter(tx, BigInt(streamSeq));
  if (!letter) throw notFound('dlq_message');
  return letter;
}

async function auditLetter(tx: Tx, ctx: CommandContext, action: string, letter: DeadLetter): Promise<void> {
  await audit(tx, ctx, {
    action,
    targetType: 'dlq_message',
    targetId: String(letter.stream_seq),
    metadata: { event_id: letter.event_id, consumer: letter.consumer, subject: letter.subject },
  });
}

function deciderOf(ctx: CommandContext): { now: Date; userId: string | null } {
  return { now: ctx.clock.now(), userId: ctx.principal.kind === 'user' ? ctx.principal.userId : null };
}
