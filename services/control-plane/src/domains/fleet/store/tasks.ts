import { asId, type NodeId, type NodeTaskId, newId } from '@gpuaas/kernel';
import {
  isNodeTaskType,
  MAX_RUNNING_TASKS,
  mayNodeRun,
  NODE_STATUSES,
  NODE_TASK_TYPES,
  type NodeTaskType,
  TASK_LEASE_SECONDS,
} from '@gpuaas/node-protocol';
import { sql } from 'kysely';
import type { Reader, Tx } from '../../../spine/operation.js';
import { LIVE_TASK_STATUSES, type NodeTaskEnd, type NodeTaskStatus } from '../rules/task-state.js';

export interface NewTask {
  readonly id: NodeTaskId;
  readonly nodeId: NodeId;
  readonly type: NodeTaskType;
  readonly paramsSealed: string;
  readonly paramsHash: string;
  readonly resourceKey: string;
  /** 0: in hand; 1: behind a task that a host may already have */
  readonly generation: 0 | 1;
  readonly operationId: string | null;
  readonly subjectType: string;
  readonly subjectId: string;
  readonly correlationId: string;
  readonly requestId: string;
  readonly traceId: string;
  readonly issuedAt: Date;
  readonly expiresAt: Date;
}

/**
 * Writes the task where the node may be given one of its type and has no live one of this generation, type and key.
 * False where either fails; the caller then looks which.
 */
export async function insertTaskIfFree(tx: Tx, task: NewTask): Promise<boolean> {
  const statuses = NODE_STATUSES.filter((status) => mayNodeRun(task.type, { status, fenced: false }));
  const inserted = await sql<{ id: string }>`
    INSERT INTO node_tasks (id, node_id, task_type, params_sealed, params_hash, resource_key, generation, operation_id,
      subject_type, subject_id, correlation_id, request_id, trace_id, issued_at, expires_at)
    SELECT ${task.id}::uuid, n.id, ${task.type}, ${task.paramsSealed}, ${task.paramsHash}, ${task.resourceKey},
      ${task.generation}::smallint, ${task.operationId}, ${task.subjectType}, ${task.subjectId}, ${task.correlationId},
      ${task.requestId}, ${task.traceId}, ${task.issuedAt}::timestamptz, ${task.expiresAt}::timestamptz
    FROM nodes n
    WHERE n.id = ${task.nodeId} AND n.removed_at IS NULL AND n.status = ANY(${statuses}::text[])
      AND (n.fenced_at IS NULL OR n.status = 'removing')
    ON CONFLICT (node_id, task_type, resource_key, generation) WHERE status IN ('queued', 'dispatched') DO NOTHING
    RETURNING id`.execute(tx);
  return inserted.rows.length === 1;
}

/** Puts other params and another asker into a task that no host has seen. */
export async function replaceTask(tx: Tx, id: NodeTaskId, task: Omit<NewTask, 'id' | 'generation'>): Promise<void> {
  await tx
    .updateTable('node_tasks')
    .set({
      params_sealed: task.paramsSealed,
      params_hash: task.paramsHash,
      operation_id: task.operationId,
      subject_type: task.subjectType,
      subject_id: task.subjectId,
      correlation_id: task.correlationId,
      request_id: task.requestId,
      trace_id: task.traceId,
      issued_at: task.issuedAt,
      expires_at: task.expiresAt,
    })
    .where('id', '=', id)
    .where('status', '=', 'queued')
    .where('attempt', '=', 0)
    .execute();
}

export interface LiveTask {
  readonly id: NodeTaskId;
  readonly generation: number;
  readonly attempt: number;
  readonly paramsHash: string;
  readonly operationId: string | null;
}

/** Locks the live tasks of one type and key on a node, the one in hand first. */
export async function lockLiveTasks(
  tx: Tx,
  nodeId: NodeId,
  type: NodeTaskType,
  resourceKey: string,
): Promise<readonly LiveTask[]> {
  const rows = await tx
    .selectFrom('node_tasks')
    .select(['id', 'generation', 'attempt', 'params_hash', 'operation_id'])
    .where('node_id', '=', nodeId)
    .where('task_type', '=', type)
    .where('resource_key', '=', resourceKey)
    .where('status', 'in', LIVE_TASK_STATUSES)
    .orderBy('generation')
    .forUpdate()
    .execute();
  return rows.map((row) => ({
    id: asId(row.id),
    generation: row.generation,
    attempt: row.attempt,
    paramsHash: row.params_hash,
    operationId: row.operation_id,
  }));
}

