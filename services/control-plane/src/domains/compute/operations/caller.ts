import type { ProjectId, ServiceAccountId, UserId } from '@gpuaas/kernel';
import type { RequestContext } from '../../../spine/operation.js';
import { administersProject, type Principal, type ProjectScope } from '../../../spine/principal.js';
import { refuse } from '../../../spine/refusal.js';
import type { LockedAllocation } from '../store/allocations.js';

/** Whose quota and money a launch uses: a robot's is that of the person who made it. */
export interface Requester {
  readonly userId: UserId;
  readonly serviceAccountId: ServiceAccountId | null;
}

export function requesterOf(principal: Principal): Requester {
  switch (principal.kind) {
    case 'user':
      return { userId: principal.userId, serviceAccountId: null };
    case 'service_account':
      return { userId: principal.createdByUserId, serviceAccountId: principal.serviceAccountId };
    default:
      throw refuse('insufficient_permissions', { reason: 'user_required' });
  }
}

/** The project of a request whose policy demands one. */
export function projectOf(ctx: RequestContext): ProjectScope {
  if (ctx.project === null) throw refuse('invalid_request', { reason: 'project_context_required' });
  return ctx.project;
}

export function projectIdOf(ctx: RequestContext): ProjectId {
  return projectOf(ctx).projectId;
}

/**
 * Lets the owner of an allocation pass, and who administers its project. A robot owns what it launched itself, not
 * what the person who made it did.
 */
export function requireOwnership(
  ctx: RequestContext,
  allocation: Pick<LockedAllocation, 'requestedByUserId' | 'serviceAccountId'>,
): void {
  if (!owns(ctx, allocation)) throw refuse('ownership_required', { reason: 'owner_or_project_admin_required' });
}

export function owns(
  ctx: RequestContext,
  allocation: Pick<LockedAllocation, 'requestedByUserId' | 'serviceAccountId'>,
): boolean {
  const { principal } = ctx;
  if (principal.kind === 'service_account') return allocation.serviceAccountId === principal.serviceAccountId;
  if (principal.kind !== 'user') return false;
  if (allocation.requestedByUserId === principal.userId) return true;
  return ctx.project !== null && administersProject(ctx.project);
}
