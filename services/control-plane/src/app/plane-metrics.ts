import { Counter, Gauge, Histogram } from 'prom-client';
import { type QueueDepths, queueDepths } from '../domains/platform/index.js';
import type { EdgeMetrics } from '../edge/metrics.js';
import type { Reader } from '../spine/operation.js';
import type { JobObservation } from '../spine/periodic-jobs.js';
import type { RelayObservation } from '../spine/relay.js';
import type { Domains } from './compose.js';

const QUEUES = {
  gpuaas_outbox_undelivered: ['Events that wait for their delivery', 'outboxUndelivered'],
  gpuaas_outbox_oldest_seconds: ['Age of the oldest undelivered event', 'outboxOldestSeconds'],
  gpuaas_outbox_failed: ['Events that were given up', 'outboxFailed'],
  gpuaas_dead_letters: ['Dead letters that nobody has decided about', 'deadLetters'],
  provisioning_queue_depth: ['Node tasks that no host has taken', 'nodeTasksQueued'],
  gpuaas_node_tasks_dispatched: ['Node tasks under way on a host', 'nodeTasksDispatched'],
} as const satisfies Record<string, readonly [string, keyof QueueDepths]>;

/** A failed scrape must not be asked for again by each gauge of the same scrape. */
const SHARED_MILLISECONDS = 500;

/** What the process tells about its queues, polls, events and jobs. A queue that cannot be read is absent, not empty. */
export function registerPlaneMetrics(
  metrics: EdgeMetrics,
  parts: { readonly db: Reader; readonly domains: Pick<Domains, 'fleet'> },
): { relayed(observation: RelayObservation): void; jobRan(observation: JobObservation): void } {
  let shared: { readonly at: number; readonly depths: Promise<QueueDepths | null> } | null = null;
  const read = (): Promise<QueueDepths | null> => {
    const now = performance.now();
    if (shared === null || now - shared.at > SHARED_MILLISECONDS) {
      shared = { at: now, depths: queueDepths(parts.db).catch(() => null) };
    }
    return shared.depths;
  };
  for (const [name, [help, key]] of Object.entries(QUEUES)) {
    metrics.gauge(name, help, async () => (await read())?.[key] ?? null);
  }
  metrics.gauge('gpuaas_held_polls', 'Polls of hosts that wait in this process', () => parts.domains.fleet.heldPolls());

  const registers = [metrics.registry];
  const events = new Counter({
    name: 'gpuaas_events_relayed_total',
    help: 'Attempts to deliver events, by type and outcome',
    labelNames: ['event_type', 'outcome'],
    registers,
  });
  const eventAge = new Histogram({
    name: 'gpuaas_event_delivery_seconds',
    help: 'Time from the commit of an event to its delivery',
    buckets: [0.01, 0.05, 0.1, 0.5, 1, 5, 30, 300],
    registers,
  });
  const jobs = new Counter({
    name: 'gpuaas_periodic_job_runs_total',
    help: 'Runs of periodic jobs, by outcome',
    labelNames: ['job', 'outcome'],
    registers,
  });
  const jobSeconds = new Gauge({
    name: 'gpuaas_periodic_job_last_seconds',
    help: 'How long the last run of a periodic job took',
    labelNames: ['job'],
    registers,
  });
  return {
    relayed({ eventType, outcome, ageSeconds }) {
      events.inc({ event_type: eventType, outcome });
      if (outcome === 'published') eventAge.observe(ageSeconds);
    },
    jobRan({ name, outcome, seconds }) {
      jobs.inc({ job: name, outcome });
      jobSeconds.set({ job: name }, seconds);
    },
  };
}
