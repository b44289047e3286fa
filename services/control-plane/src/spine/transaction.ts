import { setTimeout as delay } from 'node:timers/promises';
import type { Reader, Tx } from './operation.js';

/** Thrown inside a transaction that lost a race and may succeed when it is run again from the start. */
export class RetryTransaction extends Error {
  constructor(message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'RetryTransaction';
  }
}

const MAXIMUM_ATTEMPTS = 4;
const SERIALIZATION_FAILURE = '40001';
const DEADLOCK_DETECTED = '40P01';

/**
 * Runs `work` in one READ COMMITTED transaction; a deadlock, a serialization failure or a RetryTransaction rolls back
 * and runs it again, at most three times more, after a short random pause. Any other error rolls back and is thrown.
 */
export async function inTransaction<Result>(db: Reader, work: (tx: Tx) => Promise<Result>): Promise<Result> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await db.transaction().execute(work);
    } catch (error) {
      if (attempt >= MAXIMUM_ATTEMPTS || !mayBeRetried(error)) throw error;
      await delay(Math.random() * 10 * attempt);
    }
  }
}

function mayBeRetried(error: unknown): boolean {
  if (error instanceof RetryTransaction) return true;
  const state = sqlState(error);
  return state === SERIALIZATION_FAILURE || state === DEADLOCK_DETECTED;
}

/** The SQLSTATE of a PostgreSQL error, or undefined for any other error. */
export function sqlState(error: unknown): string | undefined {
  return textField(error, 'code');
}

/** The constraint that a PostgreSQL error names, or undefined. */
export function violatedConstraint(error: unknown): string | undefined {
  return textField(error, 'constraint');
}

function textField(error: unknown, name: string): string | undefined {
  if (!(error instanceof Error) || !(name in error)) return undefined;
  const value: unknown = Reflect.get(error, name);
  return typeof value === 'string' ? value : undefined;
}
