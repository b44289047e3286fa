import { SERVICE_ACCOUNT_SCOPES, type ServiceAccountScope } from '../../../spine/principal.js';

export const SERVICE_ACCOUNT_PURPOSES = ['operator', 'controller', 'automation'] as const;
export type ServiceAccountPurpose = (typeof SERVICE_ACCOUNT_PURPOSES)[number];
export type ServiceAccountState = 'active' | 'disabled' | 'deleted';

/**
 * What a robot may do follows from what it was made for:
 * `automation` acts for a team (compute, apps, storage), `operator` runs an application on its hosts,
 * `controller` reports and moves application instances and nothing else.
 */
const SCOPES_OF: Record<ServiceAccountPurpose, readonly ServiceAccountScope[]> = {
  automation: [
    'compute.read',
    'compute.write',
    'apps.read',
    'apps.instances.write',
    'apps.artifacts.write',
    'apps.routes.invoke',
    'storage.read',
    'storage.write',
    'billing.read',
  ],
  operator: [
    'compute.read',
    'compute.write',
    'apps.read',
    'apps.instances.write',
    'apps.runtime.report',
    'apps.routes.invoke',
    'storage.read',
    'storage.write',
  ],
  controller: ['compute.read', 'apps.read', 'apps.instances.write', 'apps.runtime.report', 'apps.routes.invoke'],
};

/** Every scope of a purpose, in the order of the catalogue. */
export function scopesOfPurpose(purpose: ServiceAccountPurpose): readonly ServiceAccountScope[] {
  return SERVICE_ACCOUNT_SCOPES.filter((scope) => SCOPES_OF[purpose].includes(scope));
}

export type ScopeDecision =
  | { readonly ok: true; readonly scopes: readonly ServiceAccountScope[] }
  | { readonly ok: false; readonly excess: readonly string[] };

/** The scopes of a token: all of the purpose, or the requested ones if the purpose has them all. */
export function decideScopes(purpose: ServiceAccountPurpose, requested: readonly string[] | undefined): ScopeDecision {
  const granted = scopesOfPurpose(purpose);
  if (requested === undefined || requested.length === 0) return { ok: true, scopes: granted };
  const known: ReadonlySet<string> = new Set(granted);
  const excess = requested.filter((scope) => !known.has(scope));
  if (excess.length > 0) return { ok: false, excess };
  return { ok: true, scopes: granted.filter((scope) => requested.includes(scope)) };
}

export type ServiceAccountStep =
  | { readonly ok: true; readonly to: ServiceAccountState; readonly changes: boolean }
  | { readonly ok: false; readonly reason: 'service_account_not_active' };

/** active → disabled → deleted; nothing leads back. A repeat changes nothing; a deleted one stays deleted. */
export function advanceServiceAccount(
  from: ServiceAccountState,
  event: 'disable' | 'delete' | 'rotate',
): ServiceAccountStep {
  switch (event) {
    case 'disable':
      if (from === 'deleted') return { ok: false, reason: 'service_account_not_active' };
      return { ok: true, to: 'disabled', changes: from === 'active' };
    case 'delete':
      return { ok: true, to: 'deleted', changes: from !== 'deleted' };
    case 'rotate':
      if (from !== 'active') return { ok: false, reason: 'service_account_not_active' };
      return { ok: true, to: 'active', changes: true };
  }
}