export interface TaskRow {
  readonly id: NodeTaskId;
  readonly nodeId: NodeId;
  readonly type: NodeTaskType;
  readonly paramsSealed: string;
  readonly resourceKey: string;
  readonly generation: number;
  readonly status: NodeTaskStatus;
  readonly operationId: string | null;
  readonly subjectType: string;
  readonly subjectId: string;
  readonly correlationId: string;
  readonly attempt: number;
  readonly issuedAt: Date;
  readonly expiresAt: Date;
  readonly dispatchedAt: Date | null;
  readonly leaseExpiresAt: Date | null;
  readonly completedAt: Date | null;
  readonly error: string | null;
  readonly outputSealed: string | null;
  readonly resultHash: string | null;
}

const TASK_COLUMNS = [
  'node_tasks.id',
  'node_tasks.node_id',
  'node_tasks.task_type',
  'node_tasks.params_sealed',
  'node_tasks.resource_key',
  'node_tasks.generation',
  'node_tasks.status',
  'node_tasks.operation_id',
  'node_tasks.subject_type',
  'node_tasks.subject_id',
  'node_tasks.correlation_id',
  'node_tasks.attempt',
  'node_tasks.issued_at',
  'node_tasks.expires_at',
  'node_tasks.dispatched_at',
  'node_tasks.lease_expires_at',
  'node_tasks.completed_at',
  'node_tasks.error',
  'node_tasks.output_sealed',
  'node_tasks.result_hash',
] as const;

/**
 * Locks a task of this node, and tells how many signatures in a row its host has refused; null for an unknown task and
 * for another node's.
 */
export async function lockTaskOfNode(
  tx: Tx,
  nodeId: NodeId,
  taskId: NodeTaskId,
): Promise<{ readonly task: TaskRow; readonly signatureRejections: number } | null> {
  const row = await tx
    .selectFrom('node_tasks')
    .innerJoin('nodes', 'nodes.id', 'node_tasks.node_id')
    .select(TASK_COLUMNS)
    .select('nodes.signature_rejections')
    .where('node_tasks.id', '=', taskId)
    .where('node_tasks.node_id', '=', nodeId)
    .forUpdate('node_tasks')
    .executeTakeFirst();
  return row ? { task: taskOf(row), signatureRejections: row.signature_rejections } : null;
}

/** Locks a live task unless somebody else holds it; null where it has ended or is held. */
export async function lockLiveTaskIfFree(tx: Tx, taskId: NodeTaskId): Promise<TaskRow | null> {
  const row = await tx
    .selectFrom('node_tasks')
    .select(TASK_COLUMNS)
    .where('id', '=', taskId)
    .where('status', 'in', LIVE_TASK_STATUSES)
    .forUpdate()
    .skipLocked()
    .executeTakeFirst();
  return row ? taskOf(row) : null;
}

/** The live tasks of a node, oldest first. */
export async function findLiveTasksOfNode(reader: Reader, nodeId: NodeId): Promise<readonly NodeTaskId[]> {
  const rows = await reader
    .selectFrom('node_tasks')
    .select('id')
    .where('node_id', '=', nodeId)
    .where('status', 'in', LIVE_TASK_STATUSES)
    .orderBy('issued_at')
    .orderBy('id')
    .execute();
  return rows.map((row) => asId(row.id));
}

/** The newest task of a type on a node. */
export async function findNewestTask(reader: Reader, nodeId: NodeId, type: NodeTaskType): Promise<TaskRow | null> {
  const row = await reader
    .selectFrom('node_tasks')
    .select(TASK_COLUMNS)
    .where('node_id', '=', nodeId)
    .where('task_type', '=', type)
    .orderBy('issued_at', 'desc')
    .orderBy('id', 'desc')
    .limit(1)
    .executeTakeFirst();
  return row ? taskOf(row) : null;
}

