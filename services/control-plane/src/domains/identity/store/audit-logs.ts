import { type SqlBool, sql } from 'kysely';
import type { ActorRole } from '../../../spine/audit.js';
import type { Reader } from '../../../spine/operation.js';

/** Whose record is asked for; fixed by the server, filters only narrow it. */
export type AuditScope =
  /** what a person did, and what was done about them */
  | { readonly kind: 'person'; readonly userId: string }
  | { readonly kind: 'project'; readonly projectId: string }
  | { readonly kind: 'tenant'; readonly tenantId: string }
  | { readonly kind: 'platform' };

export const AUDIT_SORTS = [
  'occurred_at_desc',
  'occurred_at_asc',
  'action_asc',
  'action_desc',
  'result_asc',
  'result_desc',
  'target_asc',
  'target_desc',
] as const;
export type AuditSort = (typeof AUDIT_SORTS)[number];

export interface AuditFilter {
  readonly actorUserId: string | null;
  /** empty: any */
  readonly actorRoles: readonly string[];
  readonly action: string | null;
  /** any of them; empty: any action */
  readonly actionPrefixes: readonly string[];
  readonly targetType: string | null;
  readonly correlationId: string | null;
  /** inclusive */
  readonly from: Date | null;
  /** exclusive */
  readonly to: Date | null;
}

export interface AuditRow {
  readonly id: string;
  readonly occurredAt: Date;
  readonly actorKind: string;
  readonly actorId: string | null;
  readonly actorName: string;
  readonly actorRole: ActorRole;
  readonly action: string;
  readonly targetType: string;
  readonly targetId: string | null;
  readonly result: 'success' | 'failure';
  readonly requestId: string;
  readonly correlationId: string;
  readonly traceId: string;
  readonly metadata: unknown;
  /** with the microseconds that a Date would drop */
  readonly sortKey: string;
}

const COLUMNS = [
  'id',
  'occurred_at',
  'actor_kind',
  'actor_id',
  'actor_name',
  'actor_role',
  'action',
  'target_type',
  'target_id',
  'result',
  'request_id',
  'correlation_id',
  'trace_id',
  'metadata',
] as const;

interface SortPlan {
  /** what rows are compared by; for times the column itself, so that its indexes serve */
  readonly column: string;
  /** the same as text, for the cursor */
  readonly text: string;
  /** how the cursor's text becomes comparable with the column again */
  readonly cast: string;
  readonly direction: 'asc' | 'desc';
}

const time = (direction: 'asc' | 'desc'): SortPlan => ({
  column: 'occurred_at',
  text: 'occurred_at::text',
  cast: '::timestamptz',
  direction,
});
const text = (expression: string, direction: 'asc' | 'desc'): SortPlan => ({
  column: `(${expression}) COLLATE "C"`,
  text: `(${expression}) COLLATE "C"`,
  cast: '::text',
  direction,
});
const TARGET = `target_type || ' ' || COALESCE(target_id, '')`;

const SORTS: Readonly<Record<AuditSort, SortPlan>> = {
  occurred_at_desc: time('desc'),
  occurred_at_asc: time('asc'),
  action_asc: text('action', 'asc'),
  action_desc: text('action', 'desc'),
  result_asc: text('result', 'asc'),
  result_desc: text('result', 'desc'),
  target_asc: text(TARGET, 'asc'),
  target_desc: text(TARGET, 'desc'),
};

/** One row set that an index of its own serves; a person's record is made of two. */
type Branch = 'all' | 'by' | 'about';

function branchesOf(scope: AuditScope): readonly Branch[] {
  return scope.kind === 'person' ? ['by', 'about'] : ['all'];
}

