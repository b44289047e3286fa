import type { Schema } from '@gpuaas/contract';
import { errorChain, type Logger } from '@gpuaas/kernel';
import { Refusal } from '../spine/refusal.js';
import { sqlState } from '../spine/transaction.js';

/** What a failed request is answered with. */
export interface ErrorAnswer {
  readonly status: number;
  readonly body: Schema<'ErrorResponse'>;
  readonly headers: Readonly<Record<string, string>>;
}

const CONNECTION_TROUBLE = /^(08|57P0|53)/;
/** What the driver says without a code: of a connection that broke, also before the statement, and of one it never got. */
const DRIVER_TROUBLE = /Connection terminated|is not queryable|timeout exceeded when trying to connect/i;
const NETWORK_TROUBLE = new Set(['ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'ETIMEDOUT']);

/**
 * Turns whatever a request failed with into the contract's error. Refusals keep their words; a database out of reach
 * is 503; all else is 500 without a trace of the cause, which goes to the log under the same correlation id.
 */
export function errorAnswer(error: unknown, correlationId: string, log: Logger): ErrorAnswer {
  const refusal = error instanceof Refusal ? error : refusalFor(error, log);
  return {
    status: refusal.status,
    headers: refusal.retryAfterSeconds === undefined ? {} : { 'retry-after': String(refusal.retryAfterSeconds) },
    body: {
      code: refusal.code,
      message: refusal.message,
      correlation_id: correlationId,
      ...(refusal.details && { details: { ...refusal.details } }),
    },
  };
}

function refusalFor(error: unknown, log: Logger): Refusal {
  if (isUnreachable(error)) {
    log.error({ err: error }, 'database out of reach');
    return new Refusal('service_unavailable', {
      details: { reason: 'database_unavailable' },
      message: 'a part of the platform is out of reach; try again',
      retryAfterSeconds: 2,
      cause: error,
    });
  }
  log.error({ err: error, chain: errorChain(error) }, 'request failed');
  return new Refusal('internal_error', { message: 'the request failed inside the platform', cause: error });
}

function isUnreachable(error: unknown): boolean {
  const state = sqlState(error) ?? '';
  if (CONNECTION_TROUBLE.test(state) || NETWORK_TROUBLE.has(state)) return true;
  return error instanceof Error && DRIVER_TROUBLE.test(error.message);
}
