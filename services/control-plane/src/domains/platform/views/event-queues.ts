import type { Schema } from '@gpuaas/contract';
import { toWireInteger, toWireTime, toWireTimeOrNull } from '../../../spine/wire.js';
import { shownPayload } from '../rules/stored-payload.js';
import type { DeadMessage, FailedEvent } from '../store/event-queues.js';

export function failedEventView(event: FailedEvent): Schema<'AdminOutboxFailedEvent'> {
  return {
    id: event.id,
    aggregate_type: event.aggregate_type,
    aggregate_id: event.aggregate_id,
    event_type: event.event_type,
    payload: shownPayload(event.payload),
    correlation_id: event.correlation_id,
    retry_count: event.retry_count,
    last_attempted_at: toWireTimeOrNull(event.last_attempted_at),
    occurred_at: toWireTime(event.occurred_at),
  };
}

export function deadMessageView(message: DeadMessage, requeueEnabled: boolean): Schema<'AdminDLQMessage'> {
  return {
    stream_seq: toWireInteger(message.stream_seq),
    subject: message.subject,
    original_topic: message.original_topic,
    event_type: message.event_type,
    correlation_id: message.correlation_id,
    occurred_at: toWireTimeOrNull(message.occurred_at),
    payload: shownPayload(message.payload),
    requeue_enabled: requeueEnabled,
  };
}
