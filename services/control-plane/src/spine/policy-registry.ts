import { canonicalJson } from '@gpuaas/kernel';
import { sql } from 'kysely';
import { audit } from './audit.js';
import type { CallContext, Reader, Tx } from './operation.js';
import { badRequest } from './refusal.js';

/** From the widest to the most specific. */
export const POLICY_SCOPES = ['global', 'plan', 'tenant', 'project', 'user'] as const;
export type PolicyScope = (typeof POLICY_SCOPES)[number];

export type PolicyDefinition = {
  readonly description: string;
} & (
  | { readonly type: 'integer'; readonly default: number; readonly minimum: number; readonly maximum: number }
  | { readonly type: 'boolean'; readonly default: boolean }
  | { readonly type: 'string'; readonly default: string; readonly allowed: readonly string[] }
);

const integer = (
  description: string,
  byDefault: number,
  minimum: number,
  maximum: number,
): Extract<PolicyDefinition, { readonly type: 'integer' }> => ({
  type: 'integer',
  description,
  default: byDefault,
  minimum,
  maximum,
});

/** Every number and switch that a site may tune. A key that is not here cannot be asked for or set. */
export const POLICY_DEFINITIONS = {
  'allocation.max_concurrent_per_user': integer('allocations that one person may hold at a time', 50, 1, 500),
  'allocation.refund_window_days': integer('days after a payment in which the provider can pay it back', 30, 0, 365),
  'allocation.isolation_model': {
    type: 'string',
    description: 'what happens to a host between two tenants',
    default: 'user-revoke',
    allowed: ['user-revoke', 'full-reimage'],
  },
  'allocation.runtime_lost_after_seconds': integer(
    'silence of a host after which its allocations count as lost',
    1_800,
    300,
    86_400,
  ),
  'billing.window_seconds': integer('length of one rating window', 60, 10, 86_400),
  'billing.low_balance_threshold_minor': integer('balance at which the holder is warned', 500, 0, 100_000_000),
  'billing.minimum_deposit_minor': integer('smallest payment', 1_000, 1, 100_000_000),
  'billing.maximum_deposit_minor': integer('largest payment', 100_000, 1, 1_000_000_000),
  'billing.depletion_action': {
    type: 'string',
    description: 'what an empty wallet does to running work',
    default: 'force_release',
    allowed: ['force_release', 'restrict'],
  },
  'rate_limit.api_requests_per_minute': integer('requests of one principal', 120, 1, 1_000_000),
  'rate_limit.financial_requests_per_minute': integer('requests of one principal that move money', 30, 1, 1_000_000),
  'rate_limit.terminal_token_requests_per_minute': integer('terminal tokens for one principal', 10, 1, 1_000_000),
  'rate_limit.admin_overview_requests_per_minute': integer(
    'reads of operator pages by one principal',
    600,
    1,
    1_000_000,
  ),
  'rate_limit.console_reads_per_minute': integer('reads of one principal', 600, 1, 1_000_000),
  'terminal.session_max_ttl_seconds': integer('longest terminal session', 14_400, 60, 604_800),
  'notification.low_balance_enabled': { type: 'boolean', description: 'whether holders are warned', default: true },
  'auth.service_account_token_ttl_seconds': integer('life of a robot’s token', 900, 60, 86_400),
} as const satisfies Record<string, PolicyDefinition>;

export type PolicyKey = keyof typeof POLICY_DEFINITIONS;
type KeysOf<Type extends PolicyDefinition['type']> = {
  [Key in PolicyKey]: (typeof POLICY_DEFINITIONS)[Key] extends { readonly type: Type } ? Key : never;
}[PolicyKey];

/** Whose value is asked for; scopes that are left out hold no value. */
export interface PolicySubject {
  readonly userId?: string | null;
  readonly projectId?: string | null;
  readonly tenantId?: string | null;
  readonly planId?: string | null;
}

export type PolicyValue = number | boolean | string;

/** A value as it was set for one scope. */
export interface PolicySetting {
  readonly scope: PolicyScope;
  readonly value: PolicyValue;
  /** numbers only: what narrower scopes may not exceed */
  readonly ceiling: number | null;
}

export interface PolicyDecision {
  readonly value: PolicyValue;
  /** where the value comes from */
  readonly source: PolicyScope | 'default';
  /** the lowest ceiling above that scope; null where nobody set one */
  readonly ceiling: number | null;
  /** the value that was set was higher and has been cut to the ceiling */
  readonly capped: boolean;
}

