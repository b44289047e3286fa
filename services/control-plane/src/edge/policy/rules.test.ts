import { asId } from '@gpuaas/kernel';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  PLATFORM_CAPABILITIES,
  PROJECT_ROLES,
  type Principal,
  type ProjectRole,
  type ProjectScope,
  SERVICE_ACCOUNT_SCOPES,
  TENANT_ROLES,
} from '../../spine/principal.js';
import { policy } from './index.js';
import {
  type AccessFacts,
  allOf,
  allow,
  anyOf,
  anyUser,
  capability,
  decide,
  host,
  inProject,
  inTenant,
  open,
  type PolicyRule,
  serviceAccount,
  sharedRuntimeOperator,
  superadmin,
  tenantAdmin,
  userOnTheirOwn,
} from './rules.js';

const ids = {
  tenant: '018f0000-0000-7000-8000-000000000001',
  otherTenant: '018f0000-0000-7000-8000-000000000002',
  project: '018f0000-0000-7000-8000-000000000003',
  otherProject: '018f0000-0000-7000-8000-000000000004',
  runtime: '018f0000-0000-7000-8000-000000000005',
  node: '018f0000-0000-7000-8000-00000000000f',
};

const onPath = (openapiPath: string) => ({
  routes: [{ path: openapiPath, openapiPath, operationId: 'x', documented: true }],
});
const user = (rights: Partial<Extract<Principal, { kind: 'user' }>> = {}): Extract<Principal, { kind: 'user' }> => ({
  kind: 'user',
  userId: asId('018f0000-0000-7000-8000-0000000000a1'),
  username: 'ann',
  sessionId: asId('018f0000-0000-7000-8000-0000000000a2'),
  tenantId: asId(ids.tenant),
  tenantRole: 'member',
  capabilities: new Set(),
  isSuperadmin: false,
  authenticationMethods: ['pwd'],
  authenticatedAt: new Date(0),
  ...rights,
});
const robot = (
  rights: Partial<Extract<Principal, { kind: 'service_account' }>> = {},
): Extract<Principal, { kind: 'service_account' }> => ({
  kind: 'service_account',
  serviceAccountId: asId('018f0000-0000-7000-8000-0000000000b1'),
  projectId: asId(ids.project),
  tenantId: asId(ids.tenant),
  createdByUserId: asId('018f0000-0000-7000-8000-0000000000a1'),
  scopes: new Set(SERVICE_ACCOUNT_SCOPES),
  purpose: 'automation',
  ...rights,
});
const runtimeOperator: Principal = {
  kind: 'shared_runtime_operator',
  serviceAccountId: asId('018f0000-0000-7000-8000-0000000000b2'),
  tenantId: asId(ids.tenant),
  sharedRuntimeId: ids.runtime,
};
const node: Principal = {
  kind: 'node',
  nodeId: asId(ids.node),
  authentication: 'certificate',
  certificateSerial: '01',
};
const system: Principal = { kind: 'system', name: 'relay' };
const anonymous: Principal = { kind: 'anonymous' };

const scope = (directRole: ProjectRole | null, inheritsTenantAdmin = false): ProjectScope => ({
  projectId: asId(ids.project),
  tenantId: asId(ids.tenant),
  directRole,
  inheritsTenantAdmin,
});
const facts = (principal: Principal, more: Partial<AccessFacts> = {}): AccessFacts => ({
  principal,
  project: null,
  projectId: more.project ? ids.project : null,
  tenantId: null,
  definition: onPath('/api/v1/things'),
  path: {},
  ...more,
});
const refusal = (code: string, status: number) => expect.objectContaining({ allowed: false, code, status });

