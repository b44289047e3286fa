import { canonicalHash, type NodeId, type NodeTaskId, newId } from '@gpuaas/kernel';
import {
  defaultTtlSeconds,
  mayNodeRun,
  type NodeTaskType,
  parseTaskParams,
  resourceKey,
  type TaskParams,
} from '@gpuaas/node-protocol';
import type { Custody } from '../../../spine/custody.js';
import type { CallContext, Tx } from '../../../spine/operation.js';
import { refuse } from '../../../spine/refusal.js';
import type { Signals } from '../../../spine/signals.js';
import { RetryTransaction } from '../../../spine/transaction.js';
import type { NodeTaskEnd } from '../rules/task-state.js';
import { getNode } from '../store/nodes.js';
import {
  endTask,
  findLiveTasksOfNode,
  insertTaskIfFree,
  lockLiveTaskIfFree,
  lockLiveTasks,
  replaceTask,
  type TaskRow,
} from '../store/tasks.js';

/** Announced with a node's id when there may be something for it to fetch. */
export const NODE_TASKS_CHANNEL = 'node_tasks';

const PARAMS_PURPOSE = 'node_task.params';
const OUTPUT_PURPOSE = 'node_task.output';

export interface NodeTaskRequest<Type extends NodeTaskType = NodeTaskType> {
  readonly nodeId: NodeId;
  readonly type: Type;
  readonly params: TaskParams<Type>;
  readonly operationId: string | null;
  readonly subjectType: string;
  readonly subjectId: string;
  /** the type's own time where absent */
  readonly expiresInSeconds?: number;
}

/** A task whose end is known, as whoever asked for it sees it. */
export interface FinishedNodeTask {
  readonly id: NodeTaskId;
  readonly type: NodeTaskType;
  readonly nodeId: NodeId;
  readonly operationId: string | null;
  readonly subjectType: string;
  readonly subjectId: string;
  /** as they were queued; the handler knows their shape by the type */
  readonly params: unknown;
}

export interface NodeTaskOutcome {
  /** `expired`: nobody answered in time; whether the host acted is unknown */
  readonly status: NodeTaskEnd;
  /** as the host reported it, null where it reported nothing; to be parsed by the handler */
  readonly output: unknown;
  readonly error: string | null;
  /** when the control plane learned it */
  readonly at: Date;
}

/** Acts on the ends of tasks of some types, in the transaction that records the end: both happen or neither. */
export interface NodeTaskResultHandler {
  readonly taskTypes: readonly NodeTaskType[];
  handle(
    tx: Tx,
    ctx: CallContext,
    result: { readonly task: FinishedNodeTask; readonly outcome: NodeTaskOutcome },
  ): Promise<void>;
}

/** Tasks of nodes: their way into the queue and their end. */
export class TaskQueue {
  readonly #custody: Custody;
  readonly #signals: Signals;
  readonly #handlers = new Map<NodeTaskType, NodeTaskResultHandler>();

  constructor(dependencies: { readonly custody: Custody; readonly signals: Signals }) {
    this.#custody = dependencies.custody;
    this.#signals = dependencies.signals;
  }