/** The most specific value wins, but a number never rises above what a wider scope allows. */
export function decidePolicy(definition: PolicyDefinition, settings: readonly PolicySetting[]): PolicyDecision {
  const width = (setting: PolicySetting): number => POLICY_SCOPES.indexOf(setting.scope);
  const inOrder = [...settings].sort((left, right) => width(left) - width(right));
  const chosen = inOrder.at(-1);
  const ceilings = inOrder
    .filter((setting) => setting !== chosen)
    .flatMap((setting) => (setting.ceiling === null ? [] : [setting.ceiling]));
  const ceiling = ceilings.length === 0 ? null : Math.min(...ceilings);
  const wanted = chosen?.value ?? definition.default;
  const capped = typeof wanted === 'number' && ceiling !== null && wanted > ceiling;
  return { value: capped ? ceiling : wanted, source: chosen?.scope ?? 'default', ceiling, capped };
}

/** Why a value may not be set, in words for the caller; null where it may. */
export function policyViolation(definition: PolicyDefinition, value: unknown): string | null {
  switch (definition.type) {
    case 'integer':
      if (typeof value !== 'number' || !Number.isSafeInteger(value)) return 'must be a whole number';
      return value < definition.minimum || value > definition.maximum
        ? `must lie in ${definition.minimum}..${definition.maximum}`
        : null;
    case 'boolean':
      return typeof value === 'boolean' ? null : 'must be true or false';
    case 'string':
      return typeof value === 'string' && definition.allowed.includes(value)
        ? null
        : `must be one of ${definition.allowed.join(', ')}`;
  }
}

export interface Policies {
  policyNumber(reader: Reader, key: KeysOf<'integer'>, subject: PolicySubject): Promise<number>;
  policyFlag(reader: Reader, key: KeysOf<'boolean'>, subject: PolicySubject): Promise<boolean>;
  policyText(reader: Reader, key: KeysOf<'string'>, subject: PolicySubject): Promise<string>;
  decision(reader: Reader, key: PolicyKey, subject: PolicySubject): Promise<PolicyDecision>;
}

/** The registry as domains receive it. */
export const policies: Policies = { policyNumber, policyFlag, policyText, decision };

/** One indexed read. Falls back to the built-in default; throws for a stored value that breaks the definition. */
export async function policyNumber(
  reader: Reader,
  key: KeysOf<'integer'>,
  subject: PolicySubject = {},
): Promise<number> {
  const { value } = await decision(reader, key, subject);
  if (typeof value !== 'number') throw new Error(`policy ${key} is not a number`);
  return value;
}

export async function policyFlag(
  reader: Reader,
  key: KeysOf<'boolean'>,
  subject: PolicySubject = {},
): Promise<boolean> {
  const { value } = await decision(reader, key, subject);
  if (typeof value !== 'boolean') throw new Error(`policy ${key} is not a flag`);
  return value;
}

export async function policyText(reader: Reader, key: KeysOf<'string'>, subject: PolicySubject = {}): Promise<string> {
  const { value } = await decision(reader, key, subject);
  if (typeof value !== 'string') throw new Error(`policy ${key} is not a text`);
  return value;
}

/** The value with where it comes from and what limits it, for pages that explain it. */
export async function decision(reader: Reader, key: PolicyKey, subject: PolicySubject): Promise<PolicyDecision> {
  const definition: PolicyDefinition = POLICY_DEFINITIONS[key];
  const scopes: [PolicyScope, string][] = [['global', '']];
  if (subject.planId) scopes.push(['plan', subject.planId]);
  if (subject.tenantId) scopes.push(['tenant', subject.tenantId]);
  if (subject.projectId) scopes.push(['project', subject.projectId]);
  if (subject.userId) scopes.push(['user', subject.userId]);
  const rows = await reader
    .selectFrom('policy_values')
    .select(['scope', 'value', 'ceiling'])
    .where('key', '=', key)
    .where((eb) => eb.or(scopes.map(([scope, id]) => eb.and([eb('scope', '=', scope), eb('scope_id', '=', id)]))))
    .execute();
  const settings = rows.map((row): PolicySetting => {
    const violation = policyViolation(definition, row.value);
    if (violation !== null || !isPolicyValue(row.value)) throw new Error(`policy ${key} of ${row.scope}: ${violation}`);
    return { scope: row.scope, value: row.value, ceiling: row.ceiling === null ? null : Number(row.ceiling) };
  });
  return decidePolicy(definition, settings);
}

function isPolicyValue(value: unknown): value is PolicyValue {
  return typeof value === 'number' || typeof value === 'boolean' || typeof value === 'string';
}

/**
 * Sets a value for one scope (`scopeId` empty for `global`), with its audit row. Refuses (400,
 * `policy_bound_violation`) what the definition or a wider scope's ceiling does not allow.
 */