describe('a project gate', () => {
  it.each(
    PROJECT_ROLES.flatMap((needed, rank) =>
      PROJECT_ROLES.map((held, heldRank) => ({ needed, held, passes: heldRank <= rank })),
    ),
  )('asked for $needed answers $passes to $held', ({ needed, held, passes }) => {
    expect(decide(allow(inProject(needed)), facts(user(), { project: scope(held) })).allowed).toBe(passes);
  });

  it('takes the admin of the tenant for an admin and only its owner for an owner', () => {
    const asTenant = (tenantRole: 'owner' | 'admin', needed: ProjectRole) =>
      decide(allow(inProject(needed)), facts(user({ tenantRole }), { project: scope(null, true) })).allowed;
    expect(asTenant('admin', 'admin')).toBe(true);
    expect(asTenant('admin', 'owner')).toBe(false);
    expect(asTenant('owner', 'owner')).toBe(true);
  });

  it('gives an inherited role to nobody of another tenant', () => {
    const stranger = user({ tenantId: asId(ids.otherTenant), tenantRole: 'owner' });
    expect(decide(allow(inProject('viewer')), facts(stranger, { project: scope(null, true) }))).toEqual(
      refusal('insufficient_permissions', 403),
    );
  });

  it('answers an unknown and a foreign project alike', () => {
    const named = facts(user(), { project: 'inaccessible' });
    expect(decide(allow(inProject('viewer')), named)).toEqual(
      decide(allow(inProject('viewer')), { ...named, projectId: ids.otherProject }),
    );
  });

  it('asks for a project where none is named, but not before it asks who is there', () => {
    expect(decide(allow(inProject('viewer')), facts(user()))).toEqual(refusal('invalid_request', 400));
    expect(decide(allow(inProject('viewer')), facts(anonymous))).toEqual(refusal('token_missing', 401));
  });

  it('names the right of the owner where a row says so', () => {
    const rule = allow(inProject('owner', 'never', 'ownership_required'));
    expect(decide(rule, facts(user(), { project: scope('admin') }))).toEqual(refusal('ownership_required', 403));
    expect(decide(rule, facts(user(), { project: 'inaccessible' }))).toEqual(refusal('insufficient_permissions', 403));
  });

  it('admits a service account by scope and never where the row is for people', () => {
    const asRobot = (rule: PolicyRule, scopes: readonly (typeof SERVICE_ACCOUNT_SCOPES)[number][]) =>
      decide(rule, facts(robot({ scopes: new Set(scopes) }), { project: scope(null) })).allowed;
    expect(asRobot(allow(inProject('member', ['compute.write'])), ['compute.write'])).toBe(true);
    expect(asRobot(allow(inProject('member', ['compute.write'])), ['compute.read'])).toBe(false);
    expect(asRobot(allow(inProject('member', 'any')), [])).toBe(true);
    expect(asRobot(allow(inProject('viewer')), SERVICE_ACCOUNT_SCOPES)).toBe(false);
  });

  it.each([runtimeOperator, node, system])('is closed to $kind', (principal) => {
    expect(decide(allow(inProject('viewer', 'any')), facts(principal, { project: scope('owner', true) }))).toEqual(
      refusal('insufficient_permissions', 403),
    );
  });
});

describe('a service account', () => {
  it('with the header of another project is told that its token is of another scope, whatever the row', () => {
    for (const rule of [allow(anyUser), allow(inProject('viewer', 'any')), allow(capability('platform.admin'))]) {
      expect(decide(rule, facts(robot(), { project: 'inaccessible', projectId: ids.otherProject }))).toEqual(
        refusal('token_scope_invalid', 401),
      );
    }
  });

  it('gains nothing from a scope of a project that is not its own', () => {
    const foreign = { ...scope('owner', true), projectId: asId<'project'>(ids.otherProject) };
    expect(
      decide(allow(inProject('viewer', 'any')), facts(robot(), { project: foreign, projectId: ids.otherProject })),
    ).toEqual(refusal('token_scope_invalid', 401));
  });

  it('is no user', () => {
    expect(decide(allow(anyUser), facts(robot()))).toEqual(refusal('insufficient_permissions', 403));
    expect(decide(allow(userOnTheirOwn), facts(robot()))).toEqual(refusal('insufficient_permissions', 403));
  });
});

