import type { OperatorOutcome } from '../domains/identity/index.js';
import type { ControlPlane } from './control-plane.js';

/**
 * Makes the first operator: a superadmin without a tenant. An operator who is there already keeps the password that
 * they have; a generated one is never given twice.
 */
export async function ensureAdministrator(
  controlPlane: ControlPlane,
  administrator: { readonly username: string; readonly password: string },
): Promise<OperatorOutcome> {
  return controlPlane.domains.identity.ensureOperator(administrator);
}
