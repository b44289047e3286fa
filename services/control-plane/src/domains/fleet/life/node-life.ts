import type { NodeId } from '@gpuaas/kernel';
import { parseTaskOutput } from '@gpuaas/node-protocol';
import type { CallContext, Tx } from '../../../spine/operation.js';
import { publishStatusChange } from '../events.js';
import { type DrainIntent, decideDrained } from '../rules/lifecycle.js';
import { advanceNode, type NodeEvent, type NodePlace } from '../rules/node-state.js';
import { revokeCertificates } from '../store/certificates.js';
import {
  lockNodeIfThere,
  markQuiesced,
  markRemoved,
  type NodeChange,
  type NodeRow,
  updateNodeStatus,
} from '../store/nodes.js';
import { countTasksSince } from '../store/tasks.js';
import { revokeAllTokens } from '../store/tokens.js';
import type { FinishedNodeTask, NodeTaskOutcome, NodeTaskResultHandler, TaskQueue } from '../tasks/task-queue.js';

/** A host that keeps naming work which nobody claims is asked so often, then an operator is needed. */
const DRAINS_BEFORE_OPERATOR = 5;

/** The moves of nodes that are more than a new status: leaving the fleet, and the end of a drain. */
export class NodeLife {
  readonly #queue: TaskQueue;

  constructor(dependencies: { readonly queue: TaskQueue }) {
    this.#queue = dependencies.queue;
  }

  /** Moves a node that the caller has locked to where a decision said, and tells the rest of the product. */
  async move(
    tx: Tx,
    ctx: CallContext,
    node: NodeRow,
    to: NodePlace,
    cause: NodeEvent,
    change: Omit<NodeChange, 'status'> = {},
  ): Promise<void> {
    const now = ctx.clock.now();
    if (to === 'gone') {
      await this.#leave(tx, ctx, node, cause);
      return;
    }
    if (to === node.status) return;
    await updateNodeStatus(tx, node.id, { status: to, ...change }, now);
    await publishStatusChange(tx, ctx, node.id, node.status, to, cause);
    if (to !== 'retired') return;
    await revokeAllTokens(tx, node.id, now);
    await this.#queue.expireAll(tx, ctx, node.id, 'node_retired');
  }

  /** Queues the drain of a node that stands in draining. */
  queueDrain(tx: Tx, ctx: CallContext, nodeId: NodeId, intent: DrainIntent, reason: string | null) {
    return this.#queue.queue(tx, ctx, {
      nodeId,
      type: 'node.drain',
      params: { reason, intent },
      operationId: null,
      subjectType: 'node',
      subjectId: nodeId,
    });
  }

  queueUninstall(tx: Tx, ctx: CallContext, nodeId: NodeId, reason: string | null) {
    return this.#queue.queue(tx, ctx, {
      nodeId,
      type: 'node.uninstall',
      params: { purge_data: true, reason },
      operationId: null,
      subjectType: 'node',
      subjectId: nodeId,
    });
  }

  /**
   * The last claim on a node is gone. A drain that waited for it ends, or asks the host again where it had named work
   * that was still running then.
   */
  async claimsEnded(tx: Tx, ctx: CallContext, nodeId: NodeId): Promise<void> {
    const node = await lockNodeIfThere(tx, nodeId);
    if (node === null || node.status !== 'draining' || node.openClaims > 0) return;
    if (await this.#endDrain(tx, ctx, node, node.quiescedAt !== null)) return;
    if (node.drainIntent !== null) await this.queueDrain(tx, ctx, nodeId, node.drainIntent, null);
  }

  /** Takes a node out of service that does not behave as its identity should. */
  async quarantine(tx: Tx, ctx: CallContext, nodeId: NodeId): Promise<void> {
    const node = await lockNodeIfThere(tx, nodeId);
    if (node === null) return;
    const step = advanceNode(node.status, 'quarantine');
    if (step.ok && step.changed) await this.move(tx, ctx, node, step.to, 'quarantine', { signatureRejections: 0 });
  }

  /** What the fleet itself does with results. */
  resultHandlers(): readonly NodeTaskResultHandler[] {
    return [
      {
        taskTypes: ['node.drain'],
        handle: (tx, ctx, { task, outcome }) => this.#drainReported(tx, ctx, task, outcome),
      },
      {
        taskTypes: ['node.uninstall'],
        handle: (tx, ctx, { task, outcome }) => this.#uninstallReported(tx, ctx, task, outcome),
      },
    ];
  }

  async #drainReported(tx: Tx, ctx: CallContext, task: FinishedNodeTask, outcome: NodeTaskOutcome): Promise<void> {
    if (outcome.status !== 'completed') return;
    const node = await lockNodeIfThere(tx, task.nodeId);
    if (node === null || node.status !== 'draining' || node.drainIntent === null) return;
    if (!namesWork(outcome.output)) {
      await markQuiesced(tx, node.id, ctx.clock.now());
      await this.#endDrain(tx, ctx, node, true);
      return;
    }
    // With a claim, the end of the claim asks again. Without one, the work may just have ended: ask at once.
    if (node.openClaims > 0) return;
    const asked = await countTasksSince(tx, node.id, 'node.drain', node.statusChangedAt);
    if (asked < DRAINS_BEFORE_OPERATOR) await this.queueDrain(tx, ctx, node.id, node.drainIntent, null);
  }

  async #endDrain(tx: Tx, ctx: CallContext, node: NodeRow, quiesced: boolean): Promise<boolean> {
    const place = decideDrained({
      status: node.status,
      openClaims: node.openClaims,
      quiesced,
      intent: node.drainIntent,
    });
    if (place === null) return false;
    const cause = place === 'retired' ? 'drained_for_retirement' : 'drained';
    await this.move(tx, ctx, node, place, cause, place === 'retired' ? { fencedAt: ctx.clock.now() } : {});
    return true;
  }

  async #uninstallReported(tx: Tx, ctx: CallContext, task: FinishedNodeTask, outcome: NodeTaskOutcome): Promise<void> {
    if (outcome.status !== 'completed') return;
    const node = await lockNodeIfThere(tx, task.nodeId);
    if (node === null) return;
    const step = advanceNode(node.status, 'uninstalled');
    if (step.ok) await this.move(tx, ctx, node, step.to, 'uninstalled');
  }

  /** For good: nobody can act as this node any more, and its host may be registered anew. */
  async #leave(tx: Tx, ctx: CallContext, node: NodeRow, cause: NodeEvent): Promise<void> {
    const now = ctx.clock.now();
    await markRemoved(tx, node.id, now);
    await revokeCertificates(tx, node.id, now);
    await revokeAllTokens(tx, node.id, now);
    await this.#queue.expireAll(tx, ctx, node.id, 'node_removed');
    await publishStatusChange(tx, ctx, node.id, node.status, 'gone', cause);
  }
}

/** Whether a host says that something still runs on it. A report that does not speak of it says nothing. */
function namesWork(output: unknown): boolean {
  const report = parseTaskOutput('node.drain', output);
  return report.ok && report.value.task_type === 'node.drain' && !report.value.output.quiesced;
}
