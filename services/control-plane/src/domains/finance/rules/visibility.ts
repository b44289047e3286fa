import { assertNever } from '@gpuaas/kernel';
import type { Principal, TenantRole } from '../../../spine/principal.js';

/** Whose usage a caller sees: a tenant's, narrowed to one person or one project where that is set. */
export interface UsageVisibility {
  readonly tenantId: string;
  readonly userId: string | null;
  readonly projectId: string | null;
}

const READERS: readonly (TenantRole | null)[] = ['owner', 'admin', 'billing_viewer'];

/** Those who answer for the tenant's money see all of it, members what is theirs, robots their project; null sees none. */
export function usageVisibleTo(principal: Principal): UsageVisibility | null {
  switch (principal.kind) {
    case 'user': {
      if (principal.tenantId === null) return null;
      const userId = READERS.includes(principal.tenantRole) ? null : principal.userId;
      return { tenantId: principal.tenantId, userId, projectId: null };
    }
    case 'service_account':
      return principal.scopes.has('billing.read')
        ? { tenantId: principal.tenantId, userId: null, projectId: principal.projectId }
        : null;
    case 'shared_runtime_operator':
    case 'node':
    case 'system':
    case 'anonymous':
      return null;
    default:
      return assertNever(principal);
  }
}
