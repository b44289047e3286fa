import type { Schema } from '@gpuaas/contract';
import { toWireTime } from '../../../spine/wire.js';
import { wordAudit } from '../rules/audit-presentation.js';
import type { AuditRow } from '../store/audit-logs.js';

/** A row of the record for someone; the raw metadata only for those who may read the platform's record. */
export function auditLogView(row: AuditRow, showsMetadata: boolean): Schema<'AuditLogEntry'> {
  const metadata = factsOf(row.metadata);
  const wording = wordAudit({ ...row, metadata });
  const isRobot = row.actorKind === 'service_account' || row.actorKind === 'shared_runtime_operator';
  return {
    id: row.id,
    actor_user_id: row.actorKind === 'user' ? row.actorId : null,
    actor_service_account_id: isRobot ? row.actorId : null,
    actor_role: row.actorRole,
    action: row.action,
    target_type: row.targetType,
    target_id: row.targetId,
    result: row.result,
    correlation_id: row.correlationId,
    occurred_at: toWireTime(row.occurredAt),
    ...(showsMetadata && { metadata }),
    presentation: {
      actor_label: wording.actorLabel,
      target_label: wording.targetLabel,
      target_type_label: wording.targetTypeLabel,
      action_label: wording.actionLabel,
      action_category: wording.category,
      action_family: wording.family,
      summary: wording.summary,
      result_label: wording.resultLabel,
      severity: wording.severity,
      safe_details: wording.safeDetails,
      debug_refs: {
        correlation_id: row.correlationId,
        trace_id: row.traceId,
        request_id: row.requestId,
        actor_ref: row.actorId === null ? null : `${row.actorKind}:${row.actorId}`,
        target_ref: row.targetId === null ? null : `${row.targetType}:${row.targetId}`,
      },
    },
  };
}

/** The columns of an exported row, in order. */
export const AUDIT_CSV_COLUMNS = [
  'occurred_at',
  'actor_role',
  'actor_user_id',
  'actor_service_account_id',
  'actor',
  'action',
  'target_type',
  'target_id',
  'result',
  'correlation_id',
  'summary',
  'metadata',
  'id',
] as const;

export function auditCsvCells(row: AuditRow): readonly (string | null)[] {
  const entry = auditLogView(row, true);
  return [
    entry.occurred_at,
    entry.actor_role,
    entry.actor_user_id ?? null,
    entry.actor_service_account_id ?? null,
    row.actorName,
    entry.action,
    entry.target_type,
    entry.target_id ?? null,
    entry.result,
    entry.correlation_id,
    entry.presentation?.summary ?? null,
    JSON.stringify(entry.metadata ?? {}),
    entry.id,
  ];
}

function factsOf(metadata: unknown): Record<string, unknown> {
  return metadata !== null && typeof metadata === 'object' && !Array.isArray(metadata) ? { ...metadata } : {};
}
