import type { CallContext, Tx } from './operation.js';
import { publish } from './outbox.js';

/** What a workflow is started with. Everything else it reads by the id: rows may have changed since. */
export interface WorkflowInput {
  readonly id: string;
  readonly correlationId: string;
}

export interface StepOptions {
  /** tries before the step's error reaches the workflow; default 8, over about two minutes */
  readonly attempts?: number;
  /** pause before the second try, doubled for each further one; default 1 */
  readonly firstPauseSeconds?: number;
}

/**
 * What a workflow may do besides computing. Everything that reads or changes the world happens in a step, so that a
 * run that is continued elsewhere finds the same answers: the result of a finished step is kept and not asked again.
 */
export interface WorkflowSteps {
  /**
   * Runs once to its end and keeps what it returned (JSON). A crash may run it a second time, so it must do no harm
   * then. An expected "no" is a value to return: an error is tried again, and after a restart it is a plain Error.
   */
  step<Result>(name: string, run: () => Promise<Result>, options?: StepOptions): Promise<Result>;
  /** Waits for a message to this workflow; null when none has come in time. Survives restarts. */
  receive(topic: string, options: { readonly timeoutSeconds: number }): Promise<unknown>;
  /** Survives restarts: what remains of the pause is waited for elsewhere. */
  sleep(seconds: number): Promise<void>;
  /** The time, the same again in a repeated run. */
  now(): Promise<Date>;
  /** Shows in lists that the workflow takes back what it did. */
  compensating(): Promise<void>;
}

export type WorkflowOutcome =
  | 'completed'
  | 'reconciled'
  | 'failed_retryable'
  | 'failed_manual_intervention'
  | 'cancelled'
  | 'timed_out';

/** A durable workflow as a domain declares it; the spine registers it with the engine under its stable name. */
export interface WorkflowRegistration {
  /** `fleet.drain-node`; stable for ever, running instances are found by it */
  readonly name: string;
  /**
   * Receives an id, never a row; every step may run twice. Returning nothing means completed; a throw means that a
   * person has to look.
   */
  // biome-ignore lint/suspicious/noConfusingVoidType: a workflow that has nothing to say returns nothing
  run(input: WorkflowInput, steps: WorkflowSteps): Promise<WorkflowOutcome | void>;
}

export const WORKFLOW_FAMILIES = [
  'provisioning',
  'maas_onboarding',
  'maas_decommission',
  'node_agent_lifecycle',
  'app_runtime',
  'reconciliation',
  'unknown',
] as const;
export type WorkflowFamily = (typeof WORKFLOW_FAMILIES)[number];

export interface WorkflowRequest {
  /** of the registration */
  readonly name: string;
  /** the id of the operation that it carries out: the same id is the same workflow, however often it is started */
  readonly id: string;
  readonly family: WorkflowFamily;
  /** what it works on: `allocation`, `node` … */
  readonly resourceType: string;
  /** one line for operators */
  readonly summary?: string;
  readonly tenantId?: string | null;
  readonly projectId?: string | null;
  readonly actorUserId?: string | null;
  readonly allocationId?: string | null;
  readonly nodeId?: string | null;
  readonly siteId?: string | null;
}

export const WORKFLOW_REQUESTED = 'platform.workflow.requested';
export const WORKFLOW_MESSAGE = 'platform.workflow.message';

/** The consumer that every worker has for the engine; processes without an engine know it by this. */
export const WORKFLOW_CONSUMER = {
  name: 'workflow-engine',
  eventTypes: [WORKFLOW_REQUESTED, WORKFLOW_MESSAGE],
} as const;

/**
 * Starts a workflow once the caller's transaction is committed, on some worker; the relay sees to it. Returns false,
 * and changes nothing, where one with this id has been started already.
 */
export async function startWorkflow(tx: Tx, ctx: CallContext, request: WorkflowRequest): Promise<boolean> {
  const inserted = await tx
    .insertInto('workflow_runs')
    .values({
      workflow_id: request.id,
      name: request.name,
      family: request.family,
      resource_type: request.resourceType,
      summary: request.summary ?? '',
      tenant_id: request.tenantId ?? null,
      project_id: request.projectId ?? null,
      actor_user_id: request.actorUserId ?? (ctx.principal.kind === 'user' ? ctx.principal.userId : null),
      allocation_id: request.allocationId ?? null,
      node_id: request.nodeId ?? null,
      site_id: request.siteId ?? null,
      correlation_id: ctx.correlationId,
    })
    .onConflict((conflict) => conflict.column('workflow_id').doNothing())
    .returning('workflow_id')
    .executeTakeFirst();
  if (!inserted) return false;
  await publish(tx, ctx, {
    type: WORKFLOW_REQUESTED,
    aggregateType: 'workflow',
    aggregateId: request.id,
    payload: { workflow_id: request.id, name: request.name },
  });
  return true;
}

/**
 * Sends a message to a workflow once the caller's transaction is committed. It reaches the run that is current then,
 * exactly once, and not before the workflow was started; one that has ended does not read it any more.
 */
export async function sendToWorkflow(
  tx: Tx,
  ctx: CallContext,
  message: { readonly workflowId: string; readonly topic: string; readonly content: unknown },
): Promise<void> {
  await publish(tx, ctx, {
    type: WORKFLOW_MESSAGE,
    aggregateType: 'workflow',
    aggregateId: message.workflowId,
    payload: { workflow_id: message.workflowId, topic: message.topic, content: message.content },
  });
}