export async function countTasksSince(
  reader: Reader,
  nodeId: NodeId,
  type: NodeTaskType,
  since: Date,
): Promise<number> {
  const row = await reader
    .selectFrom('node_tasks')
    .select((eb) => eb.fn.countAll<bigint>().as('count'))
    .where('node_id', '=', nodeId)
    .where('task_type', '=', type)
    .where('issued_at', '>=', since)
    .executeTakeFirstOrThrow();
  return Number(row.count);
}

export interface TaskEnd {
  readonly status: NodeTaskEnd;
  readonly error: string | null;
  readonly outputSealed: string | null;
  readonly resultHash: string | null;
  readonly at: Date;
}

/**
 * Ends a live task that the caller has locked; the one that waits behind it moves up. Tells whether anything waits for
 * the node now.
 */
export async function endTask(tx: Tx, task: TaskRow, end: TaskEnd): Promise<{ readonly moreWaits: boolean }> {
  await tx
    .updateTable('node_tasks')
    .set({
      status: end.status,
      lease_expires_at: null,
      completed_at: end.at,
      error: end.error,
      output_sealed: end.outputSealed,
      result_hash: end.resultHash,
    })
    .where('id', '=', task.id)
    .where('status', 'in', LIVE_TASK_STATUSES)
    .execute();
  const waiting = await tx
    .selectFrom('node_tasks')
    .select(['id', 'task_type', 'resource_key', 'generation'])
    .where('node_id', '=', task.nodeId)
    .where('status', '=', 'queued')
    .execute();
  const next = waiting.find(
    (one) => one.generation === 1 && one.task_type === task.type && one.resource_key === task.resourceKey,
  );
  if (task.generation === 0 && next !== undefined) {
    await tx.updateTable('node_tasks').set({ generation: 0 }).where('id', '=', next.id).execute();
  }
  return { moreWaits: waiting.length > 0 };
}

/** Results beyond these are not kept: a host may repeat itself, it may not fill the disk. */
const LATE_RESULTS_KEPT = 10;

/** Keeps a result that has no effect, once. */
export async function recordLateResult(
  tx: Tx,
  task: TaskRow,
  report: {
    readonly status: string;
    readonly error: string | null;
    readonly outputSealed: string;
    readonly resultHash: string;
    readonly reportedAt: Date;
  },
): Promise<void> {
  await sql`
    INSERT INTO node_task_late_results
      (id, task_id, node_id, task_status, reported_status, error, output_sealed, result_hash, reported_at)
    SELECT ${newId()}::uuid, ${task.id}::uuid, ${task.nodeId}::uuid, ${task.status}, ${report.status}, ${report.error},
      ${report.outputSealed}, ${report.resultHash}, ${report.reportedAt}::timestamptz
    WHERE (SELECT count(*) FROM node_task_late_results WHERE task_id = ${task.id}::uuid) < ${LATE_RESULTS_KEPT}
    ON CONFLICT (task_id, result_hash) DO NOTHING`.execute(tx);
}

// What may be given to whom, as the node protocol says it, as a condition on node n and task t. Statuses that allow the
// same types share a comparison.
const MAY_RUN = mayRunCondition();

function mayRunCondition() {
  const statusesByTypes = new Map<string, string[]>();
  for (const status of NODE_STATUSES) {
    const types = NODE_TASK_TYPES.filter((type) => mayNodeRun(type, { status, fenced: false })).join();
    if (types !== '') statusesByTypes.set(types, [...(statusesByTypes.get(types) ?? []), status]);
  }
  const words = (list: readonly string[]) => sql.join(list.map((word) => sql.lit(word)));
  return sql.join(
    [...statusesByTypes].map(
      ([types, statuses]) => sql`(n.status IN (${words(statuses)}) AND t.task_type IN (${words(types.split(','))}))`,
    ),
    sql` OR `,
  );
}

export interface DispatchedTask {
  readonly id: NodeTaskId;
  readonly nodeId: NodeId;
  readonly type: string;
  readonly operationId: string | null;
  readonly subjectType: string;
  readonly subjectId: string;
  readonly paramsSealed: string;
  readonly correlationId: string;
  readonly issuedAt: Date;
  readonly expiresAt: Date;
  readonly attempt: number;
}

