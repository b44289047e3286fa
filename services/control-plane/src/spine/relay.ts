import { setTimeout as delay } from 'node:timers/promises';
import { type Clock, childTrace, errorChain, type Logger, newId } from '@gpuaas/kernel';
import { OUTBOX_CHANNEL } from './after-commit.js';
import type { CallContext, Reader, Tx } from './operation.js';
import { afterFailure } from './outbox-rules.js';
import {
  type ClaimedEvent,
  claimEvents,
  claimInbox,
  consumersGivenUp,
  type DeliveryFailure,
  releaseClaims,
  renewClaims,
  settleAsFailed,
  settleDelivered,
  settleForRetry,
} from './outbox-store.js';
import type { Signals } from './signals.js';
import { inTransaction } from './transaction.js';

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

export interface RelayObservation {
  readonly eventType: string;
  readonly outcome: 'published' | 'retry' | 'failed';
  /** from the writing of the event to this outcome */
  readonly ageSeconds: number;
}

export interface RelayOptions {
  readonly db: Reader;
  readonly subscribers: readonly EventSubscriber[];
  readonly signals: Pick<Signals, 'subscribe' | 'onGap'>;
  readonly clock: Clock;
  readonly log: Logger;
  /** events that are delivered at the same time; each takes one connection of the pool */
  readonly concurrency?: number;
  /** how often the outbox is looked at when nothing announces itself */
  readonly pollMilliseconds?: number;
  /** after how long others take over what a dead relay held */
  readonly leaseMilliseconds?: number;
  readonly observe?: (observation: RelayObservation) => void;
}

export interface Relay {
  /** Looks for work now. */
  wake(): void;
  /** Finishes what is under way, gives back the rest. */
  stop(): Promise<void>;
}

const BATCH = 64;

/**
 * Delivers the outbox to the subscribers. Any number of relays in any number of processes share the work: events of
 * one aggregate are delivered one after the other in the order of their writing, others in parallel. Which consumer
 * has had which event is decided by the inbox alone, so a relay may die anywhere.
 */
