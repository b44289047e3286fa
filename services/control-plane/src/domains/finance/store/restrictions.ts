import { newId, redact, redactText } from '@gpuaas/kernel';
import type { CallContext, Reader, Tx } from '../../../spine/operation.js';
import { principalKey } from '../../../spine/principal.js';
import type { Restriction, RestrictionScopeType, RestrictionSource, RestrictionState } from '../rules/restriction.js';

export interface StoredRestriction extends Restriction {
  readonly id: string;
  readonly scopeId: string;
  readonly correlationId: string;
  readonly updatedAt: Date;
}

/** What is set for a person, their tenant and the project they work in, by any source. */
export async function restrictionsOf(
  reader: Reader,
  scopes: { readonly tenantId: string; readonly userId: string; readonly projectId: string | null },
): Promise<readonly StoredRestriction[]> {
  const rows = await reader
    .selectFrom('financial_restrictions')
    .select(COLUMNS)
    .where((where) =>
      where.or([
        where.and([where('scope_type', '=', 'user'), where('scope_id', '=', scopes.userId)]),
        where.and([where('scope_type', '=', 'tenant'), where('scope_id', '=', scopes.tenantId)]),
        ...(scopes.projectId === null
          ? []
          : [where.and([where('scope_type', '=', 'project'), where('scope_id', '=', scopes.projectId)])]),
      ]),
    )
    .execute();
  return rows.map(stored);
}

/** What one source says of a scope; null where it never said anything. */
export async function findRestrictionState(
  reader: Reader,
  place: Pick<RestrictionChange, 'scopeType' | 'scopeId' | 'source'>,
): Promise<RestrictionState | null> {
  const row = await reader
    .selectFrom('financial_restrictions')
    .select('state')
    .where('scope_type', '=', place.scopeType)
    .where('scope_id', '=', place.scopeId)
    .where('source', '=', place.source)
    .executeTakeFirst();
  return row?.state ?? null;
}

export interface RestrictionChange {
  readonly scopeType: RestrictionScopeType;
  readonly scopeId: string;
  readonly source: RestrictionSource;
  readonly state: RestrictionState;
  readonly reason: string;
  readonly metadata: Readonly<Record<string, unknown>>;
}

/**
 * Sets what one source says of a scope and writes it down in the history; other sources' rows stay as they are.
 * Two at once come one after the other: the history names the state each of them really replaced.
 */
export async function setRestriction(
  tx: Tx,
  ctx: CallContext,
  change: RestrictionChange,
): Promise<{ readonly restriction: StoredRestriction; readonly from: RestrictionState | null }> {
  const now = ctx.clock.now();
  const place = { scope_type: change.scopeType, scope_id: change.scopeId, source: change.source };
  const free = freeTextOf(change);
  const says = {
    state: change.state,
    ...free,
    correlation_id: ctx.correlationId,
    updated_at: now,
  };
  const inserted = await tx
    .insertInto('financial_restrictions')
    .values({ id: newId(), ...place, ...says, created_at: now })
    .onConflict((conflict) => conflict.constraint('financial_restrictions_one_a_source').doNothing())
    .returning(COLUMNS)
    .executeTakeFirst();
  if (inserted) return { restriction: await remember(tx, ctx, stored(inserted), null, change), from: null };

  const before = await tx
    .selectFrom('financial_restrictions')
    .select(['id', 'state'])
    .where('scope_type', '=', change.scopeType)
    .where('scope_id', '=', change.scopeId)
    .where('source', '=', change.source)
    .forUpdate()
    .executeTakeFirstOrThrow();
  const updated = await tx
    .updateTable('financial_restrictions')
    .set(says)
    .where('id', '=', before.id)
    .returning(COLUMNS)
    .executeTakeFirstOrThrow();
  return { restriction: await remember(tx, ctx, stored(updated), before.state, change), from: before.state };
}

async function remember(
  tx: Tx,
  ctx: CallContext,
  restriction: StoredRestriction,
  from: RestrictionState | null,
  change: RestrictionChange,
): Promise<StoredRestriction> {
  await tx
    .insertInto('restriction_history')
    .values({
      id: newId(),
      restriction_id: restriction.id,
      from_state: from,
      to_state: change.state,
      ...freeTextOf(change),
      actor: principalKey(ctx.principal),
      correlation_id: ctx.correlationId,
      created_at: ctx.clock.now(),
    })
    .execute();
  return restriction;
}

/** What people wrote, without the secrets they may have pasted into it. */
function freeTextOf(change: RestrictionChange): { reason: string; metadata: string } {
  return { reason: redactText(change.reason), metadata: JSON.stringify(redact(change.metadata)) };
}

const COLUMNS = ['id', 'scope_type', 'scope_id', 'source', 'state', 'reason', 'correlation_id', 'updated_at'] as const;

function stored(row: {
  id: string;
  scope_type: RestrictionScopeType;
  scope_id: string;
  source: RestrictionSource;
  state: RestrictionState;
  reason: string;
  correlation_id: string;
  updated_at: Date;
}): StoredRestriction {
  return {
    id: row.id,
    scopeType: row.scope_type,
    scopeId: row.scope_id,
    source: row.source,
    state: row.state,
    reason: row.reason,
    correlationId: row.correlation_id,
    updatedAt: row.updated_at,
  };
}
