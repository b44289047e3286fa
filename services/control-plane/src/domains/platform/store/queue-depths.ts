import { sql } from 'kysely';
import type { Reader } from '../../../spine/operation.js';

export interface QueueDepths {
  /** events that wait for their delivery */
  readonly outboxUndelivered: number;
  /** age of the oldest of them; 0 where none waits */
  readonly outboxOldestSeconds: number;
  /** events that were given up and wait for an operator */
  readonly outboxFailed: number;
  readonly deadLetters: number;
  /** node tasks that no host has taken yet, and those under way on one */
  readonly nodeTasksQueued: number;
  readonly nodeTasksDispatched: number;
}

/**
 * How much waits in each queue. Every part is read from a partial index that holds only what waits, so the cost follows
 * the backlog and not the history. Reads `node_tasks` of fleet.
 */
export async function queueDepths(reader: Reader): Promise<QueueDepths> {
  const { rows } = await sql<QueueDepths>`
    SELECT
      (SELECT count(*)::int FROM outbox_events WHERE status IN ('pending', 'publishing')) AS "outboxUndelivered",
      (SELECT COALESCE(EXTRACT(EPOCH FROM clock_timestamp() - min(occurred_at)), 0)::float8
         FROM outbox_events WHERE status IN ('pending', 'publishing')) AS "outboxOldestSeconds",
      (SELECT count(*)::int FROM outbox_events WHERE status = 'failed') AS "outboxFailed",
      (SELECT count(*)::int FROM dead_letters WHERE state = 'dead') AS "deadLetters",
      (SELECT count(*)::int FROM node_tasks WHERE status = 'queued') AS "nodeTasksQueued",
      (SELECT count(*)::int FROM node_tasks WHERE status = 'dispatched') AS "nodeTasksDispatched"`.execute(reader);
  const depths = rows[0];
  if (!depths) throw new Error('a query without a condition gave no row');
  return depths;
}
