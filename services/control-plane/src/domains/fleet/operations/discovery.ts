import type { Schema } from '@gpuaas/contract';
import { asId } from '@gpuaas/kernel';
import { parseTaskOutput } from '@gpuaas/node-protocol';
import { audit } from '../../../spine/audit.js';
import { command, type OperationHandlers, query } from '../../../spine/operation.js';
import { conflict } from '../../../spine/refusal.js';
import { toWireTimeOrNull } from '../../../spine/wire.js';
import type { FleetServices } from '../services.js';
import { replaceImages } from '../store/image-cache.js';
import { getNode, lockNode, recordFacts } from '../store/nodes.js';
import { noteDevices } from '../store/slots.js';
import { findNewestTask, type TaskRow } from '../store/tasks.js';
import type { NodeTaskResultHandler, TaskQueue } from '../tasks/task-queue.js';

const TYPE = 'slice.topology_discover';

/** Asking a host what it is made of. The answer is advice: nothing is sold on the strength of it. */
export function discoveryOperations({ queue }: FleetServices): OperationHandlers {
  const latest = query<'adminGetLatestNodeSliceTopologyDiscovery'>(async ({ db, path }) => {
    const node = await getNode(db, asId(path.node_id));
    const task = await findNewestTask(db, node.id, TYPE);
    return { status: 200, body: { item: task === null ? null : discoveryView(queue, task) } };
  });

  const start = command<'adminStartNodeSliceTopologyDiscovery'>(async ({ tx, ctx, path }) => {
    const node = await lockNode(tx, asId(path.node_id));
    if (node.status === 'retired' || node.status === 'removing') {
      throw conflict(`node_is_${node.status}`, { current_status: node.status });
    }
    const taskId = await queue.queue(tx, ctx, {
      nodeId: node.id,
      type: TYPE,
      params: { schema_version: 1 },
      operationId: null,
      subjectType: 'node',
      subjectId: node.id,
    });
    await audit(tx, ctx, {
      action: 'node.discovery.start',
      targetType: 'node',
      targetId: node.id,
      metadata: { task_id: taskId },
    });
    const task = await findNewestTask(tx, node.id, TYPE);
    return { status: 202, body: { item: task === null ? null : discoveryView(queue, task) } };
  });

  return {
    adminGetLatestNodeSliceTopologyDiscovery: latest,
    getV3PlatformNodeSliceTopologyDiscovery: latest,
    adminStartNodeSliceTopologyDiscovery: start,
    startV3PlatformNodeSliceTopologyDiscovery: start,
  };
}

/** Keeps what a host reported as the facts of its node. */
export const discoveryResults: NodeTaskResultHandler = {
  taskTypes: [TYPE],
  async handle(tx, ctx, { task, outcome }) {
    if (outcome.status !== 'completed') return;
    const report = parseTaskOutput(TYPE, outcome.output);
    if (!report.ok || report.value.task_type !== TYPE) {
      ctx.log.warn({ node_id: task.nodeId, task_id: task.id }, 'a host reported a topology that cannot be read');
      return;
    }
    const { host } = report.value.output;
    await recordFacts(
      tx,
      task.nodeId,
      {
        kernel: host.kernel,
        driverVersion: host.driver,
        cudaVersion: host.cuda,
        os: host.os,
        architecture: host.architecture,
        memoryMib: host.memory_mib,
        vcpuCount: host.vcpu_count,
      },
      report.value.output,
      { taskId: task.id, at: outcome.at },
    );
    await replaceImages(tx, task.nodeId, report.value.output.images ?? []);
    await noteDevices(tx, task.nodeId, report.value.output.gpus ?? [], outcome.at);
  },
};

function discoveryView(queue: TaskQueue, task: TaskRow): Schema<'NodeSliceTopologyDiscovery'> {
  const output = task.outputSealed === null ? null : queue.openOutput(task.outputSealed);
  return {
    task_id: task.id,
    node_id: task.nodeId,
    task_type: TYPE,
    status: task.status,
    correlation_id: task.correlationId,
    issued_at: task.issuedAt.toISOString(),
    expires_at: task.expiresAt.toISOString(),
    dispatched_at: toWireTimeOrNull(task.dispatchedAt),
    completed_at: toWireTimeOrNull(task.completedAt),
    error: task.error,
    output: output !== null && typeof output === 'object' ? { ...output } : null,
  };
}
