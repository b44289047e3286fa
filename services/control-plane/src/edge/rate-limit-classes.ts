import type { OperationDefinition } from '@gpuaas/contract';
import type { RateLimitClass } from './rate-limit.js';

/** Health checks and what hosts poll are not limited; their number is bounded by the fleet. */
const UNLIMITED = new Set(['getHealthz', 'healthCheck']);

/** The allowance an operation draws on: reads have a wide one of their own, so that a console page never starves a command. */
export function limitClassOf(definition: OperationDefinition): RateLimitClass {
  const path = definition.routes[0]?.openapiPath ?? '';
  if (UNLIMITED.has(definition.operationId) || path.endsWith('/healthz')) return 'none';
  if (path.startsWith('/internal/') || path.startsWith('/api/v1/bootstrap/') || path.startsWith('/api/v1/internal/'))
    return 'none';
  if (path.startsWith('/api/v1/auth/') && definition.security === 'none') return 'sign_in';
  if (path.endsWith('/terminal-token')) return 'terminal_token';
  if (definition.method === 'GET') return 'read';
  return definition.domain === 'finance' ? 'financial' : 'command';
}
