import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PLATFORM_ROLES, PROJECT_ROLES, TENANT_ROLES } from '../../../spine/principal.js';
import { mirroredUserRole, platformStanding } from './platform-roles.js';
import { decideRefresh, REFRESH_GRACE_SECONDS } from './refresh.js';
import { decideMembershipChange, effectiveProjectRole, projectRoleRank, tenantRoleRank } from './roles.js';
import { advanceServiceAccount, decideScopes, SERVICE_ACCOUNT_PURPOSES, scopesOfPurpose } from './service-accounts.js';
import { DEFAULT_SESSION_LIFETIMES, sessionState } from './session.js';

const tenantRole = fc.constantFrom(...TENANT_ROLES);
const projectRole = fc.constantFrom(...PROJECT_ROLES);
const standing = fc.record({
  tenantRole: fc.option(tenantRole, { nil: null }),
  projectRole: fc.option(projectRole, { nil: null }),
});

describe('decideMembershipChange', () => {
  it('never grants a role above that of the granter', () => {
    fc.assert(
      fc.property(
        standing,
        fc.option(tenantRole, { nil: null }),
        tenantRole,
        fc.option(projectRole, { nil: null }),
        projectRole,
        (granter, fromTenant, toTenant, fromProject, toProject) => {
          const decision = decideMembershipChange(granter, {
            tenantRole: { from: fromTenant, to: toTenant },
            projectRole: { from: fromProject, to: toProject },
          });
          if (!decision.ok) return;
          if (fromTenant !== toTenant) {
            expect(granter.tenantRole).not.toBeNull();
            if (granter.tenantRole) {
              expect(tenantRoleRank(toTenant)).toBeLessThanOrEqual(tenantRoleRank(granter.tenantRole));
            }
          }
          if (fromProject !== toProject) {
            const own = effectiveProjectRole(granter.projectRole, granter.tenantRole);
            expect(own).not.toBeNull();
            if (own) expect(projectRoleRank(toProject)).toBeLessThanOrEqual(projectRoleRank(own));
          }
        },
      ),
    );
  });

  it('lets only owners touch owners', () => {
    fc.assert(
      fc.property(standing, tenantRole, projectRole, (granter, toTenant, toProject) => {
        const tenant = decideMembershipChange(granter, {
          tenantRole: { from: 'owner', to: toTenant },
          projectRole: null,
        });
        expect(tenant.ok).toBe(toTenant === 'owner' || granter.tenantRole === 'owner');
        const project = decideMembershipChange(granter, {
          tenantRole: null,
          projectRole: { from: 'owner', to: toProject },
        });
        expect(project.ok).toBe(
          toProject === 'owner' || granter.tenantRole === 'owner' || granter.projectRole === 'owner',
        );
      }),
    );
  });

  it('keeps tenant roles out of the hands of project admins', () => {
    const decision = decideMembershipChange(
      { tenantRole: 'member', projectRole: 'admin' },
      { tenantRole: { from: 'member', to: 'billing_viewer' }, projectRole: null },
    );
    expect(decision).toMatchObject({ ok: false, code: 'insufficient_permissions' });
  });
});

describe('platformStanding', () => {
  it('takes an unbound admin for a superadmin until a binding was ever written', () => {
    expect(platformStanding({ role: 'admin', source: 'users_role', bindings: [] }).isSuperadmin).toBe(true);
    expect(platformStanding({ role: 'admin', source: 'bindings', bindings: [] }).capabilities.size).toBe(0);
    expect(
      platformStanding({ role: 'user', source: 'users_role', bindings: ['platform_superadmin'] }).isSuperadmin,
    ).toBe(false);
  });

  it('gives platform.admin to superadmins alone', () => {
    fc.assert(
      fc.property(fc.subarray([...PLATFORM_ROLES]), (bindings) => {
        const standing = platformStanding({ role: mirroredUserRole(bindings), source: 'bindings', bindings });
        expect(standing.capabilities.has('platform.admin')).toBe(bindings.includes('platform_superadmin'));
        expect(standing.isSuperadmin).toBe(bindings.includes('platform_superadmin'));
      }),
    );
  });
});

