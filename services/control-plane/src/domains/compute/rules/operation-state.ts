import type { Schema } from '@gpuaas/contract';

export type OperationStatus = 'queued' | 'running' | 'succeeded' | 'failed' | 'canceled';
export type OperationKind = 'launch' | 'release' | 'restart';

const MOVES: Record<OperationStatus, readonly OperationStatus[]> = {
  queued: ['running', 'succeeded', 'failed', 'canceled'],
  running: ['succeeded', 'failed', 'canceled'],
  succeeded: [],
  failed: [],
  canceled: [],
};

export const OPERATION_STATUSES = Object.keys(MOVES).filter((value): value is OperationStatus =>
  Object.hasOwn(MOVES, value),
);

export function mayOperationMove(from: OperationStatus, to: OperationStatus): boolean {
  return MOVES[from].includes(to);
}

export function isOperationOpen(status: OperationStatus): boolean {
  return MOVES[status].length > 0;
}

/** An operation shows to callers as a task of the same id. */
export function taskStatusOf(status: OperationStatus): Schema<'V3TaskStatus'> {
  return status;
}

/** How long an operation may take before it has failed, in seconds. */
export const OPERATION_DEADLINE_SECONDS = 30 * 60;

/** A release is the one operation that must not give up early: what it leaves behind blocks a host. */
export const RELEASE_ATTEMPTS = 3;
/** A set of keys is sent this often before the host counts as out of step; any later change starts again. */
export const KEY_SYNC_ATTEMPTS = 3;
