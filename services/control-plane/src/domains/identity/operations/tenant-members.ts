import type { Schema } from '@gpuaas/contract';
import { asId, type ProjectId, type TenantId, type UserId } from '@gpuaas/kernel';
import { audit } from '../../../spine/audit.js';
import { pageOf, pageRequest } from '../../../spine/cursors.js';
import {
  type CommandContext,
  command,
  type OperationHandlers,
  preparedCommand,
  query,
  type Tx,
} from '../../../spine/operation.js';
import { administersProject, type ProjectRole, type TenantRole } from '../../../spine/principal.js';
import { badRequest, conflict, notFound, refuse } from '../../../spine/refusal.js';
import type { PasswordHasher } from '../crypto/password-hasher.js';
import type { IdentityDependencies } from '../dependencies.js';
import { announce } from '../events.js';
import { projectScopeOf } from '../faces.js';
import { decideMembershipChange, type GranterStanding, type MembershipChange, rulesTenant } from '../rules/roles.js';
import { findProjectName, findSharedProject, projectInaccessible, shareProject } from '../store/projects.js';
import { revokeSessionsOfUser, type SessionEnd } from '../store/sessions.js';
import {
  countOtherOwners,
  endProjectMemberships,
  endTenantMembership,
  findHomeMembership,
  findProjectRole,
  findTenantMembers,
  type HomeMembership,
  insertProjectMembership,
  insertTenantMembership,
  lockTenant,
  ownsProjects,
  setProjectRole,
  setTenantRole,
  wasEverMember,
} from '../store/tenants.js';
import { clearDefaultProjects, insertUser, type LockedUser, lockUser, setDefaultProjectOf } from '../store/users.js';
import { acceptPassword, acceptUsername, memberOf, projectOf } from './caller.js';
import { creationPosition } from './users.js';

export interface TenantMemberParts extends Pick<IdentityDependencies, 'clock' | 'wallet'> {
  readonly hasher: PasswordHasher;
}

type BindBody = Schema<'TenantBindUserMembershipRequest'>;
type Binding = Schema<'MembershipBindingSummary'>;

