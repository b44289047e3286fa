import type { Schema } from '@gpuaas/contract';
import { PLATFORM_CAPABILITIES, type PlatformCapability, type PlatformRole } from '../../../spine/principal.js';

const CAPABILITIES_OF: Record<PlatformRole, readonly PlatformCapability[]> = {
  superadmin: PLATFORM_CAPABILITIES,
  platform_ops: [
    'platform.ops.read',
    'platform.ops.write',
    'platform.ops.runbook.read',
    'platform.node.read',
    'platform.audit.read',
  ],
  platform_user: ['platform.ops.runbook.read', 'platform.node.read'],
};

const ORDER: readonly PlatformRole[] = ['superadmin', 'platform_ops', 'platform_user'];

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
    user.source === 'bindings' ? user.bindings : user.role === 'admin' ? ['superadmin'] : [];
  const roles = ORDER.filter((role) => held.includes(role));
  return {
    roles,
    source: user.source,
    capabilities: new Set(roles.flatMap((role) => CAPABILITIES_OF[role])),
    isSuperadmin: roles.includes('superadmin'),
  };
}

/** `users.role` as a mirror of the bindings. */
export function mirroredUserRole(bindings: readonly PlatformRole[]): 'user' | 'admin' {
  return bindings.includes('superadmin') ? 'admin' : 'user';
}

type WireRole = Schema<'PlatformRole'>;

const TO_WIRE: Record<PlatformRole, WireRole> = {
  superadmin: 'platform_superadmin',
  platform_ops: 'platform_ops',
  platform_user: 'platform_user',
};

const FROM_WIRE: Record<WireRole, PlatformRole> = {
  platform_superadmin: 'superadmin',
  platform_ops: 'platform_ops',
  platform_user: 'platform_user',
};

export const toWirePlatformRole = (role: PlatformRole): WireRole => TO_WIRE[role];
export const fromWirePlatformRole = (role: WireRole): PlatformRole => FROM_WIRE[role];
