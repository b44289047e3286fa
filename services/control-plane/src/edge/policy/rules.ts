import type { ErrorCode, OperationDefinition } from '@gpuaas/contract';
import { assertNever } from '@gpuaas/kernel';
import type {
  PlatformCapability,
  Principal,
  ProjectRole,
  ProjectScope,
  ServiceAccountPrincipal,
  ServiceAccountScope,
  TenantRole,
  UserPrincipal,
} from '../../spine/principal.js';

/** What the edge has established about a request before anyone decides whether it may go on. */
export interface AccessFacts {
  readonly principal: Principal;
  /** the project that the request names; `inaccessible` where it is unknown or not the caller's, null where none is named */
  readonly project: ProjectScope | 'inaccessible' | null;
  /** the id that was named, accessible or not */
  readonly projectId: string | null;
  /** the tenant that the request names; null where none is named, and then the caller's home tenant is meant */
  readonly tenantId: string | null;
  readonly definition: Pick<OperationDefinition, 'routes'>;
  readonly path: Readonly<Record<string, unknown>>;
}

export type AccessDecision =
  | { readonly allowed: true }
  | {
      readonly allowed: false;
      readonly code: ErrorCode;
      readonly status: 400 | 401 | 403;
      /** stable, snake_case: which requirement was not met; never whether the named thing exists */
      readonly reason: string;
    };

/** Which scopes let a service account pass: one of a list, none needed, or no service account at all. */
export type ScopeRequirement = readonly ServiceAccountScope[] | 'any' | 'never';

/** One requirement, or several combined. Each kind admits only what it names: a new kind of principal passes none of them. */
export type Gate =
  | { readonly kind: 'open'; readonly proof: string }
  | { readonly kind: 'user'; readonly tenant: 'any' | 'required'; readonly project: 'optional' | 'unnamed' }
  | {
      readonly kind: 'project';
      readonly role: ProjectRole;
      readonly serviceAccounts: ScopeRequirement;
      /** the code for a caller who sees the project and has too small a role in it */
      readonly otherwise: ErrorCode;
    }
  | { readonly kind: 'tenant'; readonly roles: readonly TenantRole[] }
  | { readonly kind: 'capability'; readonly capability: PlatformCapability }
  | { readonly kind: 'superadmin' }
  | { readonly kind: 'service-account'; readonly scopes: readonly ServiceAccountScope[] | 'any' }
  | { readonly kind: 'shared-runtime-operator' }
  | { readonly kind: 'node' }
  | { readonly kind: 'any-of'; readonly gates: readonly [Gate, ...Gate[]] }
  | { readonly kind: 'all-of'; readonly gates: readonly [Gate, ...Gate[]] };

/**
 * How the edge learns who asks: `bearer` demands a person's or robot's token, `node` a host's identity, `optional` takes
 * a token where one is sent, `anonymous` never looks at one (it may be a secret of another kind, for the handler).
 */
export type Authentication = 'bearer' | 'optional' | 'anonymous' | 'node';

/** The row of one operation. */
export interface PolicyRule {
  readonly authentication: Authentication;
  readonly gate: Gate;
  /** what the handler decides beyond the gate because it depends on the row or the body; null where the gate is all */
  readonly rowRule: string | null;
}

/** A row for callers with a token of the platform. */
export function allow(gate: Gate, rowRule: string | null = null): PolicyRule {
  return { authentication: 'bearer', gate, rowRule };
}

/** A row that needs no identity; `proof` says what the handler demands in its place. */
export function open(
  proof: string,
  options: { readonly bearer: 'ignored' | 'used' } = { bearer: 'ignored' },
): PolicyRule {
  return {
    authentication: options.bearer === 'used' ? 'optional' : 'anonymous',
    gate: { kind: 'open', proof },
    rowRule: null,
  };
}

/** A row for GPU hosts; where the path names a node it must be the caller. */
export function host(rowRule: string | null = null): PolicyRule {
  return { authentication: 'node', gate: { kind: 'node' }, rowRule };
}

/** Any person who is signed in. A project that the request names must be accessible to them. */
export const anyUser: Gate = { kind: 'user', tenant: 'any', project: 'optional' };
/** A person with a home tenant. */
export const tenantUser: Gate = { kind: 'user', tenant: 'required', project: 'optional' };
/** A person who names no project: what they act on is their own. */
export const userOnTheirOwn: Gate = { kind: 'user', tenant: 'any', project: 'unnamed' };