describe('a user gate', () => {
  it('refuses a project that the caller cannot see, though the operation needs none', () => {
    expect(decide(allow(anyUser), facts(user(), { project: 'inaccessible' }))).toEqual(
      refusal('insufficient_permissions', 403),
    );
    expect(decide(allow(anyUser), facts(user(), { project: scope('viewer') })).allowed).toBe(true);
  });

  it('for what is the caller’s own steps aside when a project is named', () => {
    const rule = allow(anyOf(userOnTheirOwn, inProject('member')));
    expect(decide(rule, facts(user())).allowed).toBe(true);
    expect(decide(rule, facts(user(), { project: scope('viewer') })).allowed).toBe(false);
    expect(decide(rule, facts(user(), { project: scope('member') })).allowed).toBe(true);
  });
});

describe('a tenant gate', () => {
  const rule = allow(inTenant('owner', 'admin'));

  it('means the home tenant where none is named', () => {
    expect(decide(rule, facts(user({ tenantRole: 'admin' }))).allowed).toBe(true);
    expect(decide(rule, facts(user({ tenantRole: 'member' }))).allowed).toBe(false);
  });

  it('answers an unknown tenant and a foreign one alike, and its own in either case of letters', () => {
    const admin = user({ tenantRole: 'admin' });
    expect(decide(rule, facts(admin, { tenantId: ids.otherTenant }))).toEqual(refusal('insufficient_permissions', 403));
    expect(decide(rule, facts(admin, { tenantId: ids.tenant.toUpperCase() })).allowed).toBe(true);
  });

  it('is closed to people without a tenant, to robots and to hosts', () => {
    for (const principal of [user({ tenantId: null, tenantRole: null }), robot(), runtimeOperator, node, system]) {
      expect(decide(rule, facts(principal, { tenantId: ids.tenant }))).toEqual(
        refusal('insufficient_permissions', 403),
      );
    }
  });
});

describe('a platform right that is missing', () => {
  it.each([
    ['/api/v1/admin/users', 'admin_required'],
    ['/api/v1/platform/ops', 'admin_required'],
    ['/api/v1/v3/platform/config/skus', 'admin_required'],
    ['/api/v1/orgs/{org_id}/allocations', 'insufficient_permissions'],
    ['/api/v1/platform-proxy/route-authz', 'insufficient_permissions'],
    ['/api/v1/administrators', 'insufficient_permissions'],
  ])('on %s is %s', (path, code) => {
    const owner = user({ tenantRole: 'owner' });
    for (const principal of [owner, robot(), runtimeOperator, node]) {
      expect(decide(allow(capability('platform.ops.read')), facts(principal, { definition: onPath(path) }))).toEqual(
        refusal(code, 403),
      );
      expect(decide(allow(superadmin), facts(principal, { definition: onPath(path) }))).toEqual(refusal(code, 403));
    }
  });

  it('is judged by the capability itself, not by a role that usually has it', () => {
    expect(decide(allow(capability('platform.ops.read')), facts(user({ isSuperadmin: true }))).allowed).toBe(false);
    expect(decide(allow(superadmin), facts(user({ capabilities: new Set(PLATFORM_CAPABILITIES) }))).allowed).toBe(
      false,
    );
  });
});

describe('the operator of a shared runtime', () => {
  const rule = allow(sharedRuntimeOperator);
  const named = { tenantId: ids.tenant, path: { shared_runtime_id: ids.runtime } };

  it('reaches its own runtime in its own tenant', () => {
    expect(decide(rule, facts(runtimeOperator, named)).allowed).toBe(true);
  });

  it.each([
    { ...named, path: { shared_runtime_id: ids.node } },
    { ...named, tenantId: ids.otherTenant },
    { ...named, tenantId: null },
  ])('reaches no other: %o', (other) => {
    expect(decide(rule, facts(runtimeOperator, other))).toEqual(refusal('insufficient_permissions', 403));
  });

  it('does not pass for a member of the tenant', () => {
    expect(decide(allow(inTenant(...TENANT_ROLES)), facts(runtimeOperator, named)).allowed).toBe(false);
  });
});