export function tenantMemberOperations(parts: TenantMemberParts): OperationHandlers {
  const { clock, hasher, wallet } = parts;
  const bind = (tx: Tx, ctx: CommandContext, userId: string, body: BindBody) =>
    bindInOwnTenant(parts, tx, ctx, userId, body);

  const bindMember = command<'tenantBindUserMembership'>(async ({ tx, ctx, path, body }) => ({
    status: 200,
    body: { ok: true, mode: 'strict', rehomed: false, binding: await bind(tx, ctx, path.user_id, body) },
  }));

  return {
    tenantListUsers: query<'tenantListUsers'>(async ({ db, ctx, query: asked }) => {
      const caller = memberOf(ctx);
      const projectId = asked.project_id ?? null;
      const project = projectId === null ? null : await projectScopeOf(db, caller, projectId);
      if (projectId !== null && project === null) throw projectInaccessible();
      const mayList = rulesTenant(caller.tenantRole) || (project !== null && administersProject(project));
      if (!mayList) throw refuse('insufficient_permissions', { reason: 'tenant_role_required' });
      const request = pageRequest(
        ctx,
        {
          operation: 'tenantListUsers',
          context: caller.tenantId,
          filters: { project_id: projectId },
          sort: 'created_at_desc',
        },
        asked,
      );
      const found = await findTenantMembers(
        db,
        { tenantId: caller.tenantId, projectId },
        creationPosition(request.after),
        request.pageSize + 1,
      );
      const { rows, pagination } = pageOf(ctx, request, found, (row) => [row.createdAtText, row.membershipId]);
      const projectName = projectId === null ? null : await findProjectName(db, projectId);
      return {
        status: 200,
        body: {
          items: rows.map((row) => ({
            user_id: row.userId,
            username: row.username,
            tenant_id: caller.tenantId,
            tenant_role: row.tenantRole,
            project_id: projectId,
            project_name: projectName,
            project_role: row.projectRole,
          })),
          pagination,
        },
      };
    }),

    /** 201: a person whose home is the caller's tenant, with a place in one of its projects. */
    tenantCreateUser: preparedCommand<'tenantCreateUser', { passwordHash: string }>({
      async prepare({ body }) {
        acceptUsername(body.username);
        acceptPassword(body.password, body.username);
        return { passwordHash: await hasher.hash(body.password) };
      },
      async run({ tx, ctx, body, prepared }) {
        const now = clock.now();
        const name = acceptUsername(body.username);
        const { tenantId } = await lockTenant(tx, memberOf(ctx).tenantId);
        const project = await projectOfTenant(tx, tenantId, body.project_id);
        demandGrant(await standingOf(tx, ctx, tenantId, project.projectId), {
          tenantRole: { from: null, to: body.tenant_role },
          projectRole: { from: null, to: body.project_role },
        });
        const userId = await insertUser(tx, { ...name, passwordHash: prepared.passwordHash, role: 'user', now });
        await insertTenantMembership(tx, { tenantId, userId, role: body.tenant_role, now });
        await insertProjectMembership(tx, {
          tenantId,
          projectId: project.projectId,
          userId,
          role: body.project_role,
          now,
        });
        await setDefaultProjectOf(tx, userId, project.projectId, now);
        await wallet.openWallet(tx, { tenantId, userId });
        await announce(tx, ctx, 'identity.membership.changed', userId, {
          user_id: userId,
          tenant_id: tenantId,
          change: 'bound',
          project_ids: [project.projectId],
        });
        await audit(tx, ctx, {
          action: 'tenant.user.create',
          targetType: 'user',
          targetId: userId,
          targetUserId: userId,
          tenantId,
          projectId: project.projectId,
          metadata: { tenant_role: body.tenant_role, project_role: body.project_role },
        });
        return { status: 201, body: { id: userId } };
      },
    }),

    tenantBindUserMembership: bindMember,
    bindV3AccessUserMembershipCompat: bindMember,

    removeV3AccessUserMembershipCompat: command<'removeV3AccessUserMembershipCompat'>(
      async ({ tx, ctx, path, body }) => ({
        status: 200,
        body: await removeMember(parts, tx, ctx, path.user_id, body),
      }),
    ),

    adminBindUserMembership: command<'adminBindUserMembership'>(async ({ tx, ctx, path, body }) => ({
      status: 200,
      body: await bindAsOperator(parts, tx, ctx, path.tenant_id, body),
    })),
  };
}

/** Binds a member of the caller's tenant, or brings a former one back who has no other home. */
async function bindInOwnTenant(
  { clock, wallet }: TenantMemberParts,
  tx: Tx,
  ctx: CommandContext,
  targetId: string,
  body: BindBody,
): Promise<Binding> {
  const now = clock.now();
  const { tenantId } = await lockTenant(tx, memberOf(ctx).tenantId);
  const project = await projectOfTenant(tx, tenantId, body.project_id);
  const granter = await standingOf(tx, ctx, tenantId, project.projectId);
  if (!rulesTenant(granter.tenantRole) && granter.projectRole !== 'owner' && granter.projectRole !== 'admin') {
    throw refuse('insufficient_permissions', { reason: 'project_admin_required' });
  }
  const user = await lockUser(tx, targetId);
  const home = await findHomeMembership(tx, user.userId);
  if (home?.tenantId !== tenantId) await demandFormerMember(tx, tenantId, user, home);

  const from: TenantRole | null = home?.role ?? null;
  const current = await findProjectRole(tx, project.projectId, user.userId);
  // What is not asked for stays as it is: binding an owner to a project must not demote them.
  const tenantRole: TenantRole = body.tenant_role ?? from ?? 'member';
  const projectRole: ProjectRole = body.project_role ?? current?.role ?? 'member';
  demandGrant(granter, {
    tenantRole: { from, to: tenantRole },
    projectRole: { from: current?.role ?? null, to: projectRole },
  });
  if (from === 'owner' && tenantRole !== 'owner') await demandOtherOwner(tx, tenantId, user.userId);
  await applyBinding(tx, { tenantId, projectId: project.projectId, user, home, current, tenantRole, projectRole, now });
  await wallet.openWallet(tx, { tenantId, userId: user.userId });

  await announce(tx, ctx, 'identity.membership.changed', user.userId, {
    user_id: user.userId,
    tenant_id: tenantId,
    change: 'bound',
    project_ids: [project.projectId],
  });
  await audit(tx, ctx, {
    action: 'tenant.user.membership.bind',
    targetType: 'user',
    targetId: user.userId,
    targetUserId: user.userId,
    tenantId,
    projectId: project.projectId,
    metadata: {
      tenant_role: { from, to: tenantRole },
      project_role: { from: current?.role ?? null, to: projectRole },
    },
  });
  return bindingSummary(tenantId, project.projectId, user.userId, tenantRole, projectRole);
}