/**
 * Hands out the oldest task that each of these nodes may run now, and leases it: none whose resource another task of
 * the node is changing, none to a node that has its hands full. One statement for all; rows that another process is
 * just handing out are passed over.
 */
export async function dispatchTasks(
  db: Reader,
  nodeIds: readonly NodeId[],
  now: Date,
): Promise<readonly DispatchedTask[]> {
  const lease = new Date(now.getTime() + TASK_LEASE_SECONDS * 1000);
  const rows = await sql<{
    id: string;
    node_id: string;
    task_type: string;
    operation_id: string | null;
    subject_type: string;
    subject_id: string;
    params_sealed: string;
    correlation_id: string;
    issued_at: Date;
    expires_at: Date;
    attempt: number;
  }>`
    WITH due AS (
      SELECT next.id
      FROM unnest(${nodeIds}::uuid[]) AS asked (node_id)
      CROSS JOIN LATERAL (
        SELECT t.id
        FROM node_tasks t JOIN nodes n ON n.id = t.node_id
        WHERE t.node_id = asked.node_id AND t.status = 'queued' AND t.generation = 0 AND t.expires_at > ${now}
          AND n.removed_at IS NULL AND (n.fenced_at IS NULL OR n.status = 'removing') AND (${MAY_RUN})
          AND NOT EXISTS (
            SELECT FROM node_tasks held
            WHERE held.node_id = t.node_id AND held.status = 'dispatched' AND held.resource_key = t.resource_key)
          AND (SELECT count(*) FROM node_tasks held
            WHERE held.node_id = t.node_id AND held.status = 'dispatched') < ${MAX_RUNNING_TASKS}
        ORDER BY t.issued_at, t.id
        LIMIT 1
        FOR UPDATE OF t SKIP LOCKED
      ) next
    )
    UPDATE node_tasks SET
      status = 'dispatched', attempt = attempt + 1, dispatched_at = COALESCE(dispatched_at, ${now}),
      lease_expires_at = ${lease}
    FROM due WHERE node_tasks.id = due.id
    RETURNING node_tasks.id, node_tasks.node_id, task_type, operation_id, subject_type, subject_id, params_sealed,
      correlation_id, issued_at, expires_at, attempt`.execute(db);
  return rows.rows.map((row) => ({
    id: asId(row.id),
    nodeId: asId(row.node_id),
    type: row.task_type,
    operationId: row.operation_id,
    subjectType: row.subject_type,
    subjectId: row.subject_id,
    paramsSealed: row.params_sealed,
    correlationId: row.correlation_id,
    issuedAt: row.issued_at,
    expiresAt: row.expires_at,
    attempt: row.attempt,
  }));
}

/** Puts back what was leased to a poll that went away before it could be answered. */
export async function returnTasks(
  db: Reader,
  tasks: readonly { readonly id: NodeTaskId; readonly attempt: number }[],
): Promise<void> {
  await sql`
    UPDATE node_tasks SET status = 'queued', lease_expires_at = NULL
    FROM unnest(${tasks.map((task) => task.id)}::uuid[], ${tasks.map((task) => task.attempt)}::int[]) AS back (id, attempt)
    WHERE node_tasks.id = back.id AND node_tasks.attempt = back.attempt AND status = 'dispatched'`.execute(db);
}

/** A task that was lost on its way so often waits for its lease: its host takes it and forgets it. */
const SENT_AT_ONCE = 5;

/**
 * Compares what nodes that poll say they hold with what they were handed. What they name keeps its lease; what they do
 * not name never arrived, or was forgotten with the process that took it, and goes back into the queue. A host that
 * has it all the same knows it by its id, and its result counts in either state.
 */
