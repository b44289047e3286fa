import { newId } from '@gpuaas/kernel';
import { describe, expect, it } from 'vitest';
import type { ServiceAccountScope, TenantRole, UserPrincipal } from '../../../spine/principal.js';
import { usageVisibleTo } from './visibility.js';

const tenantId = newId<'tenant'>();

function user(tenantRole: TenantRole | null, home = true): UserPrincipal {
  return {
    kind: 'user',
    userId: newId(),
    username: 'u',
    sessionId: newId(),
    tenantId: home ? tenantId : null,
    tenantRole,
    capabilities: new Set(),
    isSuperadmin: false,
    authenticationMethods: ['pwd'],
    authenticatedAt: new Date(0),
  };
}

function robot(scopes: readonly ServiceAccountScope[]) {
  return {
    kind: 'service_account',
    serviceAccountId: newId<'service-account'>(),
    projectId: newId<'project'>(),
    tenantId,
    createdByUserId: newId<'user'>(),
    scopes: new Set(scopes),
    purpose: 'automation',
  } as const;
}

describe('usage that a caller sees', () => {
  it.each(['owner', 'admin', 'billing_viewer'] as const)('is all of the tenant for its %s', (role) => {
    expect(usageVisibleTo(user(role))).toEqual({ tenantId, userId: null, projectId: null });
  });

  it('is their own for members', () => {
    const member = user('member');
    expect(usageVisibleTo(member)).toEqual({ tenantId, userId: member.userId, projectId: null });
  });

  it('is that of its project for a robot that may read bills', () => {
    const reader = robot(['billing.read']);
    expect(usageVisibleTo(reader)).toEqual({ tenantId, userId: null, projectId: reader.projectId });
    expect(usageVisibleTo(robot(['compute.write', 'audit.read']))).toBeNull();
  });

  it('is nothing for people without a tenant, hosts and the platform itself', () => {
    expect(usageVisibleTo(user(null, false))).toBeNull();
    expect(usageVisibleTo({ kind: 'anonymous' })).toBeNull();
    expect(usageVisibleTo({ kind: 'system', name: 'relay' })).toBeNull();
    const host = {
      kind: 'node',
      nodeId: newId<'node'>(),
      authentication: 'certificate',
      certificateSerial: '1',
    } as const;
    expect(usageVisibleTo(host)).toBeNull();
  });
});