async function removeMember(
  { clock }: TenantMemberParts,
  tx: Tx,
  ctx: CommandContext,
  targetId: string,
  body: Schema<'V3RemoveAccessMembershipRequest'>,
): Promise<Schema<'V3RemoveAccessMembershipResponse'>> {
  const scope = projectOf(ctx);
  if (body.project_id.toLowerCase() !== scope.projectId) {
    throw badRequest('project_ambiguous', '/body/project_id', 'differs from the project in X-Project-ID');
  }
  const now = clock.now();
  const wanted = body.scope ?? 'project';
  const { tenantId } = await lockTenant(tx, memberOf(ctx).tenantId);
  const granter = await standingOf(tx, ctx, tenantId, scope.projectId);
  const user = await lockUser(tx, targetId);
  const home = await findHomeMembership(tx, user.userId);
  const member = home?.tenantId === tenantId ? home : null;
  if (member === null && !(await wasEverMember(tx, tenantId, user.userId))) {
    throw refuse('user_not_found', { resource: 'user' });
  }
  const current = await findProjectRole(tx, scope.projectId, user.userId);
  demandGrant(
    granter,
    wanted === 'tenant'
      ? { tenantRole: { from: member?.role ?? null, to: null }, projectRole: null }
      : { tenantRole: null, projectRole: { from: current?.role ?? null, to: null } },
  );
  // Whoever leaves the tenant leaves all of its projects: their owners are unmade by its owners alone.
  if (wanted === 'tenant' && granter.tenantRole !== 'owner' && (await ownsProjects(tx, tenantId, user.userId))) {
    throw refuse('ownership_required', { reason: 'owner_needs_owner' });
  }

  let tenantMemberships = 0;
  if (wanted === 'tenant' && member !== null) {
    if (member.role === 'owner') await demandOtherOwner(tx, tenantId, user.userId);
    await endTenantMembership(tx, member.membershipId, 'removed', now);
    tenantMemberships = 1;
  }
  const projects = await endProjectMemberships(tx, {
    userId: user.userId,
    tenantId,
    projectId: wanted === 'tenant' ? null : scope.projectId,
    reason: 'removed',
    now,
  });
  await clearDefaultProjects(tx, user.userId, projects, now);
  const removed = tenantMemberships > 0 || projects.length > 0;
  if (tenantMemberships > 0) await endSessions(tx, ctx, user.userId, 'tenant_removal', now);
  if (removed) {
    await announce(tx, ctx, 'identity.membership.changed', user.userId, {
      user_id: user.userId,
      tenant_id: tenantId,
      change: 'removed',
      project_ids: projects,
    });
  }
  await audit(tx, ctx, {
    action: 'tenant.user.membership.remove',
    targetType: 'user',
    targetId: user.userId,
    targetUserId: user.userId,
    tenantId,
    projectId: scope.projectId,
    metadata: {
      scope: wanted,
      reason: body.reason ?? null,
      project_memberships: projects.length,
      tenant_membership: tenantMemberships,
    },
  });
  return {
    ok: true,
    scope: wanted,
    removed,
    removed_project_memberships: projects.length,
    removed_tenant_membership: tenantMemberships,
    evidence: {
      correlation_id: ctx.correlationId,
      audit_action: 'tenant.user.membership.remove',
      target_user_id: user.userId,
      tenant_id: tenantId,
      project_id: scope.projectId,
    },
  };
}