describe('a host', () => {
  it('speaks for itself alone', () => {
    expect(decide(host(), facts(node, { path: { node_id: ids.node } })).allowed).toBe(true);
    expect(decide(host(), facts(node, { path: { node_id: ids.node.toUpperCase() } })).allowed).toBe(true);
    expect(decide(host(), facts(node, { path: { node_id: ids.runtime } }))).toEqual(
      refusal('insufficient_permissions', 403),
    );
    expect(decide(host(), facts(anonymous))).toEqual(refusal('token_missing', 401));
    expect(decide(host(), facts(user({ isSuperadmin: true, capabilities: new Set(PLATFORM_CAPABILITIES) })))).toEqual(
      refusal('insufficient_permissions', 403),
    );
  });
});

describe('combined gates', () => {
  it('any-of passes by one and refuses in the words of the first', () => {
    const rule = allow(anyOf(capability('platform.ops.write'), serviceAccount('platform.evidence.write')));
    const definition = onPath('/api/v1/platform/evidence/bundles');
    expect(decide(rule, facts(robot(), { definition })).allowed).toBe(true);
    expect(decide(rule, facts(robot({ scopes: new Set(['audit.read']) }), { definition }))).toEqual(
      refusal('admin_required', 403),
    );
  });

  it('all-of passes by all alone', () => {
    const rule = allow(allOf(tenantAdmin, inProject('viewer')));
    expect(decide(rule, facts(user({ tenantRole: 'admin' }), { project: scope(null, true) })).allowed).toBe(true);
    expect(decide(rule, facts(user(), { project: scope('owner') })).allowed).toBe(false);
    expect(decide(rule, facts(user({ tenantRole: 'admin' }), { project: 'inaccessible' })).allowed).toBe(false);
  });
});