export async function setPolicyValue(
  tx: Tx,
  ctx: CallContext,
  setting: {
    readonly key: PolicyKey;
    readonly scope: PolicyScope;
    readonly scopeId: string;
    readonly value: PolicyValue;
    readonly ceiling?: number | null;
    /** ids of the wider scopes, whose ceilings hold */
    readonly parents?: PolicySubject;
  },
): Promise<void> {
  const definition: PolicyDefinition = POLICY_DEFINITIONS[setting.key];
  const violation = policyViolation(definition, setting.value);
  if (violation !== null) throw badRequest('policy_bound_violation', '/body/value', violation);
  const ceiling = setting.ceiling ?? null;
  if (ceiling !== null && definition.type !== 'integer') {
    throw badRequest('policy_bound_violation', '/body/ceiling', 'only numbers have a ceiling');
  }
  if (typeof setting.value === 'number') {
    const wider = await widerCeiling(tx, setting.key, setting.scope, setting.parents ?? {});
    const limit = Math.min(wider ?? Number.POSITIVE_INFINITY, ceiling ?? Number.POSITIVE_INFINITY);
    if (setting.value > limit) {
      throw badRequest('policy_bound_violation', '/body/value', `must not exceed the ceiling of ${limit}`);
    }
  }
  await ensureDefinition(tx, setting.key);
  const actor = ctx.principal.kind === 'user' ? ctx.principal.userId : null;
  const values = {
    value: canonicalJson(setting.value),
    ceiling,
    updated_at: ctx.clock.now(),
    updated_by: actor,
  };
  await tx
    .insertInto('policy_values')
    .values({ key: setting.key, scope: setting.scope, scope_id: setting.scopeId, ...values })
    .onConflict((conflict) => conflict.columns(['key', 'scope', 'scope_id']).doUpdateSet(values))
    .execute();
  await audit(tx, ctx, {
    action: 'policy.update',
    targetType: 'policy',
    targetId: setting.key,
    ...(setting.scope === 'tenant' && { tenantId: setting.scopeId }),
    ...(setting.scope === 'project' && { projectId: setting.scopeId }),
    ...(setting.scope === 'user' && { targetUserId: setting.scopeId }),
    metadata: { scope: setting.scope, value: setting.value, ceiling },
  });
}

async function widerCeiling(
  tx: Tx,
  key: PolicyKey,
  scope: PolicyScope,
  parents: PolicySubject,
): Promise<number | null> {
  const wider = POLICY_SCOPES.slice(0, POLICY_SCOPES.indexOf(scope));
  const ids: Partial<Record<PolicyScope, string | null | undefined>> = {
    global: '',
    plan: parents.planId,
    tenant: parents.tenantId,
    project: parents.projectId,
  };
  const known = wider.flatMap((each) => {
    const id = ids[each];
    return id === null || id === undefined ? [] : [[each, id] as const];
  });
  if (known.length === 0) return null;
  const row = await tx
    .selectFrom('policy_values')
    .select((eb) => eb.fn.min('ceiling').as('ceiling'))
    .where('key', '=', key)
    .where((eb) => eb.or(known.map(([each, id]) => eb.and([eb('scope', '=', each), eb('scope_id', '=', id)]))))
    .executeTakeFirst();
  return row?.ceiling == null ? null : Number(row.ceiling);
}

/** Writes the built-in definitions, so that the database can be read without the program. May be repeated. */
export async function ensurePolicyDefinitions(tx: Tx): Promise<void> {
  for (const key of Object.keys(POLICY_DEFINITIONS)) if (isPolicyKey(key)) await ensureDefinition(tx, key);
}

export function isPolicyKey(key: string): key is PolicyKey {
  return Object.hasOwn(POLICY_DEFINITIONS, key);
}

async function ensureDefinition(tx: Tx, key: PolicyKey): Promise<void> {
  const definition: PolicyDefinition = POLICY_DEFINITIONS[key];
  const values = {
    value_type: definition.type,
    default_value: canonicalJson(definition.default),
    minimum: definition.type === 'integer' ? definition.minimum : null,
    maximum: definition.type === 'integer' ? definition.maximum : null,
    allowed_values: definition.type === 'string' ? [...definition.allowed] : null,
    description: definition.description,
  };
  await tx
    .insertInto('policy_definitions')
    .values({ key, ...values })
    .onConflict((conflict) =>
      conflict
        .column('key')
        .doUpdateSet(values)
        // Nothing is written, and no lock is taken, where nothing has changed.
        .where(
          sql<boolean>`(policy_definitions.default_value, policy_definitions.minimum, policy_definitions.maximum,
                        policy_definitions.allowed_values, policy_definitions.description)
                       IS DISTINCT FROM (excluded.default_value, excluded.minimum, excluded.maximum,
                        excluded.allowed_values, excluded.description)`,
        ),
    )
    .execute();
}
