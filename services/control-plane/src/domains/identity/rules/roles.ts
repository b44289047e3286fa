import type { ProjectRole, TenantRole } from '../../../spine/principal.js';

/** What a caller may hand out, seen from one tenant and one of its projects. */
export interface GranterStanding {
  /** role in the tenant; null without membership */
  readonly tenantRole: TenantRole | null;
  /** direct role in the project; null without membership */
  readonly projectRole: ProjectRole | null;
}

export interface MembershipChange {
  /** null: untouched; `from` or `to` null: no membership before or after */
  readonly tenantRole: { readonly from: TenantRole | null; readonly to: TenantRole | null } | null;
  readonly projectRole: { readonly from: ProjectRole | null; readonly to: ProjectRole | null } | null;
}

export type GrantDecision =
  | { readonly ok: true }
  | {
      readonly ok: false;
      readonly code: 'insufficient_permissions' | 'ownership_required';
      readonly reason: 'role_above_own' | 'tenant_role_needs_tenant_admin' | 'owner_needs_owner';
    };

const TENANT_RANK: Record<TenantRole, number> = { billing_viewer: 0, member: 1, admin: 2, owner: 3 };
const PROJECT_RANK: Record<ProjectRole, number> = { viewer: 0, member: 1, admin: 2, owner: 3 };

const refused = (
  code: 'insufficient_permissions' | 'ownership_required',
  reason: 'role_above_own' | 'tenant_role_needs_tenant_admin' | 'owner_needs_owner',
): GrantDecision => ({ ok: false, code, reason });

/**
 * Whether a caller may make a change of memberships. Only a tenant owner makes or unmakes owners, of the tenant and of
 * its projects; a tenant admin rules every lower role; a project admin rules project roles below owner alone, and
 * never a tenant role; a project owner may also make and unmake owners of that project.
 */
export function decideMembershipChange(granter: GranterStanding, change: MembershipChange): GrantDecision {
  const isTenantOwner = granter.tenantRole === 'owner';
  const isTenantAdmin = isTenantOwner || granter.tenantRole === 'admin';

  const { tenantRole, projectRole } = change;
  if (tenantRole && tenantRole.from !== tenantRole.to) {
    if (!isTenantAdmin) return refused('insufficient_permissions', 'tenant_role_needs_tenant_admin');
    if (tenantRole.to === 'owner' && !isTenantOwner) return refused('insufficient_permissions', 'role_above_own');
    if (tenantRole.from === 'owner' && !isTenantOwner) return refused('ownership_required', 'owner_needs_owner');
  }
  if (projectRole && projectRole.from !== projectRole.to) {
    const rules = isTenantAdmin || granter.projectRole === 'owner' || granter.projectRole === 'admin';
    if (!rules) return refused('insufficient_permissions', 'role_above_own');
    const mayTouchOwners = isTenantOwner || granter.projectRole === 'owner';
    if (projectRole.to === 'owner' && !mayTouchOwners) return refused('insufficient_permissions', 'role_above_own');
    if (projectRole.from === 'owner' && !mayTouchOwners) return refused('ownership_required', 'owner_needs_owner');
  }
  return { ok: true };
}

export const tenantRoleRank = (role: TenantRole): number => TENANT_RANK[role];
export const projectRoleRank = (role: ProjectRole): number => PROJECT_RANK[role];

/** Tenant owners and admins administer every project of their tenant. */
export function rulesTenant(role: TenantRole | null): boolean {
  return role === 'owner' || role === 'admin';
}

/**
 * The role that a member effectively has in a project, for display: the direct one, or what the tenant role implies,
 * whichever is higher; null without any.
 */
export function effectiveProjectRole(direct: ProjectRole | null, tenantRole: TenantRole | null): ProjectRole | null {
  const inherited: ProjectRole | null = tenantRole === 'owner' ? 'owner' : tenantRole === 'admin' ? 'admin' : null;
  if (direct === null || inherited === null) return direct ?? inherited;
  return PROJECT_RANK[direct] >= PROJECT_RANK[inherited] ? direct : inherited;
}

/** Whether a caller may delete a project or unmake its owners: owner of the project or of its tenant. */
export function ownsProject(direct: ProjectRole | null, tenantRole: TenantRole | null): boolean {
  return effectiveProjectRole(direct, tenantRole) === 'owner';
}