function branch(reader: Reader, scope: AuditScope, which: Branch, filter: AuditFilter) {
  let rows = reader.selectFrom('audit_logs');
  switch (scope.kind) {
    case 'person':
      rows =
        which === 'by'
          ? rows.where('actor_id', '=', scope.userId)
          : rows
              .where('target_user_id', '=', scope.userId)
              .where(sql<SqlBool>`actor_id IS DISTINCT FROM ${scope.userId}::uuid`);
      break;
    case 'project':
      rows = rows.where('project_id', '=', scope.projectId);
      break;
    case 'tenant':
      rows = rows.where('tenant_id', '=', scope.tenantId);
      break;
    case 'platform':
      break;
  }
  if (filter.actorUserId !== null) {
    rows = rows.where('actor_id', '=', filter.actorUserId).where('actor_kind', '=', 'user');
  }
  if (filter.actorRoles.length > 0) {
    rows = rows.where(sql<SqlBool>`actor_role = ANY(${[...filter.actorRoles]}::text[])`);
  }
  if (filter.action !== null) rows = rows.where('action', '=', filter.action);
  if (filter.actionPrefixes.length > 0) {
    rows = rows.where((eb) =>
      eb.or(filter.actionPrefixes.map((prefix) => eb('action', 'like', `${escapeLike(prefix)}%`))),
    );
  }
  if (filter.targetType !== null) rows = rows.where('target_type', '=', filter.targetType);
  if (filter.correlationId !== null) rows = rows.where('correlation_id', '=', filter.correlationId);
  if (filter.from !== null) rows = rows.where('occurred_at', '>=', filter.from);
  if (filter.to !== null) rows = rows.where('occurred_at', '<', filter.to);
  return rows;
}

export interface AuditPosition {
  readonly key: string;
  readonly id: string;
}

/** Rows of the record behind `after`, in the order of `sort`, ties by id. */
export async function findAuditRows(
  reader: Reader,
  scope: AuditScope,
  filter: AuditFilter,
  sort: AuditSort,
  after: AuditPosition | null,
  limit: number,
): Promise<readonly AuditRow[]> {
  const plan = SORTS[sort];
  const column = sql<string>`${sql.raw(plan.column)}`;
  const beyond = sql.raw(plan.direction === 'asc' ? '>' : '<');
  const pages = await Promise.all(
    branchesOf(scope).map((which) =>
      branch(reader, scope, which, filter)
        .select([...COLUMNS, sql<string>`${sql.raw(plan.text)}`.as('sort_key')])
        .$if(after !== null, (query) =>
          query.where(sql<SqlBool>`(${column}, id) ${beyond} (${after?.key}${sql.raw(plan.cast)}, ${after?.id}::uuid)`),
        )
        .orderBy(column, plan.direction)
        .orderBy('id', plan.direction)
        .limit(limit)
        .execute(),
    ),
  );
  const rows = pages.flat().map(
    (row): AuditRow => ({
      id: row.id,
      occurredAt: row.occurred_at,
      actorKind: row.actor_kind,
      actorId: row.actor_id,
      actorName: row.actor_name,
      actorRole: row.actor_role,
      action: row.action,
      targetType: row.target_type,
      targetId: row.target_id,
      result: row.result,
      requestId: row.request_id,
      correlationId: row.correlation_id,
      traceId: row.trace_id,
      metadata: row.metadata,
      sortKey: row.sort_key,
    }),
  );
  return pages.length === 1 ? rows : mergeSorted(rows, plan.direction).slice(0, limit);
}

/** How many rows an export would have, at most `limit`: counting stops there. */
export async function countAuditRows(
  reader: Reader,
  scope: AuditScope,
  filter: AuditFilter,
  limit: number,
): Promise<number> {
  let total = 0;
  for (const which of branchesOf(scope)) {
    const row = await reader
      .selectFrom(branch(reader, scope, which, filter).select('id').limit(limit).as('matching'))
      .select((eb) => eb.fn.countAll<bigint>().as('count'))
      .executeTakeFirstOrThrow();
    total += Number(row.count);
  }
  return Math.min(total, limit);
}

/** Byte order, as the database compares under "C"; times of one form compare alike as text. */
function mergeSorted(rows: readonly AuditRow[], direction: 'asc' | 'desc'): readonly AuditRow[] {
  const sign = direction === 'asc' ? 1 : -1;
  const compare = (left: string, right: string) => (left < right ? -1 : left > right ? 1 : 0);
  return [...rows].sort((left, right) => sign * (compare(left.sortKey, right.sortKey) || compare(left.id, right.id)));
}

function escapeLike(value: string): string {
  return value.replace(/[\\%_]/g, '\\$&');
}
