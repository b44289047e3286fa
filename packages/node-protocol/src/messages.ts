import { z } from 'zod';
import { timestamp } from './shapes.js';

/** The bodies of the node protocol, as both ends read them. Requests are closed, answers are read openly. */

/** A task on its way to a host; `signature` covers all the rest. */
export const taskEnvelope = z.strictObject({
  task_id: z.guid(),
  task_type: z.string().min(1).max(128),
  node_id: z.string().min(1).max(128),
  correlation_id: z.string().max(256),
  issued_at: timestamp,
  expires_at: timestamp,
  params: z.record(z.string(), z.unknown()),
  signature: z.string().min(1).max(512),
});
export type TaskEnvelope = z.infer<typeof taskEnvelope>;
export type UnsignedTask = Omit<TaskEnvelope, 'signature'>;

export const TASK_RESULT_STATUSES = ['success', 'failed', 'rejected'] as const;
export type TaskResultStatus = (typeof TASK_RESULT_STATUSES)[number];

/**
 * What became of a task. `rejected` means that nothing was touched; `output.reason` then says why in snake case
 * (see RejectionReason). A `failed` task may have acted; `output.reason` names the failure where the host knows it.
 */
export const taskResultRequest = z.strictObject({
  status: z.enum(TASK_RESULT_STATUSES),
  error: z.string().max(4096).nullable().optional(),
  completed_at: timestamp,
  output: z.record(z.string(), z.unknown()),
});
export type TaskResultRequest = z.infer<typeof taskResultRequest>;

/** `ok: false`: the result came late or contradicts the one that counted; it is kept as evidence and not wanted again. */
export const taskResultResponse = z.object({ ok: z.boolean() });

export const enrollmentRequest = z.strictObject({
  node_id: z.string().min(1).max(128),
  csr: z.string().min(1).max(16_384),
});
export const enrollmentResponse = z.object({ certificate: z.string().min(1), ca_bundle: z.string().min(1) });
export const renewalRequest = z.strictObject({ csr: z.string().min(1).max(16_384) });
export const renewalResponse = z.object({ certificate: z.string().min(1) });

/** The part of an error answer that an agent acts on. */
export const errorResponse = z.object({
  code: z.string(),
  message: z.string().default(''),
  details: z.record(z.string(), z.unknown()).optional(),
});