describe('over every row of the policy', () => {
  const rules = Object.entries(policy);
  const anyRule = fc.constantFrom(...rules.map(([, rule]) => rule));
  const anyPath = fc.constantFrom('/api/v1/admin/x', '/api/v1/platform/x', '/api/v1/v3/platform/x', '/api/v1/x');
  const capabilities = fc.subarray([...PLATFORM_CAPABILITIES]).map((names) => new Set(names));
  const tenant = fc.constantFrom(ids.tenant, ids.otherTenant);
  const anyUserPrincipal = fc
    .record({
      tenantId: fc.option(tenant.map((id) => asId<'tenant'>(id))),
      tenantRole: fc.constantFrom(...TENANT_ROLES),
      capabilities,
      isSuperadmin: fc.boolean(),
    })
    .map(({ tenantId, tenantRole, ...rights }) =>
      user({ ...rights, tenantId, tenantRole: tenantId === null ? null : tenantRole }),
    );
  const anyRobot = fc
    .record({
      projectId: fc.constantFrom(ids.project, ids.otherProject).map((id) => asId<'project'>(id)),
      tenantId: tenant.map((id) => asId<'tenant'>(id)),
      scopes: fc.subarray([...SERVICE_ACCOUNT_SCOPES]).map((names) => new Set(names)),
    })
    .map(robot);
  const anyProject = fc.oneof(
    fc.constant(null),
    fc.constant<'inaccessible'>('inaccessible'),
    fc
      .record({ role: fc.option(fc.constantFrom(...PROJECT_ROLES)), inherits: fc.boolean() })
      .map(({ role, inherits }) => scope(role, inherits)),
  );
  const anySituation = fc.record({
    project: anyProject,
    tenantId: fc.option(tenant),
    path: fc.constantFrom(
      {},
      { node_id: ids.node },
      { shared_runtime_id: ids.runtime },
      { shared_runtime_id: ids.node },
    ),
    definition: anyPath.map(onPath),
  });
  const situate = (principal: Principal, situation: Omit<AccessFacts, 'principal' | 'projectId'>): AccessFacts => ({
    ...situation,
    principal,
    projectId: situation.project === null ? null : ids.project,
  });

  it('only open rows admit a caller without identity', () =>
    fc.assert(
      fc.property(anyRule, anySituation, (rule, situation) => {
        const decision = decide(rule, situate(anonymous, situation));
        if (rule.gate.kind === 'open') expect(decision).toEqual({ allowed: true });
        else expect(decision).toEqual(refusal('token_missing', 401));
      }),
      { numRuns: 1000 },
    ));

  it('one more capability never takes anything away', () =>
    fc.assert(
      fc.property(
        anyRule,
        anyUserPrincipal,
        anySituation,
        fc.constantFrom(...PLATFORM_CAPABILITIES),
        (rule, principal, situation, gained) => {
          const before = decide(rule, situate(principal, situation));
          const richer = { ...principal, capabilities: new Set([...principal.capabilities, gained]) };
          if (before.allowed) expect(decide(rule, situate(richer, situation)).allowed).toBe(true);
        },
      ),
      { numRuns: 3000 },
    ));

  it('a greater role in the project never takes anything away', () =>
    fc.assert(
      fc.property(
        anyRule,
        anyUserPrincipal,
        anySituation,
        fc.constantFrom(...PROJECT_ROLES),
        (rule, principal, situation, held) => {
          const less = decide(rule, situate(principal, { ...situation, project: scope(held) }));
          const more = decide(rule, situate(principal, { ...situation, project: scope('owner') }));
          if (less.allowed) expect(more.allowed).toBe(true);
        },
      ),
      { numRuns: 3000 },
    ));

  it('no role in a tenant or project passes a row that asks for a platform right alone', () => {
    const platformRows = rules
      .map(([, rule]) => rule)
      .filter(({ gate }) => gate.kind === 'capability' || gate.kind === 'superadmin');
    expect(platformRows.length).toBeGreaterThan(200);
    fc.assert(
      fc.property(
        fc.constantFrom(...platformRows),
        fc.oneof(anyUserPrincipal, anyRobot),
        anySituation,
        (rule, principal, situation) => {
          const plain =
            principal.kind === 'user'
              ? { ...principal, capabilities: new Set<never>(), isSuperadmin: false }
              : principal;
          expect(decide(rule, situate(plain, situation)).allowed).toBe(false);
        },
      ),
      { numRuns: 3000 },
    );
  });

  it('no service account passes in the name of a project that is not its own', () =>
    fc.assert(
      fc.property(anyRule, anyRobot, anySituation, (rule, principal, situation) => {
        const facing = situate(principal, situation);
        const own =
          situation.project !== null &&
          situation.project !== 'inaccessible' &&
          situation.project.projectId === principal.projectId;
        if (rule.gate.kind !== 'open' && facing.projectId !== null && !own)
          expect(decide(rule, facing)).toEqual(refusal('token_scope_invalid', 401));
      }),
      { numRuns: 3000 },
    ));

  it('nobody but a host passes a row of hosts, and a host passes no other', () =>
    fc.assert(
      fc.property(
        anyRule,
        fc.oneof(anyUserPrincipal, anyRobot, fc.constant(runtimeOperator), fc.constant(node)),
        anySituation,
        (rule, principal, situation) => {
          if (rule.gate.kind === 'open' || (rule.gate.kind === 'node') === (principal.kind === 'node')) return;
          expect(decide(rule, situate(principal, situation)).allowed).toBe(false);
        },
      ),
      { numRuns: 2000 },
    ));

  it('a principal of no known person, robot or host passes nowhere', () =>
    fc.assert(
      fc.property(anyRule, anySituation, (rule, situation) => {
        if (rule.gate.kind !== 'open') expect(decide(rule, situate(system, situation)).allowed).toBe(false);
      }),
      { numRuns: 1000 },
    ));

  it('answers the same facts the same way and leaves them as they were', () =>
    fc.assert(
      fc.property(anyRule, fc.oneof(anyUserPrincipal, anyRobot), anySituation, (rule, principal, situation) => {
        const facing = situate(principal, situation);
        const copy = structuredClone(facing);
        expect(decide(rule, facing)).toEqual(decide(rule, facing));
        expect(facing).toEqual(copy);
      }),
      { numRuns: 500 },
    ));

  it('an open row looks at no right at all', () => {
    expect(decide(open('password'), facts(system, { project: 'inaccessible' }))).toEqual({ allowed: true });
  });
});