/**
 * Someone with at least this role in the named project; owners and admins of its tenant count as its owners and admins.
 * Service accounts pass by scope, and only in their own project.
 */
export function inProject(
  role: ProjectRole,
  serviceAccounts: ScopeRequirement = 'never',
  otherwise: ErrorCode = 'insufficient_permissions',
): Gate {
  return { kind: 'project', role, serviceAccounts, otherwise };
}

/** A person with one of these roles in the named tenant, or in the home tenant where none is named. */
export function inTenant(first: TenantRole, ...others: readonly TenantRole[]): Gate {
  return { kind: 'tenant', roles: [first, ...others] };
}

export const tenantAdmin: Gate = inTenant('owner', 'admin');
export const superadmin: Gate = { kind: 'superadmin' };
/** The operator identity of the shared runtime that the path names, in the tenant that the request names. */
export const sharedRuntimeOperator: Gate = { kind: 'shared-runtime-operator' };

export function capability(name: PlatformCapability): Gate {
  return { kind: 'capability', capability: name };
}

/** A robot with one of these scopes, wherever it works. */
export function serviceAccount(...scopes: readonly ServiceAccountScope[]): Gate {
  return { kind: 'service-account', scopes };
}

export const anyServiceAccount: Gate = { kind: 'service-account', scopes: 'any' };

/** The refusal is that of the first gate. */
export function anyOf(first: Gate, ...others: readonly Gate[]): Gate {
  return { kind: 'any-of', gates: [first, ...others] };
}

export function allOf(first: Gate, ...others: readonly Gate[]): Gate {
  return { kind: 'all-of', gates: [first, ...others] };
}

const ALLOWED: AccessDecision = { allowed: true };

/**
 * Whether a request may reach its handler. Pure: same rule and facts, same answer. Refusals are alike for what is
 * unknown and what belongs to others.
 */
export function decide(rule: PolicyRule, facts: AccessFacts): AccessDecision {
  if (rule.gate.kind === 'open') return ALLOWED;
  const { principal } = facts;
  if (principal.kind === 'anonymous')
    return { allowed: false, code: 'token_missing', status: 401, reason: 'sign_in_required' };
  // Ahead of every other question: a robot's token says nothing about any project but its own.
  if (principal.kind === 'service_account' && facts.projectId !== null && !worksIn(principal, facts)) {
    return { allowed: false, code: 'token_scope_invalid', status: 401, reason: 'token_of_another_project' };
  }
  return passGate(rule.gate, facts);
}

function passGate(gate: Gate, facts: AccessFacts): AccessDecision {
  switch (gate.kind) {
    case 'open':
      return ALLOWED;
    case 'user':
      return passAsUser(gate, facts);
    case 'project':
      return passInProject(gate, facts);
    case 'tenant':
      return passInTenant(gate.roles, facts);
    case 'capability': {
      const { principal } = facts;
      const holds = principal.kind === 'user' && principal.capabilities.has(gate.capability);
      return holds ? ALLOWED : missingPlatformRight(facts, 'capability_required');
    }
    case 'superadmin': {
      const { principal } = facts;
      const holds = principal.kind === 'user' && principal.isSuperadmin;
      return holds ? ALLOWED : missingPlatformRight(facts, 'superadmin_required');
    }
    case 'service-account': {
      const { principal } = facts;
      if (principal.kind !== 'service_account') return forbidden('service_account_required');
      return hasScope(principal, gate.scopes) ? ALLOWED : forbidden('service_account_scope_required');
    }
    case 'shared-runtime-operator':
      return passAsSharedRuntimeOperator(facts);
    case 'node':
      return passAsNode(facts);
    case 'any-of': {
      const [first, ...others] = gate.gates;
      const refusal = passGate(first, facts);
      return refusal.allowed || others.some((other) => passGate(other, facts).allowed) ? ALLOWED : refusal;
    }
    case 'all-of':
      for (const part of gate.gates) {
        const decision = passGate(part, facts);
        if (!decision.allowed) return decision;
      }
      return ALLOWED;
    default:
      return assertNever(gate);
  }
}

