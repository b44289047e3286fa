import type { Schema } from '@gpuaas/contract';

export type NodeStatus = Schema<'NodeAdmin'>['status'];

/** Where a move may lead: a status of the contract, or out of the fleet. */
export type NodePlace = NodeStatus | 'gone';

export type NodeEvent =
  /** a token that can enrol the node was handed out */
  | 'issue_token'
  /** the host used its token: it fetched something, reported progress, or enrolled */
  | 'first_contact'
  /** every token ran out and no certificate was ever issued */
  | 'tokens_lapsed'
  /** an authenticated poll */
  | 'poll'
  /** no poll within the heartbeat's time */
  | 'go_silent'
  | 'cordon'
  | 'resume_scheduling'
  | 'drain'
  /** drained, and to be kept for maintenance */
  | 'drained'
  /** drained, and to be retired */
  | 'drained_for_retirement'
  | 'retire'
  | 'reactivate'
  | 'remove'
  /** removal of a node that has no agent to ask */
  | 'remove_unenrolled'
  | 'uninstalled'
  | 'detach'
  | 'force_detach'
  | 'quarantine'
  /** a repair run ended well */
  | 'repaired';

type Moves = Readonly<Partial<Record<NodeEvent, NodePlace>>>;

/** Every legal move. A new status of the contract does not compile until it has a row. */
const MOVES: Readonly<Record<NodeStatus, Moves>> = {
  registered: {
    issue_token: 'bootstrap_issued',
    first_contact: 'enrolling',
    retire: 'retired',
    quarantine: 'quarantined',
  },
  bootstrap_issued: {
    issue_token: 'bootstrap_issued',
    first_contact: 'enrolling',
    tokens_lapsed: 'registered',
    retire: 'retired',
    quarantine: 'quarantined',
  },
  enrolling: {
    issue_token: 'enrolling',
    first_contact: 'enrolling',
    tokens_lapsed: 'registered',
    poll: 'active',
    retire: 'retired',
    quarantine: 'quarantined',
  },
  active: {
    issue_token: 'active',
    first_contact: 'active',
    poll: 'active',
    go_silent: 'offline',
    cordon: 'cordoned',
    drain: 'draining',
    retire: 'retired',
    quarantine: 'quarantined',
  },
  offline: {
    issue_token: 'offline',
    first_contact: 'offline',
    poll: 'active',
    drain: 'draining',
    retire: 'retired',
    quarantine: 'quarantined',
  },
  cordoned: {
    issue_token: 'cordoned',
    first_contact: 'cordoned',
    poll: 'cordoned',
    cordon: 'cordoned',
    resume_scheduling: 'active',
    drain: 'draining',
    retire: 'retired',
    quarantine: 'quarantined',
  },
  draining: {
    issue_token: 'draining',
    first_contact: 'draining',
    poll: 'draining',
    drain: 'draining',
    drained: 'cordoned',
    drained_for_retirement: 'retired',
    force_detach: 'gone',
    quarantine: 'quarantined',
  },
  quarantined: {
    issue_token: 'quarantined',
    first_contact: 'quarantined',
    poll: 'quarantined',
    drain: 'draining',
    retire: 'retired',
    quarantine: 'quarantined',
    repaired: 'active',
  },
  retired: {
    retire: 'retired',
    reactivate: 'offline',
    remove: 'removing',
    remove_unenrolled: 'gone',
    detach: 'gone',
    force_detach: 'gone',
  },
  removing: {
    poll: 'removing',
    uninstalled: 'gone',
    force_detach: 'gone',
  },
};

export type NodeStep =
  | { readonly ok: true; readonly from: NodeStatus; readonly to: NodePlace; readonly changed: boolean }
  | { readonly ok: false; readonly from: NodeStatus };

/** Where an event leads from a status, or that it does not exist there. */
export function advanceNode(from: NodeStatus, event: NodeEvent): NodeStep {
  const to = MOVES[from][event];
  return to === undefined ? { ok: false, from } : { ok: true, from, to, changed: to !== from };
}

/** The statuses in which an event changes something, for the WHERE clause of a set-wise move. */
export function statusesMovedBy(event: NodeEvent): readonly NodeStatus[] {
  return nodeStatuses.filter((status) => {
    const step = advanceNode(status, event);
    return step.ok && step.changed;
  });
}

function isNodeStatus(value: string): value is NodeStatus {
  return Object.hasOwn(MOVES, value);
}

export const nodeStatuses: readonly NodeStatus[] = Object.keys(MOVES).filter(isNodeStatus);
