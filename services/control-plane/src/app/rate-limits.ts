import type { Clock } from '@gpuaas/kernel';
import { LRUCache } from 'lru-cache';
import type { RateLimitClass } from '../edge/rate-limit.js';
import type { Reader } from '../spine/operation.js';
import type { Policies, PolicyKey } from '../spine/policy-registry.js';
import type { Principal } from '../spine/principal.js';

/** A changed number is in force within this time, without a query for each request. */
const REMEMBERED_MILLISECONDS = 5_000;

const KEY_OF_CLASS = {
  command: 'rate_limit.api_requests_per_minute',
  read: 'rate_limit.console_reads_per_minute',
  financial: 'rate_limit.financial_requests_per_minute',
  terminal_token: 'rate_limit.terminal_token_requests_per_minute',
  sign_in: 'rate_limit.api_requests_per_minute',
} as const satisfies Record<Exclude<RateLimitClass, 'none'>, PolicyKey>;

/** Reads the allowance of a principal from the policy registry; operators read pages at the wider number of theirs. */
export function rateLimits(parts: { readonly db: Reader; readonly policies: Policies; readonly clock: Clock }) {
  const remembered = new LRUCache<string, { perMinute: number; until: number }>({ max: 50_000 });

  return async (limitClass: RateLimitClass, principal: Principal): Promise<number | null> => {
    if (limitClass === 'none') return null;
    const operator = limitClass === 'read' && principal.kind === 'user' && principal.capabilities.size > 0;
    const key = operator ? 'rate_limit.admin_overview_requests_per_minute' : KEY_OF_CLASS[limitClass];
    const subject = subjectOf(principal);
    const name = `${key} ${subject.userId ?? ''} ${subject.projectId ?? ''} ${subject.tenantId ?? ''}`;
    const now = parts.clock.now().getTime();
    const known = remembered.get(name);
    if (known && known.until > now && known.until <= now + REMEMBERED_MILLISECONDS) return known.perMinute;
    const perMinute = await parts.policies.policyNumber(parts.db, key, subject);
    remembered.set(name, { perMinute, until: now + REMEMBERED_MILLISECONDS });
    return perMinute;
  };
}

function subjectOf(principal: Principal): { userId?: string; projectId?: string; tenantId?: string } {
  switch (principal.kind) {
    case 'user':
      return { userId: principal.userId, ...(principal.tenantId !== null && { tenantId: principal.tenantId }) };
    case 'service_account':
      return { projectId: principal.projectId, tenantId: principal.tenantId };
    case 'shared_runtime_operator':
      return { tenantId: principal.tenantId };
    case 'node':
    case 'system':
    case 'anonymous':
      return {};
  }
}
