import type { CallContext, Tx } from './operation.js';

/** An event as a subscriber receives it. */
export interface DeliveredEvent {
  readonly eventId: string;
  readonly eventType: string;
  readonly version: number;
  readonly occurredAt: Date;
  readonly aggregateType: string;
  readonly aggregateId: string;
  readonly correlationId: string;
  readonly payload: unknown;
}

/**
 * Acts on events, each in one transaction together with its inbox row: delivered at least once, effective once.
 * `handle` parses the payload itself; a throw means "try again later", after the last attempt a dead letter.
 */
export interface EventSubscriber {
  /** stable for ever: the inbox is keyed by it */
  readonly name: string;
  readonly eventTypes: readonly string[];
  handle(tx: Tx, ctx: CallContext, event: DeliveredEvent): Promise<void>;
}
