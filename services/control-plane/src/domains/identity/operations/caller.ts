import type { TenantId } from '@gpuaas/kernel';
import type { RequestContext } from '../../../spine/operation.js';
import type { ProjectScope, TenantRole, UserPrincipal } from '../../../spine/principal.js';
import { badRequest, refuse } from '../../../spine/refusal.js';
import { decidePassword } from '../rules/password.js';
import { decideUsername, type UsernameDecision } from '../rules/username.js';

/** The person who asks; robots and hosts are refused as the policy would. */
export function userOf(ctx: RequestContext): UserPrincipal {
  if (ctx.principal.kind !== 'user') throw refuse('insufficient_permissions', { reason: 'user_required' });
  return ctx.principal;
}

/** The project that the request names, proven accessible by the edge. */
export function projectOf(ctx: RequestContext): ProjectScope {
  if (ctx.project === null) {
    throw badRequest('project_context_required', '/headers/X-Project-ID', 'is missing');
  }
  return ctx.project;
}

/** A person with a home, and the home. */
export function memberOf(ctx: RequestContext): UserPrincipal & { tenantId: TenantId; tenantRole: TenantRole } {
  const user = userOf(ctx);
  const { tenantId, tenantRole } = user;
  if (tenantId === null || tenantRole === null) {
    throw refuse('insufficient_permissions', { reason: 'tenant_membership_required' });
  }
  return { ...user, tenantId, tenantRole };
}

const USERNAME_PROBLEMS = {
  username_empty: 'must not be empty',
  username_too_long: 'must have at most 254 characters',
  username_characters: 'must not hold spaces, control or invisible characters',
} as const;

/** The name in its forms, or 400. */
export function acceptUsername(username: string): Extract<UsernameDecision, { ok: true }> {
  const decision = decideUsername(username);
  if (!decision.ok) throw badRequest(decision.reason, '/body/username', USERNAME_PROBLEMS[decision.reason]);
  return decision;
}

const PASSWORD_PROBLEMS = {
  password_too_short: 'must have at least 8 characters',
  password_too_long: 'must have at most 1024 bytes',
  password_equals_username: 'must differ from the username',
} as const;

/** 400 for a password that may not be set. */
export function acceptPassword(password: string, username: string): void {
  const decision = decidePassword(password, username);
  if (!decision.ok) throw badRequest(decision.reason, '/body/password', PASSWORD_PROBLEMS[decision.reason]);
}

/** Text for people: trimmed, one line, nothing invisible. */
export function acceptName(name: string, maximumLength: number): string {
  const trimmed = name.normalize('NFC').trim();
  if (trimmed.length === 0) throw badRequest('name_empty', '/body/name', 'must not be empty');
  if (trimmed.length > maximumLength) {
    throw badRequest('name_too_long', '/body/name', `must have at most ${maximumLength} characters`);
  }
  if (/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u.test(trimmed)) {
    throw badRequest('name_characters', '/body/name', 'must not hold control or invisible characters');
  }
  return trimmed;
}