export async function settleHeldTasks(
  tx: Tx,
  nodeIds: readonly NodeId[],
  held: readonly { readonly nodeId: NodeId; readonly taskId: string }[],
  now: Date,
): Promise<void> {
  const lease = new Date(now.getTime() + TASK_LEASE_SECONDS * 1000);
  await sql`
    WITH handed AS (
      SELECT t.id, held.task_id IS NOT NULL AS named
      FROM node_tasks t
      LEFT JOIN unnest(${held.map((one) => one.nodeId)}::uuid[], ${held.map((one) => one.taskId)}::uuid[])
        AS held (node_id, task_id) ON held.task_id = t.id AND held.node_id = t.node_id
      WHERE t.node_id = ANY(${nodeIds}::uuid[]) AND t.status = 'dispatched'
        AND (held.task_id IS NOT NULL OR t.attempt < ${SENT_AT_ONCE})
      ORDER BY t.id FOR UPDATE OF t SKIP LOCKED
    )
    UPDATE node_tasks SET
      status = CASE WHEN named THEN status ELSE 'queued' END,
      lease_expires_at = CASE WHEN named THEN ${lease}::timestamptz END
    FROM handed WHERE node_tasks.id = handed.id`.execute(tx);
}

/** Puts tasks back whose lease ran out, at most `limit`; returns the nodes that have something to fetch again. */
export async function requeueLostTasks(tx: Tx, now: Date, limit: number): Promise<readonly NodeId[]> {
  const rows = await sql<{ node_id: string }>`
    WITH lost AS (
      SELECT id FROM node_tasks
      WHERE status = 'dispatched' AND lease_expires_at <= ${now} AND expires_at > ${now}
      ORDER BY id LIMIT ${limit} FOR UPDATE SKIP LOCKED
    )
    UPDATE node_tasks SET status = 'queued', lease_expires_at = NULL FROM lost WHERE node_tasks.id = lost.id
    RETURNING node_id`.execute(tx);
  return [...new Set(rows.rows.map((row) => row.node_id))].map((id) => asId(id));
}

/** Puts one dispatched task back, whatever its lease says. */
export async function requeueTask(tx: Tx, id: NodeTaskId): Promise<void> {
  await tx
    .updateTable('node_tasks')
    .set({ status: 'queued', lease_expires_at: null })
    .where('id', '=', id)
    .where('status', '=', 'dispatched')
    .execute();
}

/** Live tasks past their expiry, at most `limit`. */
export async function findExpiredTasks(reader: Reader, now: Date, limit: number): Promise<readonly NodeTaskId[]> {
  const rows = await reader
    .selectFrom('node_tasks')
    .select('id')
    .where('status', 'in', LIVE_TASK_STATUSES)
    .where('expires_at', '<=', now)
    .orderBy('expires_at')
    .limit(limit)
    .execute();
  return rows.map((row) => asId(row.id));
}

/** The nodes that have a task waiting, for whoever may have missed a wake-up. */
export async function findNodesWithQueuedTasks(reader: Reader): Promise<readonly NodeId[]> {
  const rows = await reader
    .selectFrom('node_tasks')
    .select('node_id')
    .distinct()
    .where('status', '=', 'queued')
    .execute();
  return rows.map((row) => asId(row.node_id));
}

function taskOf(row: {
  id: string;
  node_id: string;
  task_type: string;
  params_sealed: string;
  resource_key: string;
  generation: number;
  status: NodeTaskStatus;
  operation_id: string | null;
  subject_type: string;
  subject_id: string;
  correlation_id: string;
  attempt: number;
  issued_at: Date;
  expires_at: Date;
  dispatched_at: Date | null;
  lease_expires_at: Date | null;
  completed_at: Date | null;
  error: string | null;
  output_sealed: string | null;
  result_hash: string | null;
}): TaskRow {
  // Only queueNodeTask writes this column, and it takes nothing but the types of the registry.
  if (!isNodeTaskType(row.task_type)) throw new Error(`task ${row.id} has the unknown type ${row.task_type}`);
  return {
    id: asId(row.id),
    nodeId: asId(row.node_id),
    type: row.task_type,
    paramsSealed: row.params_sealed,
    resourceKey: row.resource_key,
    generation: row.generation,
    status: row.status,
    operationId: row.operation_id,
    subjectType: row.subject_type,
    subjectId: row.subject_id,
    correlationId: row.correlation_id,
    attempt: row.attempt,
    issuedAt: row.issued_at,
    expiresAt: row.expires_at,
    dispatchedAt: row.dispatched_at,
    leaseExpiresAt: row.lease_expires_at,
    completedAt: row.completed_at,
    error: row.error,
    outputSealed: row.output_sealed,
    resultHash: row.result_hash,
  };
}