/** An operator gives someone a home. `strict` never takes one away; `rehome` ends the old one and every session. */
async function bindAsOperator(
  { clock, wallet }: TenantMemberParts,
  tx: Tx,
  ctx: CommandContext,
  tenant: string,
  body: Schema<'AdminBindUserMembershipRequest'>,
): Promise<Schema<'AdminBindUserMembershipResponse'>> {
  const now = clock.now();
  const mode = body.mode ?? 'strict';
  const { tenantId } = await lockTenant(tx, tenant);
  const project = await findSharedProject(tx, body.project_id);
  if (project === null || project.tenantId !== tenantId) throw notFound('project');
  const user = await lockUser(tx, body.user_id);
  const home = await findHomeMembership(tx, user.userId);
  const elsewhere = home !== null && home.tenantId !== tenantId ? home : null;
  if (elsewhere !== null && mode === 'strict') {
    throw conflict('home_tenant_conflict', { resource: 'tenant_membership' });
  }
  if (elsewhere !== null) await leaveTenant(tx, ctx, user, elsewhere, now);

  const here = elsewhere === null ? home : null;
  if (here?.role === 'owner' && body.tenant_role !== 'owner') await demandOtherOwner(tx, tenantId, user.userId);
  const current = await findProjectRole(tx, project.projectId, user.userId);
  await applyBinding(tx, {
    tenantId,
    projectId: project.projectId,
    user,
    home: here,
    current,
    tenantRole: body.tenant_role,
    projectRole: body.project_role,
    now,
  });
  await wallet.openWallet(tx, { tenantId, userId: user.userId });
  await announce(tx, ctx, 'identity.membership.changed', user.userId, {
    user_id: user.userId,
    tenant_id: tenantId,
    change: elsewhere === null ? 'bound' : 'rehomed',
    project_ids: [project.projectId],
  });
  await audit(tx, ctx, {
    action: 'platform.membership.bind',
    targetType: 'user',
    targetId: user.userId,
    targetUserId: user.userId,
    tenantId,
    projectId: project.projectId,
    metadata: {
      mode,
      rehomed_from: elsewhere?.tenantId ?? null,
      reason: body.reason ?? null,
      tenant_role: { from: here?.role ?? null, to: body.tenant_role },
      project_role: { from: current?.role ?? null, to: body.project_role },
    },
  });
  return {
    ok: true,
    mode,
    rehomed: elsewhere !== null,
    binding: bindingSummary(tenantId, project.projectId, user.userId, body.tenant_role, body.project_role),
  };
}

/** Ends a home. An organisation keeps an owner; a personal tenant may be left behind by its one person. */
async function leaveTenant(
  tx: Tx,
  ctx: CommandContext,
  user: LockedUser,
  home: HomeMembership,
  now: Date,
): Promise<void> {
  const left = await lockTenant(tx, home.tenantId);
  if (home.role === 'owner' && left.type === 'enterprise') await demandOtherOwner(tx, home.tenantId, user.userId);
  await endTenantMembership(tx, home.membershipId, 'rehomed', now);
  const projects = await endProjectMemberships(tx, {
    userId: user.userId,
    tenantId: home.tenantId,
    projectId: null,
    reason: 'rehomed',
    now,
  });
  await setDefaultProjectOf(tx, user.userId, null, now);
  await endSessions(tx, ctx, user.userId, 'rehome', now);
  await announce(tx, ctx, 'identity.membership.changed', user.userId, {
    user_id: user.userId,
    tenant_id: home.tenantId,
    change: 'removed',
    project_ids: projects,
  });
}

