import type { QueryParameters, Schema } from '@gpuaas/contract';
import { assertNever, isUuid } from '@gpuaas/kernel';

export type WorkflowStatus = Schema<'V3PlatformTemporalWorkflowStatus'>;

/** How we keep it. */
export const RUN_STATUSES = [
  'pending',
  'running',
  'compensating',
  'completed',
  'reconciled',
  'failed_retryable',
  'failed_manual_intervention',
  'cancelled',
  'timed_out',
  'terminated',
] as const;
export type RunStatus = (typeof RUN_STATUSES)[number];

/** How the contract calls it. */
export function shownStatus(status: RunStatus): WorkflowStatus {
  switch (status) {
    case 'pending':
    case 'running':
    case 'compensating':
      return 'running';
    case 'completed':
    case 'reconciled':
      return 'completed';
    case 'failed_retryable':
    case 'failed_manual_intervention':
      return 'failed';
    case 'cancelled':
    case 'timed_out':
    case 'terminated':
      return status;
    default:
      return assertNever(status);
  }
}

/** The statuses of ours that a status of the contract covers; none for `unknown`, which no run of ours ever is. */
export function runStatusesOf(shown: WorkflowStatus): readonly RunStatus[] {
  return RUN_STATUSES.filter((status) => shownStatus(status) === shown);
}

export type WorkflowQuery = QueryParameters<'listV3PlatformTemporalWorkflows'>;

export interface WorkflowFilter {
  readonly workflow_id?: string;
  readonly run_id?: string;
  readonly tenant_id?: string;
  readonly project_id?: string;
  readonly allocation_id?: string;
  readonly node_id?: string;
  readonly actor_user_id?: string;
  readonly correlation_id?: string;
  readonly family?: Schema<'V3PlatformTemporalWorkflowFamily'>;
  readonly statuses: readonly RunStatus[] | null;
  /** half-open, by the time of the request */
  readonly from: Date | null;
  readonly to: Date | null;
}

export type SearchDecision =
  | { readonly ok: true; readonly filter: WorkflowFilter }
  | { readonly ok: false; readonly reason: string; readonly pointer: string; readonly message: string };

const HOUR = 3_600_000;
const RANGES = { '6h': 6 * HOUR, '12h': 12 * HOUR, '24h': 24 * HOUR, '7d': 168 * HOUR } as const;
const LONGEST_RANGE = 168 * HOUR;

/**
 * What a search may ask for: one id, owner or correlation, or else a family within at most seven days, so that no
 * search reads the whole history.
 */
export function decideWorkflowSearch(query: WorkflowQuery, now: Date): SearchDecision {
  const refused = (reason: string, pointer: string, message: string): SearchDecision => ({
    ok: false,
    reason,
    pointer,
    message,
  });
  const custom = query.from !== undefined || query.to !== undefined;
  if (custom && query.time_range !== undefined && query.time_range !== 'custom') {
    return refused('time_range_conflict', '/query/time_range', 'from and to go with the range `custom` only');
  }
  let from: Date | null = null;
  let to: Date | null = null;
  if (custom || query.time_range === 'custom') {
    if (query.from === undefined)
      return refused('time_range_incomplete', '/query/from', 'is needed for the range `custom`');
    from = new Date(query.from);
    to = query.to === undefined ? now : new Date(query.to);
    if (from >= to) return refused('time_range_empty', '/query/from', 'must lie before `to`');
  } else if (query.time_range !== undefined) {
    from = new Date(now.getTime() - RANGES[query.time_range]);
    to = null;
  }

  const named = {
    ...(query.workflow_id !== undefined && { workflow_id: query.workflow_id }),
    ...(query.workflow_run_id !== undefined && { run_id: query.workflow_run_id }),
    ...(query.org_id !== undefined && { tenant_id: query.org_id }),
    ...(query.project_id !== undefined && { project_id: query.project_id }),
    ...(query.allocation_id !== undefined && { allocation_id: query.allocation_id }),
    ...(query.node_id !== undefined && { node_id: query.node_id }),
    ...(query.actor_user_id !== undefined && { actor_user_id: query.actor_user_id }),
    ...(query.correlation_id !== undefined && { correlation_id: query.correlation_id }),
  };
  if (Object.keys(named).length === 0) {
    if (query.family === undefined || from === null) {
      return refused(
        'filter_required',
        '/query',
        'name a workflow, run, owner, target or correlation, or a family together with a time range',
      );
    }
    if ((to ?? now).getTime() - from.getTime() > LONGEST_RANGE) {
      return refused('time_range_too_long', '/query/from', 'a search by family alone covers seven days at most');
    }
  }
  return {
    ok: true,
    filter: {
      ...named,
      ...(query.family !== undefined && { family: query.family }),
      statuses: query.status === undefined ? null : runStatusesOf(query.status),
      from,
      to,
    },
  };
}

/** Whether the filter can match anything at all: ids that are kept as UUIDs cannot be other words. */
export function canMatch(filter: WorkflowFilter): boolean {
  if (filter.node_id !== undefined && !isUuid(filter.node_id)) return false;
  return filter.statuses === null || filter.statuses.length > 0;
}
