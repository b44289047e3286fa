import { newId, redact } from '@gpuaas/kernel';
import type { CallContext, Tx } from './operation.js';

export interface DomainEvent {
  /** `gpuaas.provisioning.requested`; a payload that breaks its readers gets a new `version` */
  readonly type: string;
  readonly version?: number;
  /** events of one aggregate are delivered in order */
  readonly aggregateType: string;
  readonly aggregateId: string;
  /** ids and facts, no secrets, no rows */
  readonly payload: Readonly<Record<string, unknown>>;
}

/**
 * Records an event in the caller's transaction; the relay delivers it after the commit, at least once.
 * Returns the event's id, which subscribers use to act once. Throws for a payload in which something looks like a
 * secret: what is stored here is shown to operators and handed to others.
 */
export async function publish(tx: Tx, ctx: CallContext, event: DomainEvent): Promise<string> {
  const id = newId();
  const payload = JSON.stringify(event.payload);
  if (JSON.stringify(redact(event.payload)) !== payload) throw new Error(`event ${event.type} would carry a secret`);
  await tx
    .insertInto('outbox_events')
    .values({
      id,
      event_type: event.type,
      version: event.version ?? 1,
      aggregate_type: event.aggregateType,
      aggregate_id: event.aggregateId,
      payload,
      correlation_id: ctx.correlationId,
      request_id: ctx.requestId,
      trace_id: ctx.trace.traceId,
    })
    .execute();
  return id;
}
