import { Readable } from 'node:stream';
import { audit } from '../../../spine/audit.js';
import { pageOf, pageRequest } from '../../../spine/cursors.js';
import {
  exchange,
  type OperationHandlers,
  query,
  type RawResponse,
  type Reader,
  type RequestContext,
} from '../../../spine/operation.js';
import { badRequest, notFound, Refusal } from '../../../spine/refusal.js';
import { inTransaction } from '../../../spine/transaction.js';
import { csvLine } from '../../../spine/wire.js';
import type { IdentityDependencies } from '../dependencies.js';
import {
  type AuditFilter,
  type AuditPosition,
  type AuditRow,
  type AuditScope,
  type AuditSort,
  countAuditRows,
  findAuditRows,
} from '../store/audit-logs.js';
import { tenantExists } from '../store/tenants.js';
import { AUDIT_CSV_COLUMNS, auditCsvCells, auditLogView } from '../views/audit-log-view.js';
import { projectOf, userOf } from './caller.js';

const EXPORT_ROWS = 100_000;
const EXPORT_BATCH = 1_000;
/** Exports hold a connection each for as long as their reader takes. */
const EXPORTS_AT_ONCE = 2;
const EXPORT_SECONDS = 300;

/** What the lists have in common; each declares a part of it. */
interface AuditQuery {
  readonly cursor?: string | undefined;
  readonly page_size?: number | undefined;
  readonly sort: AuditSort;
  readonly actor_user_id?: string | undefined;
  /** one role, or several */
  readonly actor_role?: string | readonly string[] | undefined;
  /** one exact name, or several beginnings of names */
  readonly action?: string | readonly string[] | undefined;
  readonly target_type?: string | undefined;
  readonly correlation_id?: string | undefined;
  readonly from?: string | undefined;
  readonly to?: string | undefined;
}