  /** Adds who acts on results. Throws where a type already has somebody. */
  register(handlers: readonly NodeTaskResultHandler[]): void {
    for (const handler of handlers) {
      for (const type of handler.taskTypes) {
        if (this.#handlers.has(type)) throw new Error(`two handlers act on results of ${type}`);
        this.#handlers.set(type, handler);
      }
    }
  }

  /**
   * Queues a task; polls that wait for it wake after the commit. The same task asked for again is the one that is
   * there. Another one of the same type for the same resource replaces it while no host has seen it, and otherwise
   * waits behind it, where the newest request stands for all. Refuses a node that may not be given such a task (409).
   * Throws for params that the registry does not accept.
   */
  async queue<Type extends NodeTaskType>(
    tx: Tx,
    ctx: CallContext,
    request: NodeTaskRequest<Type>,
  ): Promise<NodeTaskId> {
    const parsed = parseTaskParams(request.type, request.params);
    if (!parsed.ok) throw new Error(`${request.type} cannot be queued: ${parsed.problems.join('; ')}`);
    const now = ctx.clock.now();
    const params = JSON.stringify(parsed.value.params);
    const task = {
      nodeId: request.nodeId,
      type: request.type,
      paramsSealed: this.#custody.sealInline(PARAMS_PURPOSE, params),
      paramsHash: canonicalHash(JSON.parse(params)),
      resourceKey: resourceKey(parsed.value),
      operationId: request.operationId,
      subjectType: request.subjectType,
      subjectId: request.subjectId,
      correlationId: ctx.correlationId,
      requestId: ctx.requestId,
      traceId: ctx.trace.traceId,
      issuedAt: now,
      expiresAt: new Date(now.getTime() + (request.expiresInSeconds ?? defaultTtlSeconds(request.type)) * 1000),
    };

    const id = newId<'node-task'>();
    await this.#signals.notify(tx, NODE_TASKS_CHANNEL, task.nodeId);
    if (await insertTaskIfFree(tx, { ...task, id, generation: 0 })) return id;

    const node = await getNode(tx, request.nodeId);
    if (!mayNodeRun(request.type, { status: node.status, fenced: node.fencedAt !== null })) {
      throw refuse('node_offline', { reason: `node_is_${node.status}`, current_status: node.status });
    }
    const newest = (await lockLiveTasks(tx, task.nodeId, task.type, task.resourceKey)).at(-1);
    if (newest !== undefined && sameRequest(newest, task)) return newest.id;
    // A task behind another one is never handed out, so the newest of two can always be replaced.
    if (newest !== undefined && newest.attempt === 0) {
      await replaceTask(tx, newest.id, task);
      return newest.id;
    }
    const generation = newest === undefined ? 0 : 1;
    if (await insertTaskIfFree(tx, { ...task, id, generation })) return id;
    throw new RetryTransaction('a task of the same kind came or ended at this moment');
  }

  /** Takes back a task that no host has seen; false where one has, or may just be seeing it. Tells no handler. */
  async withdraw(tx: Tx, ctx: CallContext, taskId: NodeTaskId): Promise<boolean> {
    const task = await lockLiveTaskIfFree(tx, taskId);
    if (task === null || task.attempt > 0) return false;
    const end = { status: 'expired', error: 'withdrawn', outputSealed: null, resultHash: null } as const;
    await endTask(tx, task, { ...end, at: ctx.clock.now() });
    return true;
  }

  /** Ends a live task that the caller has locked, and lets whoever asked for it act, in this transaction. */
  async finish(
    tx: Tx,
    ctx: CallContext,
    task: TaskRow,
    end: {
      readonly status: NodeTaskEnd;
      readonly error: string | null;
      readonly output: unknown;
      readonly resultHash: string | null;
    },
  ): Promise<void> {
    const at = ctx.clock.now();
    const outputSealed = end.output === null ? null : this.sealOutput(end.output);
    const { moreWaits } = await endTask(tx, task, {
      status: end.status,
      error: end.error,
      outputSealed,
      resultHash: end.resultHash,
      at,
    });
    // What waited for this task's resource, or for a free hand, may go now.
    if (moreWaits) await this.#signals.notify(tx, NODE_TASKS_CHANNEL, task.nodeId);
    const handler = this.#handlers.get(task.type);
    if (handler === undefined) return;
    await handler.handle(
      tx,
      { ...ctx, correlationId: task.correlationId },
      {
        task: {
          id: task.id,
          type: task.type,
          nodeId: task.nodeId,
          operationId: task.operationId,
          subjectType: task.subjectType,
          subjectId: task.subjectId,
          params: this.openParams(task.paramsSealed),
        },
        outcome: { status: end.status, output: end.output, error: end.error, at },
      },
    );
  }

  /** Ends every live task of a node that leaves the fleet's reach. */
  async expireAll(tx: Tx, ctx: CallContext, nodeId: NodeId, reason: string): Promise<void> {
    for (const taskId of await findLiveTasksOfNode(tx, nodeId)) {
      // Passed over where it has ended meanwhile: by a handler of this very loop, or in the hands of its own result.
      const task = await lockLiveTaskIfFree(tx, taskId);
      if (task === null) continue;
      await this.finish(tx, ctx, task, { status: 'expired', error: reason, output: null, resultHash: null });
    }
  }

  /** Wakes the polls of a node after the commit. */
  async wake(tx: Tx, nodeId: NodeId): Promise<void> {
    await this.#signals.notify(tx, NODE_TASKS_CHANNEL, nodeId);
  }

  openParams(sealed: string): Record<string, unknown> {
    return { ...JSON.parse(this.#custody.openInline(PARAMS_PURPOSE, sealed)) };
  }

  sealOutput(output: unknown): string {
    return this.#custody.sealInline(OUTPUT_PURPOSE, JSON.stringify(output));
  }

  openOutput(sealed: string): unknown {
    return JSON.parse(this.#custody.openInline(OUTPUT_PURPOSE, sealed));
  }
}

function sameRequest(
  live: { readonly paramsHash: string; readonly operationId: string | null },
  wanted: { readonly paramsHash: string; readonly operationId: string | null },
): boolean {
  return live.paramsHash === wanted.paramsHash && live.operationId === wanted.operationId;
}
