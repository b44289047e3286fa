import { asId } from '@gpuaas/kernel';
import { audit } from '../../../spine/audit.js';
import { pageOf, pageRequest } from '../../../spine/cursors.js';
import { command, type OperationHandlers, query, type Tx } from '../../../spine/operation.js';
import { badRequest, conflict, notFound, refuse } from '../../../spine/refusal.js';
import type { IdentityDependencies } from '../dependencies.js';
import { announce } from '../events.js';
import { ownsProject, rulesTenant } from '../rules/roles.js';
import { deriveSlug, firstFreeSlug, slugStem } from '../rules/slug.js';
import {
  endProject,
  findDepartment,
  findProjectsOf,
  findSlugsLike,
  getProjectOf,
  insertProject,
  lockProject,
  shareProject,
  updateProjectRow,
} from '../store/projects.js';
import { insertProjectMembership, lockTenant } from '../store/tenants.js';
import { setDefaultProjectOf } from '../store/users.js';
import { projectView } from '../views/project-view.js';
import { acceptName, memberOf, projectOf, userOf } from './caller.js';
import { creationPosition } from './users.js';

/** What a list without a pagination block answers at most when nobody asked for pages. */
const UNPAGED_ROWS = 1000;

export function projectOperations({
  clock,
  projectUsage,
}: Pick<IdentityDependencies, 'clock' | 'projectUsage'>): OperationHandlers {
  return {
    listProjects: query<'listProjects'>(async ({ db, ctx, query: asked }) => {
      const { userId, tenantId, tenantRole } = userOf(ctx);
      if (tenantId === null) return { status: 200, body: { items: [] } };
      const request = pageRequest(
        ctx,
        { operation: 'listProjects', context: userId, filters: {}, sort: 'created_at_desc' },
        { ...asked, page_size: asked.page_size ?? UNPAGED_ROWS },
      );
      const found = await findProjectsOf(
        db,
        { userId, tenantId, rulesTenant: rulesTenant(tenantRole) },
        creationPosition(request.after),
        request.pageSize + 1,
      );
      const { rows, pagination } = pageOf(ctx, request, found, (project) => [project.createdAtText, project.projectId]);
      const next = pagination.next_cursor;
      return {
        status: 200,
        body: { items: rows.map((project) => projectView(project, tenantRole)) },
        // the body has no place for a cursor
        ...(next !== null && {
          headers: { link: `</api/v1/projects?cursor=${next}&page_size=${pagination.page_size}>; rel="next"` },
        }),
      };
    }),

    createProject: command<'createProject'>(async ({ tx, ctx, body }) => {
      const { userId, tenantId, tenantRole } = memberOf(ctx);
      const now = clock.now();
      const name = acceptName(body.name, 120);
      const department = await findDepartment(tx, tenantId, body.department_id ?? null);
      if (!department) throw notFound('department');
      if (department.state !== 'active') {
        throw badRequest('department_disabled', '/body/department_id', 'takes no new projects');
      }
      const slug = body.slug ?? (await freeSlug(tx, tenantId, name));
      const projectId = await insertProject(tx, { tenantId, departmentId: department.id, name, slug, now });
      await insertProjectMembership(tx, { tenantId, projectId, userId, role: 'owner', now });
      await audit(tx, ctx, {
        action: 'project.create',
        targetType: 'project',
        targetId: projectId,
        tenantId,
        projectId,
        metadata: { name, slug },
      });
      return { status: 201, body: { project: projectView(await getProjectOf(tx, userId, projectId), tenantRole) } };
    }),

    updateProject: command<'updateProject'>(async ({ tx, ctx, body }) => {
      const { userId, tenantRole } = memberOf(ctx);
      const project = await lockProject(tx, projectOf(ctx).projectId);
      const name = body.name === undefined ? project.name : acceptName(body.name, 120);
      const slug = body.slug ?? project.slug;
      await updateProjectRow(tx, project.projectId, { name, slug, now: clock.now() });
      await audit(tx, ctx, {
        action: 'project.update',
        targetType: 'project',
        targetId: project.projectId,
        tenantId: project.tenantId,
        projectId: project.projectId,
        metadata: {
          ...(name !== project.name && { name: { from: project.name, to: name } }),
          ...(slug !== project.slug && { slug: { from: project.slug, to: slug } }),
        },
      });
      return {
        status: 200,
        body: { project: projectView(await getProjectOf(tx, userId, project.projectId), tenantRole) },
      };
    }),

    /** 200: gone, with everything that lived by it here; refused while anything runs or is stored in it. */
    deleteProject: command<'deleteProject'>(async ({ tx, ctx }) => {
      const scope = projectOf(ctx);
      const { tenantRole } = memberOf(ctx);
      if (!ownsProject(scope.directRole, tenantRole)) throw refuse('ownership_required', { resource: 'project' });
      // From here on a launch waits and then finds no project.
      const project = await lockProject(tx, scope.projectId);
      const inUse: Record<string, number> = {};
      for (const usageOf of projectUsage) {
        for (const [kind, count] of Object.entries(await usageOf(tx, project.projectId)))
          if (count > 0) inUse[kind] = count;
      }
      if (Object.keys(inUse).length > 0) throw conflict('project_not_empty', { resource: 'project', in_use: inUse });
      const ended = await endProject(tx, project.projectId, clock.now());
      for (const id of ended.serviceAccounts) {
        await announce(tx, ctx, 'identity.service_account.disabled', id, {
          service_account_id: id,
          project_id: project.projectId,
          state: 'deleted',
        });
      }
      for (const id of ended.sshKeys) {
        await announce(tx, ctx, 'identity.ssh_key.revoked', id, {
          ssh_key_id: id,
          owner_scope: 'project',
          user_id: null,
          project_id: project.projectId,
        });
      }
      await announce(tx, ctx, 'identity.project.deleted', project.projectId, {
        project_id: project.projectId,
        tenant_id: project.tenantId,
      });
      await audit(tx, ctx, {
        action: 'project.delete',
        targetType: 'project',
        targetId: project.projectId,
        tenantId: project.tenantId,
        projectId: project.projectId,
        metadata: {
          name: project.name,
          members_removed: ended.members,
          service_accounts_deleted: ended.serviceAccounts.length,
          ssh_keys_revoked: ended.sshKeys.length,
        },
      });
      return { status: 200, body: { ok: true, project_id: project.projectId } };
    }),

    setDefaultProject: command<'setDefaultProject'>(async ({ tx, ctx }) => {
      const { userId, tenantRole } = memberOf(ctx);
      const project = await shareProject(tx, asId(projectOf(ctx).projectId));
      await setDefaultProjectOf(tx, userId, project.projectId, clock.now());
      await audit(tx, ctx, {
        action: 'project.set_default',
        targetType: 'project',
        targetId: project.projectId,
        tenantId: project.tenantId,
        projectId: project.projectId,
      });
      return {
        status: 200,
        body: { project: projectView(await getProjectOf(tx, userId, project.projectId), tenantRole) },
      };
    }),
  };
}

/** A slug for the name that nobody in the tenant has. The tenant's row keeps others from taking it meanwhile. */
async function freeSlug(tx: Tx, tenantId: string, name: string): Promise<string> {
  await lockTenant(tx, tenantId);
  const base = deriveSlug(name, 'project');
  return firstFreeSlug(base, await findSlugsLike(tx, tenantId, slugStem(base)));
}