export function auditLogOperations({
  db: primary,
  clock,
}: Pick<IdentityDependencies, 'db' | 'clock'>): OperationHandlers {
  async function list(db: Reader, ctx: RequestContext, operation: string, scope: AuditScope, asked: AuditQuery) {
    const filter = filterOf(asked);
    const request = pageRequest(
      ctx,
      { operation, context: contextOf(scope), filters: { ...filter }, sort: asked.sort },
      asked,
    );
    const [key, id] = request.after ?? [];
    const after: AuditPosition | null = key != null && id != null ? { key, id } : null;
    const found = await findAuditRows(db, scope, filter, asked.sort, after, request.pageSize + 1);
    const { rows, pagination } = pageOf(ctx, request, found, (row) => [row.sortKey, row.id]);
    const showsMetadata = readsPlatformRecord(ctx);
    return { items: rows.map((row) => auditLogView(row, showsMetadata)), pagination };
  }

  let running = 0;
  /** The rows of the list's own query, unpaged, out of one snapshot; on record before the first of them leaves. */
  async function exportAll(
    ctx: RequestContext,
    asked: AuditQuery & { readonly format: 'csv' | 'json' },
    signal: AbortSignal,
  ): Promise<RawResponse> {
    if (running >= EXPORTS_AT_ONCE) throw busy();
    running += 1;
    let handedOver = false;
    try {
      const filter = filterOf(asked);
      const scope: AuditScope = { kind: 'platform' };
      const rows = await countAuditRows(primary, scope, filter, EXPORT_ROWS + 1);
      if (rows > EXPORT_ROWS) {
        throw badRequest('export_too_large', '/query/from', `more than ${EXPORT_ROWS} rows match; narrow the filters`);
      }
      await inTransaction(primary, (tx) =>
        audit(tx, ctx, {
          action: 'audit.export',
          targetType: 'audit_log',
          targetId: null,
          metadata: { format: asked.format, rows, filters: presentOf(filter), sort: asked.sort },
        }),
      );
      const isCsv = asked.format === 'csv';
      const batches = snapshotRows(primary, scope, filter, asked.sort);
      const content = Readable.from(isCsv ? csv(batches) : json(batches, asked.sort), { objectMode: false });
      // A reader that stands still must not hold the snapshot for ever. However the stream ends, it closes once.
      const deadline = AbortSignal.any([signal, AbortSignal.timeout(EXPORT_SECONDS * 1000)]);
      const stop = () => content.destroy(new Error('the export was cut off'));
      deadline.addEventListener('abort', stop, { once: true });
      content.once('close', () => {
        deadline.removeEventListener('abort', stop);
        running -= 1;
      });
      handedOver = true;
      const name = `audit-${clock.now().toISOString().slice(0, 10)}.${asked.format}`;
      return {
        status: 200,
        contentType: isCsv ? 'text/csv; charset=utf-8' : 'application/json; charset=utf-8',
        content,
        headers: { 'content-disposition': `attachment; filename="${name}"` },
      };
    } finally {
      if (!handedOver) running -= 1;
    }
  }

  const own = (ctx: RequestContext): AuditScope => ({ kind: 'person', userId: userOf(ctx).userId });
  const ofProject = (ctx: RequestContext): AuditScope => ({ kind: 'project', projectId: projectOf(ctx).projectId });
  const ofTenant = async (db: Reader, ctx: RequestContext): Promise<AuditScope> => {
    if (ctx.tenantId === null) throw badRequest('tenant_context_required', '/headers/X-Tenant-ID', 'is missing');
    // Members have proven their tenant; an operator may name any, and be told that there is no such one.
    if (!(await tenantExists(db, ctx.tenantId))) throw notFound('tenant');
    return { kind: 'tenant', tenantId: ctx.tenantId };
  };
  const PLATFORM: AuditScope = { kind: 'platform' };

  return {
    listMyAuditLogs: query<'listMyAuditLogs'>(async ({ db, ctx, query: asked }) => ({
      status: 200,
      body: await list(db, ctx, 'listMyAuditLogs', own(ctx), asked),
    })),
    listV3AccountEvidenceAuditLogs: query<'listV3AccountEvidenceAuditLogs'>(async ({ db, ctx, query: asked }) => ({
      status: 200,
      body: await list(db, ctx, 'listV3AccountEvidenceAuditLogs', own(ctx), asked),
    })),
    listProjectAuditLogs: query<'listProjectAuditLogs'>(async ({ db, ctx, query: asked }) => ({
      status: 200,
      body: await list(db, ctx, 'listProjectAuditLogs', ofProject(ctx), asked),
    })),
    listV3ProjectEvidenceAuditLogs: query<'listV3ProjectEvidenceAuditLogs'>(async ({ db, ctx, query: asked }) => ({
      status: 200,
      body: await list(db, ctx, 'listV3ProjectEvidenceAuditLogs', ofProject(ctx), asked),
    })),
    listOrgAuditLogs: query<'listOrgAuditLogs'>(async ({ db, ctx, query: asked }) => ({
      status: 200,
      body: await list(db, ctx, 'listOrgAuditLogs', await ofTenant(db, ctx), asked),
    })),
    listV3TenantEvidenceAuditLogs: query<'listV3TenantEvidenceAuditLogs'>(async ({ db, ctx, query: asked }) => ({
      status: 200,
      body: await list(db, ctx, 'listV3TenantEvidenceAuditLogs', await ofTenant(db, ctx), asked),
    })),
    adminListAuditLogs: query<'adminListAuditLogs'>(async ({ db, ctx, query: asked }) => ({
      status: 200,
      body: await list(db, ctx, 'adminListAuditLogs', PLATFORM, asked),
    })),
    listV3PlatformEvidenceAuditLogs: query<'listV3PlatformEvidenceAuditLogs'>(async ({ db, ctx, query: asked }) => ({
      status: 200,
      body: await list(db, ctx, 'listV3PlatformEvidenceAuditLogs', PLATFORM, asked),
    })),

    adminExportAuditLogsCsv: exchange<'adminExportAuditLogsCsv'>(({ ctx, query: asked, signal }) =>
      exportAll(ctx, asked, signal),
    ),
    exportV3PlatformEvidenceAuditLogs: exchange<'exportV3PlatformEvidenceAuditLogs'>(({ ctx, query: asked, signal }) =>
      exportAll(ctx, asked, signal),
    ),
  };
}

