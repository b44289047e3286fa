import type { Schema } from '@gpuaas/contract';
import type { TenantRole } from '../../../spine/principal.js';
import { toWireTime } from '../../../spine/wire.js';
import { effectiveProjectRole } from '../rules/roles.js';
import type { ProjectRow } from '../store/projects.js';

/** A project as one person sees it; the role is the direct one or what their tenant role implies. */
export function projectView(project: ProjectRow, tenantRole: TenantRole | null): Schema<'Project'> {
  const role = effectiveProjectRole(project.directRole, tenantRole);
  if (role === null) throw new Error('a project is shown to someone without a role in it');
  return {
    id: project.projectId,
    org_id: project.tenantId,
    org_name: project.tenantName,
    department_id: project.departmentId,
    department_name: project.departmentName,
    department_slug: project.departmentSlug,
    name: project.name,
    slug: project.slug,
    role,
    is_default: project.isDefault,
    created_at: toWireTime(project.createdAt),
  };
}
