import type { Schema } from '@gpuaas/contract';
import type { TaskResultStatus } from '@gpuaas/node-protocol';

export type NodeTaskStatus = Schema<'NodeSliceTopologyDiscovery'>['status'];
export type NodeTaskEnd = 'completed' | 'failed' | 'rejected' | 'expired';

export type NodeTaskEvent =
  | 'dispatch'
  /** the lease ran out, or the poll it was meant for went away */
  | 'return_to_queue'
  | 'succeed'
  | 'fail'
  | 'reject'
  | 'expire';

type Moves = Readonly<Partial<Record<NodeTaskEvent, NodeTaskStatus>>>;

/** A task that was handed out once may be answered although its lease was lost and it waits again. */
const MOVES: Readonly<Record<NodeTaskStatus, Moves>> = {
  queued: { dispatch: 'dispatched', succeed: 'completed', fail: 'failed', reject: 'rejected', expire: 'expired' },
  dispatched: {
    return_to_queue: 'queued',
    succeed: 'completed',
    fail: 'failed',
    reject: 'rejected',
    expire: 'expired',
  },
  completed: {},
  failed: {},
  rejected: {},
  expired: {},
};

/** The status an event leads to, or null where it has no meaning. */
export function advanceTask(from: NodeTaskStatus, event: NodeTaskEvent): NodeTaskStatus | null {
  return MOVES[from][event] ?? null;
}

export const LIVE_TASK_STATUSES = ['queued', 'dispatched'] as const satisfies readonly NodeTaskStatus[];

const EVENT_OF_RESULT: Readonly<Record<TaskResultStatus, 'succeed' | 'fail' | 'reject'>> = {
  success: 'succeed',
  failed: 'fail',
  rejected: 'reject',
};
const END_OF_RESULT: Readonly<Record<TaskResultStatus, Exclude<NodeTaskEnd, 'expired'>>> = {
  success: 'completed',
  failed: 'failed',
  rejected: 'rejected',
};

export type ResultDecision =
  /** it ends the task, and whoever asked for the task learns it */
  | { readonly kind: 'accept'; readonly to: Exclude<NodeTaskEnd, 'expired'> }
  /** the same answer again: the first one was not heard */
  | { readonly kind: 'repeat' }
  /** too late, or not what was said before: evidence, without effect */
  | { readonly kind: 'late' };

/** What a reported result means for a task. A task that was never handed out cannot have a result. */
export function decideResult(
  task: { readonly status: NodeTaskStatus; readonly attempt: number; readonly resultHash: string | null },
  report: { readonly status: TaskResultStatus; readonly hash: string },
): ResultDecision {
  if (task.resultHash !== null) return { kind: task.resultHash === report.hash ? 'repeat' : 'late' };
  if (task.attempt === 0 || advanceTask(task.status, EVENT_OF_RESULT[report.status]) === null) return { kind: 'late' };
  return { kind: 'accept', to: END_OF_RESULT[report.status] };
}

/** Refused signatures in a row after which a host and this control plane no longer trust each other. */
export const SIGNATURE_REJECTIONS_BEFORE_QUARANTINE = 3;
