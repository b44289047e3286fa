import fc from 'fast-check';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PASSWORD, type Person, startTestSite, type TestSite } from '../harness/site.js';
import { makeEnterprise, signIn, uniqueName } from './team.js';

let site: TestSite;
let tenants: Person[];
let people: { userId: string; username: string }[];

beforeAll(async () => {
  site = await startTestSite({ roles: ['api'] });
  tenants = [await site.signup(), await site.signup()];
  for (const tenant of tenants) await makeEnterprise(site, tenant.tenantId);
  people = [...tenants];
  for (let index = 0; index < 2; index += 1) {
    const username = uniqueName('walker');
    const answer = await site.call({
      method: 'POST',
      path: '/api/v1/admin/users',
      token: await site.operator(),
      body: { username, password: PASSWORD },
    });
    people.push({ userId: answer.body.id, username });
  }
});
afterAll(() => site?.stop());

const index = fc.nat({ max: 3 });
const tenantIndex = fc.nat({ max: 1 });
const tenantRole = fc.constantFrom('owner', 'admin', 'member', 'billing_viewer');
const projectRole = fc.constantFrom('owner', 'admin', 'member', 'viewer');
const platformRole = fc.constantFrom('platform_superadmin', 'platform_ops');

const step = fc.oneof(
  fc.record({
    kind: fc.constant('operator-bind' as const),
    target: index,
    tenant: tenantIndex,
    tenantRole,
    projectRole,
    mode: fc.constantFrom('strict', 'rehome'),
  }),
  fc.record({
    kind: fc.constant('bind' as const),
    caller: index,
    target: index,
    tenant: tenantIndex,
    tenantRole,
    projectRole,
  }),
  fc.record({
    kind: fc.constant('remove' as const),
    caller: index,
    target: index,
    tenant: tenantIndex,
    scope: fc.constantFrom('tenant', 'project'),
  }),
  fc.record({
    kind: fc.constant('role' as const),
    caller: index,
    target: index,
    role: platformRole,
    revoke: fc.boolean(),
  }),
);
type Step = typeof step extends fc.Arbitrary<infer Value> ? Value : never;

async function run(each: Step, tokens: readonly string[]): Promise<number> {
  const target = people[each.target]?.userId;
  switch (each.kind) {
    case 'operator-bind': {
      const tenant = tenants[each.tenant];
      const body = {
        user_id: target,
        project_id: tenant?.projectId,
        tenant_role: each.tenantRole,
        project_role: each.projectRole,
        mode: each.mode,
      };
      const path = `/api/v1/admin/tenants/${tenant?.tenantId}/memberships`;
      return (await site.call({ method: 'POST', path, token: await site.operator(), body })).status;
    }
    case 'bind': {
      const body = {
        project_id: tenants[each.tenant]?.projectId,
        tenant_role: each.tenantRole,
        project_role: each.projectRole,
      };
      const path = `/api/v1/tenant/users/${target}/memberships`;
      return (await site.call({ method: 'POST', path, token: tokens[each.caller], body })).status;
    }
    case 'remove': {
      const project = tenants[each.tenant]?.projectId ?? '';
      const path = `/api/v1/access/memberships/users/${target}/remove`;
      const body = { project_id: project, scope: each.scope };
      return (await site.call({ method: 'POST', path, token: tokens[each.caller], project, body })).status;
    }
    case 'role': {
      const base = `/api/v1/admin/users/${target}/platform-roles`;
      const request = each.revoke
        ? { method: 'DELETE', path: `${base}/${each.role}` }
        : { method: 'POST', path: base, body: { role: each.role } };
      return (await site.call({ ...request, token: tokens[each.caller] })).status;
    }
  }
}

describe('whatever happens at the same moment', () => {
  it('leaves at most one home a person, an owner for each organisation, and a superadmin', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(step, { minLength: 2, maxLength: 5 }), { minLength: 1, maxLength: 4 }),
        async (rounds) => {
          for (const round of rounds) {
            const tokens = await Promise.all(people.map(({ username }) => signIn(site, username)));
            const statuses = await Promise.all(round.map((each) => run(each, tokens)));
            expect(statuses.filter((status) => status >= 500)).toEqual([]);
            const { rows: homes } = await sql<{ most: bigint | null }>`
            SELECT max(count) AS most FROM (
              SELECT count(*) FROM tenant_memberships WHERE ended_at IS NULL GROUP BY user_id) AS homes`.execute(
              site.db,
            );
            expect(Number(homes[0]?.most ?? 0)).toBeLessThanOrEqual(1);
            const { rows: owned } = await sql<{ tenant_id: string }>`
            SELECT DISTINCT tenant_id FROM tenant_memberships WHERE ended_at IS NULL AND role = 'owner'`.execute(
              site.db,
            );
            expect(owned.map((row) => row.tenant_id)).toEqual(
              expect.arrayContaining(tenants.map((tenant) => tenant.tenantId)),
            );
            const { rows: superadmins } = await sql<{ user_id: string }>`
            SELECT user_id FROM platform_role_bindings
            WHERE revoked_at IS NULL AND role = 'platform_superadmin'`.execute(site.db);
            expect(superadmins.length).toBeGreaterThan(0);
            // nobody who is not at home in a tenant has a place in its projects
            const { rows: strays } = await sql<{ user_id: string }>`
            SELECT p.user_id FROM project_memberships p WHERE p.ended_at IS NULL AND NOT EXISTS (
              SELECT FROM tenant_memberships t
              WHERE t.user_id = p.user_id AND t.tenant_id = p.tenant_id AND t.ended_at IS NULL)`.execute(site.db);
            expect(strays).toEqual([]);
          }
        },
      ),
      { numRuns: 12 },
    );
  });
});
