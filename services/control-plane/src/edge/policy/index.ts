import type { OperationId } from '@gpuaas/contract';
import { appsPolicy } from './apps.js';
import { computePolicy } from './compute.js';
import { financePolicy } from './finance.js';
import { fleetPolicy } from './fleet.js';
import { identityPolicy } from './identity.js';
import { platformPolicy } from './platform.js';
import type { PolicyRule } from './rules.js';
import { storagePolicy } from './storage.js';

export { type AccessDecision, type AccessFacts, type Authentication, decide, type PolicyRule } from './rules.js';

/** The rows by domain; each domain's file holds its operations and no others. */
export const policyByDomain = {
  identity: identityPolicy,
  compute: computePolicy,
  fleet: fleetPolicy,
  apps: appsPolicy,
  finance: financePolicy,
  storage: storagePolicy,
  platform: platformPolicy,
} as const;

/** Who may call what. An operation of the contract without a row does not compile. */
export const policy: { readonly [Id in OperationId]: PolicyRule } = {
  ...identityPolicy,
  ...computePolicy,
  ...fleetPolicy,
  ...appsPolicy,
  ...financePolicy,
  ...storagePolicy,
  ...platformPolicy,
};

const rows: ReadonlyMap<string, PolicyRule> = new Map(Object.entries(policy));

/** The rule of an operation. Throws where there is none, so that a server whose contract has outgrown its policy does not start. */
export function policyFor(operationId: OperationId): PolicyRule {
  const rule = rows.get(operationId);
  if (rule === undefined)
    throw new Error(`operation ${operationId} has no policy row; the server does not start without one`);
  return rule;
}
