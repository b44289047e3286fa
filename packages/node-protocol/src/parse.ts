import { z } from 'zod';
import { isNodeTaskType } from './rules.js';
import { NODE_TASKS, type NodeTaskOutput, type NodeTaskParams, type NodeTaskType } from './task-types.js';

export type TaskParseResult<Value> =
  | { ok: true; value: Value }
  | { ok: false; reason: 'unknown_type' | 'invalid'; problems: string[] };

// The literal and the definition are named together on each line below, so that the compiler sees which params belong
// to which type; the test of this file holds the lists to the registry.
const withParams = <Type extends NodeTaskType, Params extends z.ZodType>(type: Type, definition: { params: Params }) =>
  z.object({ task_type: z.literal(type), params: definition.params });
const withOutput = <Type extends NodeTaskType, Output extends z.ZodType>(type: Type, definition: { output: Output }) =>
  z.object({ task_type: z.literal(type), output: definition.output });

const paramsByType = z.discriminatedUnion('task_type', [
  withParams('allocation.provision_user', NODE_TASKS['allocation.provision_user']),
  withParams('allocation.deprovision_user', NODE_TASKS['allocation.deprovision_user']),
  withParams('allocation.restart', NODE_TASKS['allocation.restart']),
  withParams('allocation.install_authorized_keys', NODE_TASKS['allocation.install_authorized_keys']),
  withParams('slice.vm_provision', NODE_TASKS['slice.vm_provision']),
  withParams('slice.vm_release', NODE_TASKS['slice.vm_release']),
  withParams('slice.restart', NODE_TASKS['slice.restart']),
  withParams('slice.topology_discover', NODE_TASKS['slice.topology_discover']),
  withParams('diag.health_probe', NODE_TASKS['diag.health_probe']),
  withParams('app.bootstrap_ssh.reconcile', NODE_TASKS['app.bootstrap_ssh.reconcile']),
  withParams('app.container.deploy', NODE_TASKS['app.container.deploy']),
  withParams('app.container.stop', NODE_TASKS['app.container.stop']),
  withParams('app.container.start', NODE_TASKS['app.container.start']),
  withParams('app.container.restart', NODE_TASKS['app.container.restart']),
  withParams('app.container.upgrade', NODE_TASKS['app.container.upgrade']),
  withParams('app.container.remove', NODE_TASKS['app.container.remove']),
  withParams('runtime_bundle.apply', NODE_TASKS['runtime_bundle.apply']),
  withParams('storage.mount', NODE_TASKS['storage.mount']),
  withParams('storage.unmount', NODE_TASKS['storage.unmount']),
  withParams('terminal.open', NODE_TASKS['terminal.open']),
  withParams('node.drain', NODE_TASKS['node.drain']),
  withParams('node.uninstall', NODE_TASKS['node.uninstall']),
  withParams('node.soft_reset', NODE_TASKS['node.soft_reset']),
  withParams('node.storage_cleanup', NODE_TASKS['node.storage_cleanup']),
  withParams('agent.upgrade', NODE_TASKS['agent.upgrade']),
  withParams('agent.rebootstrap', NODE_TASKS['agent.rebootstrap']),
  withParams('agent.renew_cert', NODE_TASKS['agent.renew_cert']),
  withParams('agent.trust_bundle_update', NODE_TASKS['agent.trust_bundle_update']),
  withParams('power.limit.apply', NODE_TASKS['power.limit.apply']),
  withParams('power.limit.clear', NODE_TASKS['power.limit.clear']),
]);

const outputByType = z.discriminatedUnion('task_type', [
  withOutput('allocation.provision_user', NODE_TASKS['allocation.provision_user']),
  withOutput('allocation.deprovision_user', NODE_TASKS['allocation.deprovision_user']),
  withOutput('allocation.restart', NODE_TASKS['allocation.restart']),
  withOutput('allocation.install_authorized_keys', NODE_TASKS['allocation.install_authorized_keys']),
  withOutput('slice.vm_provision', NODE_TASKS['slice.vm_provision']),
  withOutput('slice.vm_release', NODE_TASKS['slice.vm_release']),
  withOutput('slice.restart', NODE_TASKS['slice.restart']),
  withOutput('slice.topology_discover', NODE_TASKS['slice.topology_discover']),
  withOutput('diag.health_probe', NODE_TASKS['diag.health_probe']),
  withOutput('app.bootstrap_ssh.reconcile', NODE_TASKS['app.bootstrap_ssh.reconcile']),
  withOutput('app.container.deploy', NODE_TASKS['app.container.deploy']),
  withOutput('app.container.stop', NODE_TASKS['app.container.stop']),
  withOutput('app.container.start', NODE_TASKS['app.container.start']),
  withOutput('app.container.restart', NODE_TASKS['app.container.restart']),
  withOutput('app.container.upgrade', NODE_TASKS['app.container.upgrade']),
  withOutput('app.container.remove', NODE_TASKS['app.container.remove']),
  withOutput('runtime_bundle.apply', NODE_TASKS['runtime_bundle.apply']),
  withOutput('storage.mount', NODE_TASKS['storage.mount']),
  withOutput('storage.unmount', NODE_TASKS['storage.unmount']),
  withOutput('terminal.open', NODE_TASKS['terminal.open']),
  withOutput('node.drain', NODE_TASKS['node.drain']),
  withOutput('node.uninstall', NODE_TASKS['node.uninstall']),
  withOutput('node.soft_reset', NODE_TASKS['node.soft_reset']),
  withOutput('node.storage_cleanup', NODE_TASKS['node.storage_cleanup']),
  withOutput('agent.upgrade', NODE_TASKS['agent.upgrade']),
  withOutput('agent.rebootstrap', NODE_TASKS['agent.rebootstrap']),
  withOutput('agent.renew_cert', NODE_TASKS['agent.renew_cert']),
  withOutput('agent.trust_bundle_update', NODE_TASKS['agent.trust_bundle_update']),
  withOutput('power.limit.apply', NODE_TASKS['power.limit.apply']),
  withOutput('power.limit.clear', NODE_TASKS['power.limit.clear']),
]);

/** Checks a type and its params against the registry. Problems name the place and the rule, never the value. */
export function parseTaskParams(taskType: string, params: unknown): TaskParseResult<NodeTaskParams> {
  if (!isNodeTaskType(taskType)) return unknownType(taskType);
  const parsed = paramsByType.safeParse({ task_type: taskType, params });
  return parsed.success ? { ok: true, value: parsed.data } : invalid(parsed.error);
}

/** Checks what a host reported for a task of this type; keys that are not known are dropped. */
export function parseTaskOutput(taskType: string, output: unknown): TaskParseResult<NodeTaskOutput> {
  if (!isNodeTaskType(taskType)) return unknownType(taskType);
  const parsed = outputByType.safeParse({ task_type: taskType, output });
  return parsed.success ? { ok: true, value: parsed.data } : invalid(parsed.error);
}

function unknownType(taskType: string): TaskParseResult<never> {
  return {
    ok: false,
    reason: 'unknown_type',
    problems: [`task type ${JSON.stringify(taskType.slice(0, 100))} is not known`],
  };
}

function invalid(error: z.ZodError): TaskParseResult<never> {
  return {
    ok: false,
    reason: 'invalid',
    problems: error.issues.slice(0, 20).map((issue) => `/${issue.path.map(String).join('/')}: ${issue.message}`),
  };
}