function filterOf(asked: AuditQuery): AuditFilter {
  return {
    actorUserId: asked.actor_user_id ?? null,
    actorRoles: several(asked.actor_role),
    action: typeof asked.action === 'string' ? asked.action : null,
    actionPrefixes: typeof asked.action === 'string' ? [] : several(asked.action),
    targetType: asked.target_type ?? null,
    correlationId: asked.correlation_id ?? null,
    from: timeOf(asked.from),
    to: timeOf(asked.to),
  };
}

/** Repeated values and values with commas are one list. */
function several(value: string | readonly string[] | undefined): readonly string[] {
  const values = value === undefined ? [] : typeof value === 'string' ? [value] : value;
  return [...new Set(values.flatMap((each) => each.split(',')).map((each) => each.trim()))]
    .filter((each) => each !== '')
    .sort();
}

function timeOf(value: string | undefined): Date | null {
  return value === undefined ? null : new Date(value);
}

function contextOf(scope: AuditScope): string {
  switch (scope.kind) {
    case 'person':
      return scope.userId;
    case 'project':
      return scope.projectId;
    case 'tenant':
      return scope.tenantId;
    case 'platform':
      return 'platform';
  }
}

function readsPlatformRecord(ctx: RequestContext): boolean {
  return ctx.principal.kind === 'user' && ctx.principal.capabilities.has('platform.audit.read');
}

function presentOf(filter: AuditFilter): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(filter).filter(([, value]) => value !== null && !(Array.isArray(value) && value.length === 0)),
  );
}

function busy(): Refusal {
  return new Refusal('service_unavailable', {
    details: { reason: 'export_busy' },
    retryAfterSeconds: 10,
    message: 'too many exports at once; try again',
  });
}

/** Every matching row in batches, out of one read-only snapshot that ends with the last batch, or when nobody reads on. */
async function* snapshotRows(
  db: Reader,
  scope: AuditScope,
  filter: AuditFilter,
  sort: AuditSort,
): AsyncGenerator<readonly AuditRow[], void, undefined> {
  const snapshot = await db
    .startTransaction()
    .setIsolationLevel('repeatable read')
    .setAccessMode('read only')
    .execute();
  try {
    let after: AuditPosition | null = null;
    for (;;) {
      const rows: readonly AuditRow[] = await findAuditRows(snapshot, scope, filter, sort, after, EXPORT_BATCH);
      const last = rows.at(-1);
      if (last === undefined) return;
      yield rows;
      if (rows.length < EXPORT_BATCH) return;
      after = { key: last.sortKey, id: last.id };
    }
  } finally {
    // it only read: there is nothing to keep
    await snapshot.rollback().execute();
  }
}

async function* csv(batches: AsyncIterable<readonly AuditRow[]>): AsyncGenerator<string> {
  yield csvLine(AUDIT_CSV_COLUMNS);
  for await (const rows of batches) yield rows.map((row) => csvLine(auditCsvCells(row))).join('');
}

async function* json(batches: AsyncIterable<readonly AuditRow[]>, sort: AuditSort): AsyncGenerator<string> {
  let count = 0;
  yield '{"items":[';
  for await (const rows of batches) {
    yield rows
      .map((row, index) => `${count + index > 0 ? ',' : ''}${JSON.stringify(auditLogView(row, true))}`)
      .join('');
    count += rows.length;
  }
  yield `],"export":${JSON.stringify({ format: 'json', count, sort })}}`;
}
