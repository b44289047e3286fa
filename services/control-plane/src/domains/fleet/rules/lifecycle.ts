import type { ErrorCode, Schema } from '@gpuaas/contract';
import { advanceNode, type NodeEvent, type NodePlace, type NodeStatus } from './node-state.js';
import type { NodeTaskStatus } from './task-state.js';

/** What the decisions about a node's life need to know of it. */
export interface NodeFacts {
  readonly status: NodeStatus;
  /** claims that no teardown has proven away */
  readonly openClaims: number;
  /** whether a certificate was ever issued to it */
  readonly everEnrolled: boolean;
}

export type LifecycleDecision =
  | { readonly ok: true; readonly to: NodePlace; readonly changed: boolean }
  | { readonly ok: false; readonly code: ErrorCode; readonly reason: string };

/** Scheduling off, running work untouched. Repeating it changes nothing. */
export function decideCordon(node: NodeFacts): LifecycleDecision {
  return move(node, 'cordon');
}

export function decideResumeScheduling(node: NodeFacts): LifecycleDecision {
  return move(node, 'resume_scheduling');
}

/** An operator drains what is in service or cordoned; retirement may also drain what is out of reach. */
export function decideDrain(node: NodeFacts, by: 'operator' | 'retirement' = 'operator'): LifecycleDecision {
  if (by === 'operator' && (node.status === 'offline' || node.status === 'quarantined')) return illegal(node);
  return move(node, 'drain');
}

export function decideRetire(node: NodeFacts): LifecycleDecision {
  return move(node, 'retire', { needsNoClaims: true });
}

export function decideReactivate(node: NodeFacts): LifecycleDecision {
  return move(node, 'reactivate');
}

/** A node that never enrolled has no agent that could uninstall itself: it is gone at once. */
export function decideRemove(node: NodeFacts): LifecycleDecision {
  return move(node, node.everEnrolled ? 'remove' : 'remove_unenrolled', { needsNoClaims: true });
}

export function decideDetach(node: NodeFacts): LifecycleDecision {
  return move(node, 'detach', { needsNoClaims: true });
}

/** Also where the agent will never answer again; a live claim still forbids it. */
export function decideForceDetach(node: NodeFacts): LifecycleDecision {
  return move(node, 'force_detach', { needsNoClaims: true });
}

/** New enrolment material: for every node that is not on its way out. */
export function decideIssueToken(node: NodeFacts): LifecycleDecision {
  return move(node, 'issue_token');
}

/** Recovery of an installed agent: as above, and the node must have been enrolled before. */
export function decideReissueEnrollment(node: NodeFacts): LifecycleDecision {
  const decision = move(node, 'issue_token');
  if (decision.ok && !node.everEnrolled) return { ok: false, code: 'invalid_request', reason: 'node_never_enrolled' };
  return decision;
}

/** Whether a drain is over: the host has said so, and nobody's work is left. */
export function decideDrained(node: {
  readonly status: NodeStatus;
  readonly openClaims: number;
  readonly quiesced: boolean;
  readonly intent: DrainIntent | null;
}): NodePlace | null {
  if (node.status !== 'draining' || !node.quiesced || node.openClaims > 0 || node.intent === null) return null;
  const step = advanceNode(node.status, node.intent === 'retire' ? 'drained_for_retirement' : 'drained');
  return step.ok ? step.to : null;
}

export const DRAIN_INTENTS = ['maintenance', 'retire', 'agent_upgrade', 'decommission'] as const;
export type DrainIntent = (typeof DRAIN_INTENTS)[number];

export type RecoveryAction = Schema<'AdminNodeLifecycleRecoveryAction'>;

/** What resuming a stuck transition means for its newest task. */
export function decideRecovery(
  task: { readonly status: NodeTaskStatus; readonly leaseExpiresAt: Date | null } | null,
  now: Date,
): RecoveryAction {
  switch (task?.status) {
    case 'queued':
      return 'task_already_queued';
    case 'dispatched':
      return task.leaseExpiresAt !== null && task.leaseExpiresAt > now ? 'task_in_progress' : 'task_requeued';
    default:
      return 'task_recreated';
  }
}

/** The task that owns a transition which waits for the host, or null where none does. */
export function taskOfTransition(status: NodeStatus): 'node.drain' | 'node.uninstall' | null {
  if (status === 'draining') return 'node.drain';
  return status === 'removing' ? 'node.uninstall' : null;
}

function move(node: NodeFacts, event: NodeEvent, { needsNoClaims = false } = {}): LifecycleDecision {
  const step = advanceNode(node.status, event);
  if (!step.ok) return illegal(node);
  if (needsNoClaims && step.changed && node.openClaims > 0) {
    return { ok: false, code: 'node_in_use', reason: 'node_has_claims' };
  }
  return { ok: true, to: step.to, changed: step.changed };
}

function illegal(node: NodeFacts): LifecycleDecision {
  return node.status === 'offline'
    ? { ok: false, code: 'node_offline', reason: 'node_is_offline' }
    : { ok: false, code: 'invalid_request', reason: `node_is_${node.status}` };
}
