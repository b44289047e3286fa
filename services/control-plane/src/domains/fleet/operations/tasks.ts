import { asId, canonicalHash } from '@gpuaas/kernel';
import {
  MAX_OUTPUT_BYTES,
  MAX_RUNNING_TASKS,
  NODE_HEADERS,
  parseRunningTasks,
  SIGNATURE_REJECTIONS,
} from '@gpuaas/node-protocol';
import { type CommandContext, command, exchange, type OperationHandlers, type Tx } from '../../../spine/operation.js';
import { notFound, Refusal } from '../../../spine/refusal.js';
import { requireNode } from '../identity/node-authenticator.js';
import { decideResult, SIGNATURE_REJECTIONS_BEFORE_QUARANTINE } from '../rules/task-state.js';
import type { FleetServices } from '../services.js';
import { clearSignatureRejections, countSignatureRejection } from '../store/nodes.js';
import { lockTaskOfNode, recordLateResult, type TaskRow } from '../store/tasks.js';

/** How tasks reach hosts, and their results the control plane. */
export function taskOperations(services: FleetServices): OperationHandlers {
  const { life, polls, presence, queue } = services;

  const wait = exchange<'internalNodeWaitTask'>(async ({ ctx, path, headers, signal }) => {
    const nodeId = requireNode(ctx.principal, path.node_id);
    await presence.record({
      nodeId,
      agentVersion: agentHeader(headers, NODE_HEADERS.agentVersion),
      agentCommit: agentHeader(headers, NODE_HEADERS.agentCommit),
      agentBuiltAt: agentHeader(headers, NODE_HEADERS.agentBuiltAt),
      bootId: agentHeader(headers, NODE_HEADERS.agentBootId),
      // Twice what a host may run: an agent that names more than that is not believed.
      runningTaskIds: parseRunningTasks(headers[NODE_HEADERS.agentRunningTasks.toLowerCase()]).slice(
        0,
        2 * MAX_RUNNING_TASKS,
      ),
      certificateSerial: ctx.principal.kind === 'node' ? ctx.principal.certificateSerial : null,
    });
    const task = await polls.wait(nodeId, signal);
    return task === null ? { status: 204, body: undefined } : { status: 200, body: task };
  });

  const result = command<'internalNodeTaskResult'>(
    async ({ tx, ctx, path, body }) => {
      const nodeId = requireNode(ctx.principal, path.node_id);
      const { output } = body;
      if (Buffer.byteLength(JSON.stringify(output)) > MAX_OUTPUT_BYTES) {
        throw new Refusal('invalid_request', {
          status: 413,
          message: `output: is larger than ${MAX_OUTPUT_BYTES} bytes`,
          details: { reason: 'output_too_large', maximum_bytes: MAX_OUTPUT_BYTES },
        });
      }
      const found = await lockTaskOfNode(tx, nodeId, asId(path.task_id));
      if (found === null) throw notFound('task');
      const { task, signatureRejections } = found;

      const error = body.error?.slice(0, MAXIMUM_ERROR_LENGTH) ?? null;
      const hash = canonicalHash({ status: body.status, error, completed_at: body.completed_at, output });
      const decision = decideResult(task, { status: body.status, hash });
      switch (decision.kind) {
        case 'repeat':
          return { status: 200, body: { ok: true } };
        case 'late':
          await recordLateResult(tx, task, {
            status: body.status,
            error,
            outputSealed: queue.sealOutput(output),
            resultHash: hash,
            reportedAt: new Date(body.completed_at),
          });
          return { status: 200, body: { ok: false } };
        case 'accept':
          await noteSignature(tx, ctx, task, signatureRejections, decision.to, output);
          await queue.finish(tx, ctx, task, { status: decision.to, error, output, resultHash: hash });
          return { status: 200, body: { ok: true } };
      }
    },
    { ignoresIdempotencyKey: true },
  );

  /** Several refused signatures in a row: host and control plane no longer trust one another. */
  const noteSignature = async (
    tx: Tx,
    ctx: CommandContext,
    task: TaskRow,
    before: number,
    status: 'completed' | 'failed' | 'rejected',
    output: Readonly<Record<string, unknown>>,
  ): Promise<void> => {
    const refused = status === 'rejected' && SIGNATURE_REJECTIONS.some((reason) => reason === output.reason);
    if (!refused) return before > 0 ? clearSignatureRejections(tx, task.nodeId) : undefined;
    const inARow = await countSignatureRejection(tx, task.nodeId);
    if (inARow >= SIGNATURE_REJECTIONS_BEFORE_QUARANTINE) await life.quarantine(tx, ctx, task.nodeId);
  };

  return { internalNodeWaitTask: wait, internalNodeTaskResult: result };
}

const MAXIMUM_ERROR_LENGTH = 4096;

/** What an agent says of itself ends up in lists: printable, short, or not at all. */
function agentHeader(headers: Readonly<Record<string, string | undefined>>, name: string): string | null {
  const value = headers[name.toLowerCase()]?.trim();
  return value !== undefined && /^[\x20-\x7e]{1,128}$/.test(value) ? value : null;
}
