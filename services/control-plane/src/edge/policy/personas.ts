import { asId, type NodeId, type ProjectId, type TenantId } from '@gpuaas/kernel';
import {
  PLATFORM_CAPABILITIES,
  type PlatformCapability,
  type Principal,
  type ProjectRole,
  type ProjectScope,
  SERVICE_ACCOUNT_SCOPES,
  type ServiceAccountPrincipal,
  type TenantRole,
  type UserPrincipal,
} from '../../spine/principal.js';

/** The things that a persona's requests name. */
export const namedInRequests: {
  readonly tenantId: TenantId;
  readonly projectId: ProjectId;
  readonly nodeId: NodeId;
  readonly sharedRuntimeId: string;
} = {
  tenantId: asId('018f0000-0000-7000-8000-00000000000a'),
  projectId: asId('018f0000-0000-7000-8000-00000000000b'),
  nodeId: asId('018f0000-0000-7000-8000-00000000000c'),
  sharedRuntimeId: '018f0000-0000-7000-8000-00000000000d',
};

const otherTenantId: TenantId = asId('018f0000-0000-7000-8000-00000000001a');
const otherProjectId: ProjectId = asId('018f0000-0000-7000-8000-00000000001b');

/** A typical caller, as the matrix and the tests of the policy see one. */
export interface Persona {
  readonly name: string;
  /** heading of its column */
  readonly short: string;
  readonly description: string;
  readonly principal: Principal;
  /** what the caller has in the project that requests name */
  readonly project: ProjectScope | 'inaccessible';
}

const SUPERADMIN: readonly PlatformCapability[] = PLATFORM_CAPABILITIES;
const PLATFORM_OPS: readonly PlatformCapability[] = PLATFORM_CAPABILITIES.filter((name) => name !== 'platform.admin');
const PLATFORM_USER: readonly PlatformCapability[] = ['platform.ops.runbook.read', 'platform.node.read'];

export const personas: readonly Persona[] = [
  {
    name: 'anonymous',
    short: 'anon',
    description: 'no token',
    principal: { kind: 'anonymous' },
    project: 'inaccessible',
  },
  {
    name: 'tenant member',
    short: 'member T',
    description: 'member of the tenant, without a role in the project',
    principal: user({ tenantId: namedInRequests.tenantId, tenantRole: 'member' }),
    project: 'inaccessible',
  },
  {
    name: 'viewer',
    short: 'viewer',
    description: 'member of the tenant, viewer of the project',
    principal: user({ tenantId: namedInRequests.tenantId, tenantRole: 'member' }),
    project: direct('viewer'),
  },
  {
    name: 'project member',
    short: 'member P',
    description: 'member of the tenant and of the project',
    principal: user({ tenantId: namedInRequests.tenantId, tenantRole: 'member' }),
    project: direct('member'),
  },
  {
    name: 'project admin',
    short: 'admin P',
    description: 'member of the tenant, admin of the project',
    principal: user({ tenantId: namedInRequests.tenantId, tenantRole: 'member' }),
    project: direct('admin'),
  },
  {
    name: 'tenant admin',
    short: 'admin T',
    description: 'admin of the tenant, and so of each of its projects',
    principal: user({ tenantId: namedInRequests.tenantId, tenantRole: 'admin' }),
    project: { ...direct(null), inheritsTenantAdmin: true },
  },
  {
    name: 'tenant owner',
    short: 'owner T',
    description: 'owner of the tenant, and so of each of its projects',
    principal: user({ tenantId: namedInRequests.tenantId, tenantRole: 'owner' }),
    project: { ...direct(null), inheritsTenantAdmin: true },
  },
  {
    name: 'member of another tenant',
    short: 'other T',
    description: 'owner of another tenant; where a request names no tenant the answer is about that one',
    principal: user({ tenantId: otherTenantId, tenantRole: 'owner' }),
    project: 'inaccessible',
  },
  {
    name: 'service account',
    short: 'SA',
    description: 'service account of the project with every scope that projects can have',
    principal: serviceAccount(namedInRequests.tenantId, namedInRequests.projectId),
    project: direct(null),
  },
  {
    name: 'service account of another project',
    short: 'other SA',
    description: 'service account of another tenant with every scope that projects can have',
    principal: serviceAccount(otherTenantId, otherProjectId),
    project: 'inaccessible',
  },
  {
    name: 'shared-runtime operator',
    short: 'SRO',
    description: 'operator identity of the shared runtime that requests name',
    principal: {
      kind: 'shared_runtime_operator',
      serviceAccountId: asId('018f0000-0000-7000-8000-0000000000f1'),
      tenantId: namedInRequests.tenantId,
      sharedRuntimeId: namedInRequests.sharedRuntimeId,
    },
    project: 'inaccessible',
  },
  {
    name: 'node',
    short: 'node',
    description: 'the GPU host that requests name',
    principal: {
      kind: 'node',
      nodeId: namedInRequests.nodeId,
      authentication: 'certificate',
      certificateSerial: '01',
    },
    project: 'inaccessible',
  },
  {
    name: 'platform_user',
    short: 'plat user',
    description: 'platform role platform_user, no tenant',
    principal: user({ capabilities: PLATFORM_USER }),
    project: 'inaccessible',
  },
  {
    name: 'platform_ops',
    short: 'ops',
    description: 'platform role platform_ops, no tenant',
    principal: user({ capabilities: PLATFORM_OPS }),
    project: 'inaccessible',
  },
  {
    name: 'superadmin',
    short: 'super',
    description: 'platform role superadmin, no tenant',
    principal: user({ capabilities: SUPERADMIN, isSuperadmin: true }),
    project: 'inaccessible',
  },
];

function user(rights: {
  readonly tenantId?: TenantId;
  readonly tenantRole?: TenantRole;
  readonly capabilities?: readonly PlatformCapability[];
  readonly isSuperadmin?: boolean;
}): UserPrincipal {
  return {
    kind: 'user',
    userId: asId('018f0000-0000-7000-8000-0000000000a1'),
    username: 'persona',
    sessionId: asId('018f0000-0000-7000-8000-0000000000a2'),
    tenantId: rights.tenantId ?? null,
    tenantRole: rights.tenantRole ?? null,
    capabilities: new Set(rights.capabilities),
    isSuperadmin: rights.isSuperadmin ?? false,
    authenticationMethods: ['pwd'],
    authenticatedAt: new Date(0),
  };
}

function serviceAccount(tenantId: TenantId, projectId: ProjectId): ServiceAccountPrincipal {
  return {
    kind: 'service_account',
    serviceAccountId: asId('018f0000-0000-7000-8000-0000000000b1'),
    projectId,
    tenantId,
    createdByUserId: asId('018f0000-0000-7000-8000-0000000000a1'),
    scopes: new Set(SERVICE_ACCOUNT_SCOPES.filter((scope) => scope !== 'platform.evidence.write')),
    purpose: 'automation',
  };
}

function direct(role: ProjectRole | null): ProjectScope {
  return {
    projectId: namedInRequests.projectId,
    tenantId: namedInRequests.tenantId,
    directRole: role,
    inheritsTenantAdmin: false,
  };
}
