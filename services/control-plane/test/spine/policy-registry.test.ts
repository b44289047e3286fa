import { childTrace, createLogger, newId, systemClock } from '@gpuaas/kernel';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { CallContext } from '../../src/spine/operation.js';
import {
  decidePolicy,
  decision,
  ensurePolicyDefinitions,
  POLICY_DEFINITIONS,
  POLICY_SCOPES,
  type PolicyDefinition,
  type PolicySetting,
  policyFlag,
  policyNumber,
  policyText,
  policyViolation,
  setPolicyValue,
} from '../../src/spine/policy-registry.js';
import { cloneDatabase, type TestDatabase } from '../harness/database.js';

const NUMBER: PolicyDefinition = { type: 'integer', description: '', default: 10, minimum: 0, maximum: 1_000 };
const settings = fc.uniqueArray(
  fc.record({
    scope: fc.constantFrom(...POLICY_SCOPES),
    value: fc.integer({ min: 0, max: 1_000 }),
    ceiling: fc.option(fc.integer({ min: 0, max: 1_000 })),
  }),
  { selector: (setting) => setting.scope },
);

describe('decidePolicy', () => {
  it('takes the most specific value and never exceeds a wider ceiling', () => {
    fc.assert(
      fc.property(settings, (all: PolicySetting[]) => {
        const decided = decidePolicy(NUMBER, all);
        const specific = [...POLICY_SCOPES].reverse().find((scope) => all.some((setting) => setting.scope === scope));
        expect(decided.source).toBe(specific ?? 'default');
        for (const wider of all) {
          if (wider.scope !== specific && wider.ceiling !== null) {
            expect(decided.value).toBeLessThanOrEqual(wider.ceiling);
          }
        }
        const own = all.find((setting) => setting.scope === specific);
        if (!decided.capped) expect(decided.value).toBe(own?.value ?? NUMBER.default);
      }),
    );
  });

  it('does not depend on the order in which values are read', () => {
    fc.assert(
      fc.property(settings, (all: PolicySetting[]) => {
        expect(decidePolicy(NUMBER, [...all].reverse())).toEqual(decidePolicy(NUMBER, all));
      }),
    );
  });
});

describe('the definitions', () => {
  it('hold defaults that they allow', () => {
    for (const [key, definition] of Object.entries(POLICY_DEFINITIONS)) {
      expect(policyViolation(definition, definition.default), key).toBeNull();
    }
  });
});

describe('the registry in the database', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await cloneDatabase();
  });
  afterAll(() => database.drop());

  const ctx: CallContext = {
    principal: { kind: 'system', name: 'test' },
    requestId: 'r',
    correlationId: 'c',
    trace: childTrace(undefined),
    clock: systemClock,
    log: createLogger({ program: 'test', level: 'silent' }),
    actorIp: null,
    userAgent: null,
  };

  it('answers the defaults before anybody has set anything', async () => {
    expect(await policyNumber(database.db, 'allocation.max_concurrent_per_user')).toBe(50);
    expect(await policyFlag(database.db, 'notification.low_balance_enabled')).toBe(true);
    expect(await policyText(database.db, 'billing.depletion_action')).toBe('force_release');
  });

  it('lets a person’s value win over the tenant’s, up to the ceiling that the tenant has', async () => {
    const { db } = database;
    const [tenantId, userId] = [newId<'tenant'>(), newId<'user'>()];
    const key = 'allocation.max_concurrent_per_user';
    await db.transaction().execute(async (tx) => {
      await setPolicyValue(tx, ctx, { key, scope: 'tenant', scopeId: tenantId, value: 20, ceiling: 30 });
      await setPolicyValue(tx, ctx, { key, scope: 'user', scopeId: userId, value: 25, parents: { tenantId } });
    });
    expect(await policyNumber(db, key, { tenantId })).toBe(20);
    expect(await policyNumber(db, key, { tenantId, userId })).toBe(25);
    expect(await policyNumber(db, key, { userId: newId<'user'>() })).toBe(50);
    await expect(
      db
        .transaction()
        .execute((tx) =>
          setPolicyValue(tx, ctx, { key, scope: 'user', scopeId: userId, value: 31, parents: { tenantId } }),
        ),
    ).rejects.toThrow(/ceiling of 30/);
    await db
      .transaction()
      .execute((tx) => setPolicyValue(tx, ctx, { key, scope: 'tenant', scopeId: tenantId, value: 5, ceiling: 8 }));
    expect(await decision(db, key, { tenantId, userId })).toEqual({
      value: 8,
      source: 'user',
      ceiling: 8,
      capped: true,
    });
  });

  it('refuses values outside the bounds and leaves an audit row for those inside', async () => {
    const { db } = database;
    const set = (value: number | string) =>
      db
        .transaction()
        .execute((tx) =>
          setPolicyValue(tx, ctx, { key: 'billing.window_seconds', scope: 'global', scopeId: '', value }),
        );
    await expect(set(1)).rejects.toMatchObject({
      code: 'invalid_request',
      details: { reason: 'policy_bound_violation' },
    });
    await expect(set(60.5)).rejects.toThrow(/whole number/);
    await expect(set('60')).rejects.toThrow(/whole number/);
    await set(120);
    const rows = await db
      .selectFrom('audit_logs')
      .select(['action', 'target_id'])
      .where('target_id', '=', 'billing.window_seconds')
      .execute();
    expect(rows).toEqual([{ action: 'policy.update', target_id: 'billing.window_seconds' }]);
  });

  it('writes the definitions without touching what has not changed', async () => {
    const { db } = database;
    const ensure = () => db.transaction().execute(ensurePolicyDefinitions);
    await ensure();
    await ensure();
    const rows = await db.selectFrom('policy_definitions').select(['key', 'default_value']).execute();
    expect(rows.length).toBe(Object.keys(POLICY_DEFINITIONS).length);
    expect(rows.find((row) => row.key === 'auth.service_account_token_ttl_seconds')?.default_value).toBe(900);
  });
});
