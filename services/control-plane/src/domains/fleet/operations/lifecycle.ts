import type { Schema } from '@gpuaas/contract';
import { asId, type NodeId } from '@gpuaas/kernel';
import { audit } from '../../../spine/audit.js';
import { type CommandContext, command, type OperationHandlers, type Tx } from '../../../spine/operation.js';
import { publish } from '../../../spine/outbox.js';
import { conflict, Refusal } from '../../../spine/refusal.js';
import { NODE_DRAINING } from '../events.js';
import {
  decideCordon,
  decideDetach,
  decideDrain,
  decideForceDetach,
  decideReactivate,
  decideRecovery,
  decideRemove,
  decideResumeScheduling,
  decideRetire,
  type LifecycleDecision,
  type NodeFacts,
  type RecoveryAction,
  taskOfTransition,
} from '../rules/lifecycle.js';
import type { NodeEvent } from '../rules/node-state.js';
import type { FleetServices } from '../services.js';
import { lockNode, type NodeChange, type NodeRow, wasEverEnrolled } from '../store/nodes.js';
import { findNewestTask, requeueTask } from '../store/tasks.js';

type Mutation = Schema<'V3PlatformNodeLifecycleMutationResponse'>;

/** Taking nodes out of service and out of the fleet, and back. */
export function lifecycleOperations(services: FleetServices): OperationHandlers {
  const { life } = services;

  /** Locks the node and asks the rule; refuses with the node's status where the rule says no. */
  const decided = async (tx: Tx, nodeId: string, decide: (facts: NodeFacts) => LifecycleDecision) => {
    const node = await lockNode(tx, asId(nodeId));
    const facts = {
      status: node.status,
      openClaims: node.openClaims,
      everEnrolled: await wasEverEnrolled(tx, node.id),
    };
    return { node, step: permitted(node, decide(facts)) };
  };

  const scheduling = async (
    tx: Tx,
    ctx: CommandContext,
    nodeId: string,
    move: {
      readonly operation: 'cordon' | 'resume_scheduling';
      readonly event: NodeEvent;
      readonly decide: (facts: NodeFacts) => LifecycleDecision;
    },
  ): Promise<Mutation> => {
    const { node, step } = await decided(tx, nodeId, move.decide);
    await life.move(tx, ctx, node, step.to, move.event);
    await auditMove(tx, ctx, `node.${move.operation}`, node, step.to);
    return mutation(ctx, move.operation, node, step.to, null, null);
  };

  const cordon = command<'cordonV3PlatformNode'>(async ({ tx, ctx, path }) => ({
    status: 200,
    body: await scheduling(tx, ctx, path.node_id, { operation: 'cordon', event: 'cordon', decide: decideCordon }),
  }));

  const resumeScheduling = command<'resumeSchedulingV3PlatformNode'>(async ({ tx, ctx, path }) => ({
    status: 200,
    body: await scheduling(tx, ctx, path.node_id, {
      operation: 'resume_scheduling',
      event: 'resume_scheduling',
      decide: decideResumeScheduling,
    }),
  }));

  /** 202: the row records the promise; the end of the task and of the last claim keep it. */
  const drain = command<'drainV3PlatformNode'>(async ({ tx, ctx, path }) => {
    const { node, step } = await decided(tx, path.node_id, decideDrain);
    let taskId: string;
    let recovery: RecoveryAction | null = null;
    if (step.changed) {
      await life.move(tx, ctx, node, step.to, 'drain', { drainIntent: 'maintenance' });
      taskId = await life.queueDrain(tx, ctx, node.id, 'maintenance', null);
      await publish(tx, ctx, {
        type: NODE_DRAINING,
        aggregateType: 'node',
        aggregateId: node.id,
        payload: { node_id: node.id, intent: 'maintenance', open_claims: node.openClaims },
      });
    } else {
      ({ taskId, action: recovery } = await recover(services, tx, ctx, node, 'node.drain'));
    }
    await auditMove(tx, ctx, 'node.drain', node, step.to, { task_id: taskId, recovery_action: recovery });
    return { status: 202, body: mutation(ctx, 'drain', node, step.to, { id: taskId, type: 'node.drain' }, recovery) };
  });

  /** One of the moves that answer nothing. */
  const leaving = (move: {
    readonly action: string;
    readonly decide: (facts: NodeFacts) => LifecycleDecision;
    readonly event: NodeEvent;
    readonly change?: (now: Date) => Omit<NodeChange, 'status'>;
  }) =>
    command<'adminDeleteNode'>(async ({ tx, ctx, path }) => {
      const { node, step } = await decided(tx, path.node_id, move.decide);
      if (step.changed) await life.move(tx, ctx, node, step.to, move.event, move.change?.(ctx.clock.now()));
      await auditMove(tx, ctx, move.action, node, step.to);
      return { status: 204, body: undefined };
    });

  const retire = leaving({
    action: 'node.delete',
    decide: decideRetire,
    event: 'retire',
    change: (now) => ({ fencedAt: now }),
  });
  const detach = leaving({ action: 'node.detach', decide: decideDetach, event: 'detach' });
  const forceDetach = leaving({ action: 'node.force_detach', decide: decideForceDetach, event: 'force_detach' });

  const remove = command<'adminRemoveNode'>(async ({ tx, ctx, path }) => {
    const { node, step } = await decided(tx, path.node_id, decideRemove);
    await life.move(tx, ctx, node, step.to, step.to === 'gone' ? 'remove_unenrolled' : 'remove');
    if (step.to === 'removing') await life.queueUninstall(tx, ctx, node.id, null);
    await auditMove(tx, ctx, 'node.remove', node, step.to);
    return { status: 204, body: undefined };
  });

  const reactivate = command<'adminReactivateNode'>(async ({ tx, ctx, path }) => {
    const { node, step } = await decided(tx, path.node_id, decideReactivate);
    await life.move(tx, ctx, node, step.to, 'reactivate', { fencedAt: null, signatureRejections: 0 });
    await auditMove(tx, ctx, 'node.reactivate', node, step.to);
    return { status: 200, body: { ok: true, status: 'offline' } };
  });

  const resumeLifecycle = command<'adminResumeNodeLifecycle'>(async ({ tx, ctx, path }) => {
    const node = await lockNode(tx, asId(path.node_id));
    const type = taskOfTransition(node.status);
    if (type === null || (node.status !== 'draining' && node.status !== 'removing')) {
      throw conflict('node_has_no_transition', { current_status: node.status });
    }
    const { taskId, action } = await recover(services, tx, ctx, node, type);
    await auditMove(tx, ctx, 'node.resume_lifecycle', node, node.status, { task_id: taskId, recovery_action: action });
    return {
      status: 200,
      body: { ok: true, node_id: node.id, status: node.status, task_type: type, recovery_action: action },
    };
  });

  return {
    cordonV3PlatformNode: cordon,
    resumeSchedulingV3PlatformNode: resumeScheduling,
    drainV3PlatformNode: drain,
    adminDeleteNode: retire,
    retireV3PlatformNode: retire,
    adminDetachNode: detach,
    detachV3PlatformNode: detach,
    adminForceDetachNode: forceDetach,
    forceDetachV3PlatformNode: forceDetach,
    adminRemoveNode: remove,
    removeV3PlatformNode: remove,
    adminReactivateNode: reactivate,
    reactivateV3PlatformNode: reactivate,
    adminResumeNodeLifecycle: resumeLifecycle,
    resumeV3PlatformNodeLifecycle: resumeLifecycle,
  };
}