function passAsUser(
  gate: Extract<Gate, { kind: 'user' }>,
  { principal, project, projectId }: AccessFacts,
): AccessDecision {
  if (principal.kind !== 'user') return forbidden('user_required');
  if (gate.project === 'unnamed' && projectId !== null) return forbidden('project_not_applicable');
  if (project === 'inaccessible') return forbidden('project_inaccessible');
  if (gate.tenant === 'required' && principal.tenantId === null) return forbidden('tenant_membership_required');
  return ALLOWED;
}

function passInProject(gate: Extract<Gate, { kind: 'project' }>, facts: AccessFacts): AccessDecision {
  const { principal, project } = facts;
  if (principal.kind !== 'user' && principal.kind !== 'service_account') return forbidden('user_required');
  if (principal.kind === 'service_account' && gate.serviceAccounts === 'never') return forbidden('user_required');
  if (project === null)
    return { allowed: false, code: 'invalid_request', status: 400, reason: 'project_context_required' };
  if (project === 'inaccessible') return forbidden('project_inaccessible');
  if (principal.kind === 'service_account') {
    const { serviceAccounts } = gate;
    if (!worksIn(principal, facts)) return forbidden('project_inaccessible');
    return serviceAccounts !== 'never' && hasScope(principal, serviceAccounts)
      ? ALLOWED
      : forbidden('service_account_scope_required');
  }
  return rankInProject(principal, project) >= RANK[gate.role]
    ? ALLOWED
    : forbidden(`project_${gate.role}_required`, gate.otherwise);
}

function passInTenant(roles: readonly TenantRole[], { principal, tenantId }: AccessFacts): AccessDecision {
  if (principal.kind !== 'user') return forbidden('user_required');
  if (principal.tenantId === null || principal.tenantRole === null) return forbidden('tenant_membership_required');
  if (tenantId !== null && !sameId(tenantId, principal.tenantId)) return forbidden('tenant_inaccessible');
  return roles.includes(principal.tenantRole) ? ALLOWED : forbidden('tenant_role_required');
}

function passAsSharedRuntimeOperator({ principal, tenantId, path }: AccessFacts): AccessDecision {
  if (principal.kind !== 'shared_runtime_operator') return forbidden('shared_runtime_operator_required');
  if (tenantId === null || !sameId(tenantId, principal.tenantId)) return forbidden('tenant_inaccessible');
  const named = path.shared_runtime_id;
  if (named !== undefined && !sameId(named, principal.sharedRuntimeId)) return forbidden('shared_runtime_inaccessible');
  return ALLOWED;
}

function passAsNode({ principal, path }: AccessFacts): AccessDecision {
  if (principal.kind !== 'node') return forbidden('node_required');
  if (path.node_id !== undefined && !sameId(path.node_id, principal.nodeId)) return forbidden('node_identity_mismatch');
  return ALLOWED;
}

const RANK: Readonly<Record<ProjectRole, number>> = { viewer: 1, member: 2, admin: 3, owner: 4 };

/** 0 for no role at all. */
function rankInProject(principal: UserPrincipal, project: ProjectScope): number {
  const direct = project.directRole === null ? 0 : RANK[project.directRole];
  if (!project.inheritsTenantAdmin || principal.tenantId !== project.tenantId) return direct;
  return Math.max(direct, principal.tenantRole === 'owner' ? RANK.owner : RANK.admin);
}

function worksIn(principal: ServiceAccountPrincipal, { project }: AccessFacts): boolean {
  return project !== null && project !== 'inaccessible' && project.projectId === principal.projectId;
}

function hasScope(principal: ServiceAccountPrincipal, scopes: readonly ServiceAccountScope[] | 'any'): boolean {
  return scopes === 'any' || scopes.some((scope) => principal.scopes.has(scope));
}

/** Paths spell ids in either case. */
function sameId(named: unknown, id: string): boolean {
  return typeof named === 'string' && named.toLowerCase() === id.toLowerCase();
}

function forbidden(reason: string, code: ErrorCode = 'insufficient_permissions'): AccessDecision {
  return { allowed: false, code, status: 403, reason };
}

/** Operators' paths have a code of their own for it. */
function missingPlatformRight({ definition }: AccessFacts, reason: string): AccessDecision {
  const onOperatorPath = definition.routes.some(({ openapiPath }) =>
    /^\/api\/v1\/(v3\/)?(admin|platform)(\/|$)/.test(openapiPath),
  );
  return forbidden(reason, onOperatorPath ? 'admin_required' : 'insufficient_permissions');
}
