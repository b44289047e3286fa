import { assertNever } from '@gpuaas/kernel';
import { NODE_TASKS, type NodeTaskParams, type NodeTaskType, type TaskPurpose } from './task-types.js';

/** Every type, in the order of the registry. */
export const NODE_TASK_TYPES: readonly NodeTaskType[] = Object.keys(NODE_TASKS).filter(isNodeTaskType);

export function isNodeTaskType(value: string): value is NodeTaskType {
  return Object.hasOwn(NODE_TASKS, value);
}

/** Seconds from issue to expiry when whoever queues the task says nothing else. */
export function defaultTtlSeconds(type: NodeTaskType): number {
  return NODE_TASKS[type].ttlSeconds;
}

/** Whether the task runs alone on its host. */
export function isExclusive(type: NodeTaskType): boolean {
  return NODE_TASKS[type].exclusive;
}

/**
 * What a task changes. Two tasks with one key never run at the same time on a host; the control plane keeps at most
 * one live task for each type and key.
 */
export function resourceKey(task: NodeTaskParams): string {
  switch (task.task_type) {
    case 'allocation.provision_user':
    case 'allocation.deprovision_user':
    case 'allocation.restart':
    case 'allocation.install_authorized_keys':
    case 'slice.vm_provision':
    case 'slice.vm_release':
    case 'slice.restart':
    case 'app.bootstrap_ssh.reconcile':
    case 'runtime_bundle.apply':
      return `allocation:${task.params.allocation_id.toLowerCase()}`;
    case 'app.container.deploy':
    case 'app.container.stop':
    case 'app.container.start':
    case 'app.container.restart':
    case 'app.container.upgrade':
    case 'app.container.remove':
      return `app:${task.params.app_instance_id.toLowerCase()}:${task.params.component_key}`;
    case 'storage.mount':
    case 'storage.unmount':
      return `attachment:${task.params.attachment_id.toLowerCase()}`;
    case 'terminal.open':
      return `terminal:${task.params.session_id.toLowerCase()}`;
    case 'diag.health_probe':
      return task.params.allocation_id === undefined ? 'probe' : `probe:${task.params.allocation_id.toLowerCase()}`;
    case 'slice.topology_discover':
      return 'topology';
    case 'node.drain':
    case 'node.uninstall':
    case 'node.soft_reset':
    case 'node.storage_cleanup':
      return 'node';
    case 'agent.upgrade':
    case 'agent.rebootstrap':
    case 'agent.renew_cert':
    case 'agent.trust_bundle_update':
      return 'agent';
    case 'power.limit.apply':
    case 'power.limit.clear':
      return 'power';
    default:
      return assertNever(task);
  }
}

export const NODE_STATUSES = [
  'registered',
  'bootstrap_issued',
  'enrolling',
  'active',
  'offline',
  'cordoned',
  'draining',
  'quarantined',
  'retired',
  'removing',
] as const;
export type NodeStatus = (typeof NODE_STATUSES)[number];

const IN_SERVICE: readonly TaskPurpose[] = ['setup', 'teardown', 'repair', 'diagnose', 'retire'];

/** What each kind of node may still be asked to do. A retired node is asked nothing, a removing one only to leave. */
const ALLOWED: Readonly<Record<NodeStatus, readonly TaskPurpose[]>> = {
  registered: [],
  bootstrap_issued: [],
  enrolling: ['repair', 'diagnose'],
  active: IN_SERVICE,
  offline: IN_SERVICE,
  cordoned: IN_SERVICE,
  draining: IN_SERVICE,
  quarantined: ['teardown', 'repair', 'diagnose', 'retire'],
  retired: [],
  removing: ['remove'],
};

/**
 * Whether a task of this type may be queued for, and given to, a node in this state.
 * A fence shuts out everything but the uninstall of a node that is being removed.
 */
export function mayNodeRun(type: NodeTaskType, node: { status: NodeStatus; fenced: boolean }): boolean {
  if (node.fenced && node.status !== 'removing') return false;
  return ALLOWED[node.status].includes(NODE_TASKS[type].purpose);
}