export function startRelay(options: RelayOptions): Relay {
  const { db, signals, clock, log } = options;
  const concurrency = options.concurrency ?? 8;
  const pollMilliseconds = options.pollMilliseconds ?? 1_000;
  const leaseMilliseconds = options.leaseMilliseconds ?? 6_000;
  const claimedBy = newId<'relay'>();
  const byType = subscribersByType(options.subscribers);

  const waiting: ClaimedEvent[] = [];
  const underWay = new Map<string, Promise<void>>();
  const delivered = new Set<string>();
  const stopping = new AbortController();
  let settling: Promise<void> | null = null;
  let pause: AbortController | null = null;
  let woken = true;

  const wake = (): void => {
    woken = true;
    pause?.abort();
  };

  const observe = (event: ClaimedEvent, outcome: RelayObservation['outcome']): void => {
    const ageSeconds = Math.max(0, (Date.now() - event.occurred_at.getTime()) / 1000);
    options.observe?.({ eventType: event.event_type, outcome, ageSeconds });
  };

  // One UPDATE for all that were delivered while the last one was under way.
  const settle = (): Promise<void> => {
    settling ??= (async () => {
      try {
        while (delivered.size > 0) {
          const ids = [...delivered];
          await settleDelivered(db, claimedBy, ids, clock.now());
          for (const id of ids) delivered.delete(id);
          // The next event of the same aggregate has become free.
          wake();
        }
      } catch (error) {
        // They stay claimed and are settled with the next ones, or are delivered again, which the inbox makes harmless.
        log.warn({ error: errorChain(error) }, 'delivered events could not be settled yet');
      } finally {
        settling = null;
      }
    })();
    return settling;
  };

  const deliverTo = async (subscriber: EventSubscriber, event: ClaimedEvent): Promise<DeliveryFailure | null> => {
    const ctx: CallContext = {
      principal: { kind: 'system', name: subscriber.name },
      requestId: event.id,
      correlationId: event.correlation_id,
      trace: childTrace({ traceId: event.trace_id, spanId: '', sampled: true }),
      clock,
      log: log.child({ consumer: subscriber.name, eventId: event.id, correlationId: event.correlation_id }),
      actorIp: null,
      userAgent: null,
    };
    try {
      await inTransaction(db, async (tx) => {
        if (await claimInbox(tx, subscriber.name, event.id)) await subscriber.handle(tx, ctx, deliveredForm(event));
      });
      return null;
    } catch (error) {
      const reason = errorChain(error);
      ctx.log.warn({ eventType: event.event_type, attempt: event.retry_count + 1, error: reason }, 'an event failed');
      return { consumer: subscriber.name, error: reason };
    }
  };

  const deliver = async (event: ClaimedEvent): Promise<void> => {
    const subscribers = byType.get(event.event_type) ?? [];
    // Only an event that has failed before can have letters.
    const givenUp = event.attempts_total > 0 ? await consumersGivenUp(db, event.id) : new Set<string>();
    const failures: DeliveryFailure[] = [];
    for (const subscriber of subscribers) {
      if (givenUp.has(subscriber.name)) continue;
      const failure = await deliverTo(subscriber, event);
      if (failure) failures.push(failure);
    }
    if (failures.length === 0) {
      delivered.add(event.id);
      observe(event, 'published');
      await settle();
      return;
    }
    const next = afterFailure(event.retry_count + 1);
    if (next.kind === 'retry') {
      const at = new Date(clock.now().getTime() + next.delayMilliseconds);
      await settleForRetry(db, claimedBy, event, failures, at);
      observe(event, 'retry');
      return;
    }
    await inTransaction(db, (tx) => settleAsFailed(tx, claimedBy, event, failures));
    log.error({ eventId: event.id, eventType: event.event_type }, 'an event was given up');
    observe(event, 'failed');
    wake();
  };

  const start = (event: ClaimedEvent): void => {
    const run = deliver(event)
      .catch((error: unknown) => {
        // The database is away. The claim runs out by itself, and somebody delivers the event again.
        log.warn({ eventId: event.id, error: errorChain(error) }, 'an event was left to its next delivery');
      })
      .finally(() => underWay.delete(event.id));
    underWay.set(event.id, run);
  };

  const rest = async (milliseconds: number): Promise<void> => {
    pause = new AbortController();
    // Between the last look and here something may have woken us.
    if (woken || stopping.signal.aborted) pause.abort();
    await delay(milliseconds, undefined, { signal: pause.signal }).catch(() => undefined);
    pause = null;
  };

  const pump = async (): Promise<void> => {
    while (!stopping.signal.aborted) {
      while (underWay.size < concurrency) {
        const event = waiting.shift();
        if (!event) break;
        start(event);
      }
      if (waiting.length > 0) {
        // All hands are busy.
        await Promise.race(underWay.values());
        continue;
      }
      woken = false;
      try {
        const claimed = await claimEvents(db, { claimedBy, now: clock.now(), limit: BATCH, leaseMilliseconds });
        waiting.push(...claimed);
        if (claimed.length > 0) continue;
      } catch (error) {
        log.warn({ error: errorChain(error) }, 'the outbox cannot be read');
      }
      await rest(pollMilliseconds);
    }
  };

  const keepClaims = async (): Promise<void> => {
    while (!stopping.signal.aborted) {
      await delay(leaseMilliseconds / 3, undefined, { signal: stopping.signal }).catch(() => undefined);
      const ids = [...underWay.keys(), ...waiting.map((event) => event.id), ...delivered];
      if (ids.length === 0) continue;
      if (delivered.size > 0) await settle();
      await renewClaims(db, claimedBy, ids, leaseMilliseconds).catch((error: unknown) =>
        log.warn({ error: errorChain(error) }, 'claims could not be prolonged'),
      );
    }
  };

  const unsubscribe = signals.subscribe(OUTBOX_CHANNEL, wake);
  const unsubscribeGap = signals.onGap(wake);
  const loops = Promise.all([pump(), keepClaims()]);

  return {
    wake,
    async stop() {
      unsubscribe();
      unsubscribeGap();
      stopping.abort();
      wake();
      await loops;
      await Promise.all(underWay.values());
      await settle();
      const rest = [...waiting.splice(0).map((event) => event.id)];
      if (rest.length > 0) {
        await releaseClaims(db, claimedBy, rest).catch((error: unknown) =>
          log.warn({ error: errorChain(error) }, 'claims could not be given back'),
        );
      }
    },
  };
}

function subscribersByType(subscribers: readonly EventSubscriber[]): ReadonlyMap<string, readonly EventSubscriber[]> {
  const names = new Set<string>();
  const byType = new Map<string, EventSubscriber[]>();
  for (const subscriber of subscribers) {
    // The inbox would take the second for the first and let it never act.
    if (names.has(subscriber.name)) throw new Error(`two subscribers are called ${subscriber.name}`);
    names.add(subscriber.name);
    for (const type of new Set(subscriber.eventTypes)) byType.set(type, [...(byType.get(type) ?? []), subscriber]);
  }
  return byType;
}

function deliveredForm(event: ClaimedEvent): DeliveredEvent {
  return {
    eventId: event.id,
    eventType: event.event_type,
    version: event.version,
    occurredAt: event.occurred_at,
    aggregateType: event.aggregate_type,
    aggregateId: event.aggregate_id,
    correlationId: event.correlation_id,
    payload: event.payload,
  };
}