async function applyBinding(
  tx: Tx,
  binding: {
    tenantId: TenantId;
    projectId: ProjectId;
    user: LockedUser;
    home: HomeMembership | null;
    current: { membershipId: string; role: ProjectRole } | null;
    tenantRole: TenantRole;
    projectRole: ProjectRole;
    now: Date;
  },
): Promise<void> {
  const { tenantId, projectId, user, home, current, tenantRole, projectRole, now } = binding;
  const { userId } = user;
  if (home === null) await insertTenantMembership(tx, { tenantId, userId, role: tenantRole, now });
  else if (home.role !== tenantRole) await setTenantRole(tx, home.membershipId, tenantRole, now);
  if (current === null) await insertProjectMembership(tx, { tenantId, projectId, userId, role: projectRole, now });
  else if (current.role !== projectRole) await setProjectRole(tx, current.membershipId, projectRole, now);
  if (home === null) await setDefaultProjectOf(tx, userId, projectId, now);
}

/** What the caller may hand out, read again under the tenant's lock: it may have changed since the request began. */
async function standingOf(
  tx: Tx,
  ctx: CommandContext,
  tenantId: TenantId,
  projectId: ProjectId,
): Promise<GranterStanding> {
  const { userId } = memberOf(ctx);
  const home = await findHomeMembership(tx, userId);
  const direct = await findProjectRole(tx, projectId, userId);
  const atHome = home?.tenantId === tenantId;
  return { tenantRole: atHome ? home.role : null, projectRole: atHome ? (direct?.role ?? null) : null };
}

function demandGrant(granter: GranterStanding, change: MembershipChange): void {
  const decision = decideMembershipChange(granter, change);
  if (!decision.ok) throw refuse(decision.code, { reason: decision.reason });
}

/** The caller holds the tenant's row, so the count cannot change before the commit. */
async function demandOtherOwner(tx: Tx, tenantId: TenantId, userId: UserId): Promise<void> {
  if ((await countOtherOwners(tx, tenantId, userId)) === 0)
    throw conflict('last_owner', { resource: 'tenant_membership' });
}

/** Strangers look unknown; someone who once was here and has another home now is a conflict. */
async function demandFormerMember(
  tx: Tx,
  tenantId: TenantId,
  user: LockedUser,
  home: HomeMembership | null,
): Promise<void> {
  if (!(await wasEverMember(tx, tenantId, user.userId))) throw refuse('user_not_found', { resource: 'user' });
  if (home !== null) throw conflict('home_tenant_conflict', { resource: 'tenant_membership' });
}

async function projectOfTenant(tx: Tx, tenantId: TenantId, projectId: string) {
  const project = await shareProject(tx, asId(projectId));
  if (project.tenantId !== tenantId) throw projectInaccessible();
  return project;
}

async function endSessions(tx: Tx, ctx: CommandContext, userId: UserId, reason: SessionEnd, now: Date): Promise<void> {
  for (const sessionId of await revokeSessionsOfUser(tx, userId, reason, now)) {
    await announce(tx, ctx, 'identity.session.revoked', sessionId, {
      session_id: sessionId,
      user_id: userId,
      reason,
    });
  }
}

function bindingSummary(
  tenantId: TenantId,
  projectId: ProjectId,
  userId: UserId,
  tenantRole: TenantRole,
  projectRole: ProjectRole,
): Binding {
  return {
    tenant_id: tenantId,
    project_id: projectId,
    user_id: userId,
    tenant_role: tenantRole,
    project_role: projectRole,
  };
}
