import type { TenantId } from '@gpuaas/kernel';
import { newId, redact } from '@gpuaas/kernel';
import type { CallContext, Tx } from './operation.js';
import type { Principal } from './principal.js';

export interface AuditEntry {
  /** what happened, as `resource.verb`: `allocation.release` */
  readonly action: string;
  /** the kind of the target, e.g. `allocation` */
  readonly targetType: string;
  readonly targetId: string | null;
  /** the person the action is about, where that is not the actor */
  readonly targetUserId?: string | null;
  readonly tenantId?: string | null;
  readonly projectId?: string | null;
  readonly result?: 'success' | 'failure';
  /** safe facts only; passes the redactor all the same */
  readonly metadata?: Readonly<Record<string, unknown>>;
}

export type ActorRole = 'user' | 'admin' | 'service_account' | 'system';

/**
 * Writes the audit row of a command, in the command's own transaction: no effect without its row, no row without
 * its effect. The table takes INSERT and SELECT only. Returns the row's id.
 */
export async function audit(
  tx: Tx,
  ctx: CallContext & { readonly tenantId?: TenantId | null },
  entry: AuditEntry,
): Promise<string> {
  const id = newId();
  const actor = auditActor(ctx.principal);
  await tx
    .insertInto('audit_logs')
    .values({
      id,
      actor_kind: ctx.principal.kind,
      actor_id: actor.id,
      actor_name: actor.name,
      actor_role: actor.role,
      action: entry.action,
      target_type: entry.targetType,
      target_id: entry.targetId,
      target_user_id: entry.targetUserId ?? null,
      tenant_id: entry.tenantId ?? ctx.tenantId ?? actor.tenantId,
      project_id: entry.projectId ?? null,
      result: entry.result ?? 'success',
      request_id: ctx.requestId,
      correlation_id: ctx.correlationId,
      trace_id: ctx.trace.traceId,
      actor_ip: ctx.actorIp,
      user_agent: ctx.userAgent,
      metadata: JSON.stringify(redact(entry.metadata ?? {})),
    })
    .execute();
  return id;
}

/** How a principal appears in audit: id of the person or robot, a name, and one of the contract's four roles. */
export function auditActor(principal: Principal): {
  id: string | null;
  name: string;
  role: ActorRole;
  tenantId: string | null;
} {
  switch (principal.kind) {
    case 'user':
      return {
        id: principal.userId,
        name: principal.username,
        role: principal.capabilities.size > 0 ? 'admin' : 'user',
        tenantId: principal.tenantId,
      };
    case 'service_account':
    case 'shared_runtime_operator':
      return {
        id: principal.serviceAccountId,
        name: `service_account:${principal.serviceAccountId}`,
        role: 'service_account',
        tenantId: principal.tenantId,
      };
    case 'node':
      return { id: principal.nodeId, name: `node:${principal.nodeId}`, role: 'system', tenantId: null };
    case 'system':
      return { id: null, name: `system:${principal.name}`, role: 'system', tenantId: null };
    case 'anonymous':
      return { id: null, name: 'anonymous', role: 'user', tenantId: null };
  }
}
