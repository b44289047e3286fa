import { assertNever } from '@gpuaas/kernel';
import type { NodeTaskParams } from '@gpuaas/node-protocol';
import type { RuntimeUser } from '../host/host-port.js';
import { provisionGuest, releaseGuest, restartGuest } from './guests.js';
import { probeHealth } from './probe-health.js';
import { restartAllocation } from './restart-allocation.js';
import type { TaskContext, TaskOutcome } from './task-context.js';
import { uninstallNode } from './uninstall-node.js';

/** Does what a verified task asks for. Throws for what went wrong; every effect may be repeated. */
export async function runTask(task: NodeTaskParams, context: TaskContext): Promise<TaskOutcome> {
  const { host, agent } = context;
  switch (task.task_type) {
    case 'allocation.provision_user': {
      const { authorized_keys: keys, key_set_version: version } = task.params;
      const installed = await host.ensureUser(runtimeUser(task.params), { version, keys });
      const output = { ...context.sshEndpoint, authorized_keys: installed };
      return { status: 'success', task_type: task.task_type, output };
    }
    case 'allocation.deprovision_user': {
      const leftovers = await host.ensureUserAbsent(runtimeUser(task.params));
      if (leftovers.length === 0)
        return { status: 'success', task_type: task.task_type, output: { clean: true, leftovers } };
      const message = `${leftovers.length} things of the account are still there`;
      return { status: 'failed', reason: 'not_clean', message, output: { clean: false, leftovers } };
    }
    case 'allocation.install_authorized_keys': {
      const { keys, key_set_version: version } = task.params;
      const output = await host.ensureAuthorizedKeys(runtimeUser(task.params), { version, keys });
      return { status: 'success', task_type: task.task_type, output };
    }
    case 'allocation.restart':
      return restartAllocation(runtimeUser(task.params), context);
    case 'runtime_bundle.apply': {
      const { slug, version, env } = task.params;
      const allocationId = task.params.allocation_id.toLowerCase();
      const path = await host.ensureRuntimeBundle({ allocationId, slug, version, env });
      return { status: 'success', task_type: task.task_type, output: { path } };
    }
    case 'slice.topology_discover':
      return { status: 'success', task_type: task.task_type, output: await host.topology() };
    case 'diag.health_probe':
      return probeHealth(task.params.allocation_id?.toLowerCase() ?? null, context);
    case 'node.drain': {
      const runtimes = await host.runtimeUsers();
      const remaining = runtimes.map((user) => ({ allocation_id: user.allocationId, username: user.username }));
      const quiesced = remaining.length === 0 && agent.otherTasks(context.taskId).length === 0;
      return { status: 'success', task_type: task.task_type, output: { quiesced, remaining_runtimes: remaining } };
    }
    case 'node.uninstall':
      return uninstallNode(context);
    case 'agent.renew_cert': {
      const { serialNumber, notAfter } = await agent.renewCertificate();
      const output = { serial_number: serialNumber, not_after: notAfter.toISOString() };
      return { status: 'success', task_type: task.task_type, output };
    }
    case 'agent.trust_bundle_update': {
      const { version, ca_pem: caPem, node_ca_pem: nodeCaPem, signing_pubkeys: signingKeys } = task.params;
      const updated = await agent.updateTrust({
        version,
        caPem,
        nodeCaPem,
        signingKeys,
        signedBy: context.signingKeyId,
      });
      const output = { version: updated.version, signing_key_ids: updated.signingKeyIds };
      return { status: 'success', task_type: task.task_type, output };
    }
    case 'slice.vm_provision':
      return host.guests ? provisionGuest(host.guests, task.params) : unsupported(task, context);
    case 'slice.vm_release':
      return host.guests ? releaseGuest(host.guests, task.params) : unsupported(task, context);
    case 'slice.restart':
      return host.guests ? restartGuest(host.guests, task.params, context) : unsupported(task, context);
    case 'app.bootstrap_ssh.reconcile':
    case 'app.container.deploy':
    case 'app.container.stop':
    case 'app.container.start':
    case 'app.container.restart':
    case 'app.container.upgrade':
    case 'app.container.remove':
    case 'storage.mount':
    case 'storage.unmount':
    case 'terminal.open':
    case 'node.soft_reset':
    case 'node.storage_cleanup':
    case 'agent.upgrade':
    case 'agent.rebootstrap':
    case 'power.limit.apply':
    case 'power.limit.clear':
      return unsupported(task, context);
    default:
      return assertNever(task);
  }
}

function unsupported(task: NodeTaskParams, { host }: TaskContext): TaskOutcome {
  return {
    status: 'rejected',
    reason: 'unsupported_by_this_host',
    message: `this agent has no driver for ${task.task_type} on a ${host.kind} host`,
  };
}

function runtimeUser(params: { allocation_id: string; username: string; uid: number }): RuntimeUser {
  return { allocationId: params.allocation_id.toLowerCase(), username: params.username, uid: params.uid };
}
