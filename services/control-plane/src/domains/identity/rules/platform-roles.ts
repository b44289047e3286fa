import {
  PLATFORM_CAPABILITIES,
  PLATFORM_ROLES,
  type PlatformCapability,
  type PlatformRole,
} from '../../../spine/principal.js';

const CAPABILITIES_OF: Record<PlatformRole, readonly PlatformCapability[]> = {
  platform_superadmin: PLATFORM_CAPABILITIES,
  platform_ops: [
    'platform.ops.read',
    'platform.ops.write',
    'platform.ops.runbook.read',
    'platform.node.read',
    'platform.audit.read',
  ],
  platform_user: ['platform.ops.runbook.read', 'platform.node.read'],
};

export interface PlatformStanding {
  readonly roles: readonly PlatformRole[];
  /** where the roles come from: the user's own role field, or written bindings */
  readonly source: 'users_role' | 'bindings';
  readonly capabilities: ReadonlySet<PlatformCapability>;
  readonly isSuperadmin: boolean;
}

/**
 * What a user may do on the platform. Until a binding was ever written for a user, `role: admin` means superadmin;
 * afterwards only the bindings count.
 */
export function platformStanding(user: {
  readonly role: 'user' | 'admin';
  readonly source: 'users_role' | 'bindings';
  readonly bindings: readonly PlatformRole[];
}): PlatformStanding {
  const held: readonly PlatformRole[] =
    user.source === 'bindings' ? user.bindings : user.role === 'admin' ? ['platform_superadmin'] : [];
  const roles = PLATFORM_ROLES.filter((role) => held.includes(role));
  return {
    roles,
    source: user.source,
    capabilities: new Set(roles.flatMap((role) => CAPABILITIES_OF[role])),
    isSuperadmin: roles.includes('platform_superadmin'),
  };
}

/** `users.role` as a mirror of the bindings. */
export function mirroredUserRole(bindings: readonly PlatformRole[]): 'user' | 'admin' {
  return bindings.includes('platform_superadmin') ? 'admin' : 'user';
}
