import { type Clock, childTrace, type Logger, newId } from '@gpuaas/kernel';
import type { CallContext } from '../../spine/operation.js';

/** The context of work that nobody asked for: sweeps, polls that were recorded together. */
export function systemContext(name: string, clock: Clock, log: Logger): CallContext {
  const id = newId();
  return {
    principal: { kind: 'system', name },
    requestId: id,
    correlationId: id,
    trace: childTrace(undefined),
    clock,
    log,
    actorIp: null,
    userAgent: null,
  };
}
