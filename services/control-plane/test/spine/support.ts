import { type Clock, childTrace, createLogger, systemClock } from '@gpuaas/kernel';
import type { CallContext } from '../../src/spine/operation.js';

export const quietLog = createLogger({ program: 'test', level: 'silent' });

export function systemContext(clock: Clock = systemClock): CallContext {
  return {
    principal: { kind: 'system', name: 'test' },
    requestId: 'request',
    correlationId: 'correlation',
    trace: childTrace(undefined),
    clock,
    log: quietLog,
    actorIp: null,
    userAgent: null,
  };
}

/** Time that runs `factor` times as fast as ours: what waits for minutes waits for milliseconds. */
export function fastClock(factor: number): Clock {
  const start = Date.now();
  return { now: () => new Date(start + (Date.now() - start) * factor) };
}

/** Signals that never come: whoever relies on them alone would hang. */
export const noSignals = { subscribe: () => () => undefined, onGap: () => () => undefined };