/**
 * Puts the task of a waiting transition on its feet: leaves one that is alive, gives a lost one to the next poll, and
 * replaces one that has ended.
 */
async function recover(
  services: FleetServices,
  tx: Tx,
  ctx: CommandContext,
  node: NodeRow,
  type: 'node.drain' | 'node.uninstall',
): Promise<{ taskId: string; action: RecoveryAction }> {
  const task = await findNewestTask(tx, node.id, type);
  const action = decideRecovery(task, ctx.clock.now());
  if (task === null || action === 'task_recreated') {
    const taskId =
      type === 'node.drain'
        ? await services.life.queueDrain(tx, ctx, node.id, node.drainIntent ?? 'maintenance', null)
        : await services.life.queueUninstall(tx, ctx, node.id, null);
    return { taskId, action: 'task_recreated' };
  }
  if (action === 'task_requeued') {
    await requeueTask(tx, task.id);
    await services.queue.wake(tx, node.id);
  }
  return { taskId: task.id, action };
}

function permitted(node: NodeRow, decision: LifecycleDecision): Extract<LifecycleDecision, { ok: true }> {
  if (decision.ok) return decision;
  throw new Refusal(decision.code, {
    status: 409,
    details: { reason: decision.reason, current_status: node.status },
  });
}

async function auditMove(
  tx: Tx,
  ctx: CommandContext,
  action: string,
  node: NodeRow,
  to: string,
  more: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  await audit(tx, ctx, {
    action,
    targetType: 'node',
    targetId: node.id,
    metadata: { from: node.status, to, host: node.host, ...more },
  });
}

function mutation(
  ctx: CommandContext,
  operation: Mutation['operation'],
  node: NodeRow,
  status: string,
  task: { readonly id: string; readonly type: string } | null,
  recovery: RecoveryAction | null,
): Mutation {
  return {
    ok: true,
    operation,
    node_id: node.id,
    previous_status: node.status,
    status,
    task_id: task?.id ?? null,
    task_type: task?.type ?? null,
    recovery_action: recovery,
    correlation_id: ctx.correlationId,
    evidence_href: `/api/v1/platform/evidence/audit?correlation_id=${encodeURIComponent(ctx.correlationId)}`,
    task_href: task === null ? null : nodeHref(node.id),
  };
}

const nodeHref = (nodeId: NodeId): string => `/api/v1/platform/lifecycle/nodes/${nodeId}`;
