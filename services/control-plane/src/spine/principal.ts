import type { NodeId, ProjectId, ServiceAccountId, SessionId, TenantId, UserId } from '@gpuaas/kernel';

export const TENANT_ROLES = ['owner', 'admin', 'member', 'billing_viewer'] as const;
export type TenantRole = (typeof TENANT_ROLES)[number];

export const PROJECT_ROLES = ['owner', 'admin', 'member', 'viewer'] as const;
export type ProjectRole = (typeof PROJECT_ROLES)[number];

export const PLATFORM_ROLES = ['platform_superadmin', 'platform_ops', 'platform_user'] as const;
export type PlatformRole = (typeof PLATFORM_ROLES)[number];

export const PLATFORM_CAPABILITIES = [
  'platform.admin',
  'platform.ops.read',
  'platform.ops.write',
  'platform.ops.runbook.read',
  'platform.node.read',
  'platform.audit.read',
] as const;
export type PlatformCapability = (typeof PLATFORM_CAPABILITIES)[number];

export const SERVICE_ACCOUNT_SCOPES = [
  'compute.read',
  'compute.write',
  'apps.read',
  'apps.instances.write',
  'apps.artifacts.write',
  'apps.runtime.report',
  'apps.routes.invoke',
  'storage.read',
  'storage.write',
  'billing.read',
  'audit.read',
  'platform.evidence.write',
] as const;
export type ServiceAccountScope = (typeof SERVICE_ACCOUNT_SCOPES)[number];

/** A person with a live session. Rights are those of the database at this request, never of the token. */
export interface UserPrincipal {
  readonly kind: 'user';
  readonly userId: UserId;
  readonly username: string;
  readonly sessionId: SessionId;
  /** the one home tenant; null for an operator who belongs to none */
  readonly tenantId: TenantId | null;
  readonly tenantRole: TenantRole | null;
  readonly capabilities: ReadonlySet<PlatformCapability>;
  readonly isSuperadmin: boolean;
  readonly authenticationMethods: readonly string[];
  readonly authenticatedAt: Date;
}

/** A robot that acts inside one project on behalf of the person who made it. */
export interface ServiceAccountPrincipal {
  readonly kind: 'service_account';
  readonly serviceAccountId: ServiceAccountId;
  readonly projectId: ProjectId;
  readonly tenantId: TenantId;
  readonly createdByUserId: UserId;
  readonly scopes: ReadonlySet<ServiceAccountScope>;
  readonly purpose: string;
}

/** The operator identity of one shared app runtime of a tenant. */
export interface SharedRuntimeOperatorPrincipal {
  readonly kind: 'shared_runtime_operator';
  readonly serviceAccountId: ServiceAccountId;
  readonly tenantId: TenantId;
  readonly sharedRuntimeId: string;
}

/** A GPU host, known by its client certificate or, in development, by its internal token. */
export interface NodePrincipal {
  readonly kind: 'node';
  readonly nodeId: NodeId;
  readonly authentication: 'certificate' | 'internal_token';
  readonly certificateSerial: string | null;
}

/** The platform itself: relay subscribers, schedules, sweeps. `name` shows in audit as `system:<name>`. */
export interface SystemPrincipal {
  readonly kind: 'system';
  readonly name: string;
}

export interface AnonymousPrincipal {
  readonly kind: 'anonymous';
}

export type Principal =
  | UserPrincipal
  | ServiceAccountPrincipal
  | SharedRuntimeOperatorPrincipal
  | NodePrincipal
  | SystemPrincipal
  | AnonymousPrincipal;

/** One name a principal, stable over requests: the scope of idempotency keys and rate limits. */
export function principalKey(principal: Principal): string {
  switch (principal.kind) {
    case 'user':
      return `user:${principal.userId}`;
    case 'service_account':
      return `service_account:${principal.serviceAccountId}`;
    case 'shared_runtime_operator':
      return `shared_runtime_operator:${principal.sharedRuntimeId}:${principal.serviceAccountId}`;
    case 'node':
      return `node:${principal.nodeId}`;
    case 'system':
      return `system:${principal.name}`;
    case 'anonymous':
      return 'anonymous';
  }
}

/** The project a request works in, proven accessible to its principal. */
export interface ProjectScope {
  readonly projectId: ProjectId;
  readonly tenantId: TenantId;
  /** direct membership; null where access comes from a tenant role or a service account */
  readonly directRole: ProjectRole | null;
  /** tenant owners and admins rule every project of their tenant */
  readonly inheritsTenantAdmin: boolean;
}

/** Whether the caller may administer the project: project owner or admin, or tenant owner or admin. */
export function administersProject(scope: ProjectScope): boolean {
  return scope.inheritsTenantAdmin || scope.directRole === 'owner' || scope.directRole === 'admin';
}