describe('sessionState', () => {
  const start = new Date('2030-01-01T00:00:00Z');
  const after = (seconds: number) => new Date(start.getTime() + seconds * 1000);
  const session = { revokedAt: null, lastSeenAt: start, expiresAt: after(DEFAULT_SESSION_LIFETIMES.absoluteSeconds) };

  it('ends exactly at the idle and at the absolute limit', () => {
    const idle = DEFAULT_SESSION_LIFETIMES.idleSeconds;
    expect(sessionState(session, after(idle - 0.001), DEFAULT_SESSION_LIFETIMES)).toBe('live');
    expect(sessionState(session, after(idle), DEFAULT_SESSION_LIFETIMES)).toBe('idle_expired');
    const absolute = DEFAULT_SESSION_LIFETIMES.absoluteSeconds;
    const busy = { ...session, lastSeenAt: after(absolute - 1) };
    expect(sessionState(busy, after(absolute - 0.001), DEFAULT_SESSION_LIFETIMES)).toBe('live');
    expect(sessionState(busy, after(absolute), DEFAULT_SESSION_LIFETIMES)).toBe('expired');
  });

  it('is never live again once revoked', () => {
    fc.assert(
      fc.property(fc.integer({ min: -1e6, max: 1e7 }), (seconds) => {
        expect(sessionState({ ...session, revokedAt: start }, after(seconds), DEFAULT_SESSION_LIFETIMES)).toBe(
          'revoked',
        );
      }),
    );
  });

  it('repeats a used token inside the grace only, and treats everything later as theft', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 60_000 }), fc.boolean(), (milliseconds, successorKept) => {
        const decision = decideRefresh(
          { usedAt: start, successorKept },
          'live',
          new Date(start.getTime() + milliseconds),
        );
        const inside = milliseconds < REFRESH_GRACE_SECONDS * 1000 && successorKept;
        expect(decision.kind).toBe(inside ? 'repeat' : 'reused');
      }),
    );
    expect(decideRefresh({ usedAt: null, successorKept: false }, 'live', start).kind).toBe('rotate');
    expect(decideRefresh({ usedAt: null, successorKept: false }, 'revoked', start).kind).toBe('over');
  });
});

describe('service accounts', () => {
  it('never get more than their purpose', () => {
    fc.assert(
      fc.property(fc.constantFrom(...SERVICE_ACCOUNT_PURPOSES), fc.array(fc.string()), (purpose, extra) => {
        const granted = scopesOfPurpose(purpose);
        const decision = decideScopes(purpose, [...granted.slice(0, 2), ...extra]);
        if (decision.ok) expect(granted).toEqual(expect.arrayContaining([...decision.scopes]));
        else expect(decision.excess.length).toBeGreaterThan(0);
      }),
    );
    expect(decideScopes('controller', ['compute.write'])).toEqual({ ok: false, excess: ['compute.write'] });
  });

  it('never come back', () => {
    const events = fc.array(fc.constantFrom('disable' as const, 'delete' as const, 'rotate' as const));
    const order = { active: 0, disabled: 1, deleted: 2 };
    fc.assert(
      fc.property(
        fc.constantFrom('active' as const, 'disabled' as const, 'deleted' as const),
        events,
        (start, walk) => {
          let state: 'active' | 'disabled' | 'deleted' = start;
          for (const event of walk) {
            const step = advanceServiceAccount(state, event);
            if (!step.ok) continue;
            expect(order[step.to]).toBeGreaterThanOrEqual(order[state]);
            if (event === 'rotate') expect(state).toBe('active');
            state = step.to;
          }
        },
      ),
    );
  });
});
