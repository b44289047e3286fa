import type { Reader, Tx } from '../../../spine/operation.js';

export interface AttemptBucket {
  readonly bucket: string;
  readonly limit: number;
  readonly windowSeconds: number;
}

export type AttemptVerdict =
  | { readonly allowed: true }
  | { readonly allowed: false; readonly retryAfterSeconds: number };

/**
 * Counts an attempt in every bucket before it is made, so that attempts at the same moment cannot pass together.
 * Commits at once: an attempt counts whatever becomes of it. All processes share the counters.
 */
export async function countAttempt(db: Reader, buckets: readonly AttemptBucket[], now: Date): Promise<AttemptVerdict> {
  // one order for all, so that two attempts never wait for each other in a circle
  const ordered = [...buckets].sort((left, right) => (left.bucket < right.bucket ? -1 : 1));
  const rows = await db
    .insertInto('authentication_attempts')
    .values(ordered.map((bucket) => ({ bucket: bucket.bucket, window_start: windowStart(bucket, now), attempts: 1 })))
    .onConflict((conflict) =>
      conflict
        .columns(['bucket', 'window_start'])
        .doUpdateSet((eb) => ({ attempts: eb('authentication_attempts.attempts', '+', 1) })),
    )
    .returning(['bucket', 'attempts'])
    .execute();
  const waits = ordered.flatMap((bucket) => {
    const counted = rows.find((row) => row.bucket === bucket.bucket);
    if (counted === undefined) throw new Error('an attempt was not counted');
    if (counted.attempts <= bucket.limit) return [];
    const end = windowStart(bucket, now).getTime() + bucket.windowSeconds * 1000;
    return [Math.max(1, Math.ceil((end - now.getTime()) / 1000))];
  });
  return waits.length === 0 ? { allowed: true } : { allowed: false, retryAfterSeconds: Math.max(...waits) };
}

/** Takes one attempt back that turned out to be good. */
export async function forgiveAttempt(tx: Tx, buckets: readonly AttemptBucket[], now: Date): Promise<void> {
  for (const bucket of [...buckets].sort((left, right) => (left.bucket < right.bucket ? -1 : 1))) {
    await tx
      .updateTable('authentication_attempts')
      .set((eb) => ({ attempts: eb('attempts', '-', 1) }))
      .where('bucket', '=', bucket.bucket)
      .where('window_start', '=', windowStart(bucket, now))
      .where('attempts', '>', 0)
      .execute();
  }
}

function windowStart(bucket: AttemptBucket, now: Date): Date {
  const length = bucket.windowSeconds * 1000;
  return new Date(Math.floor(now.getTime() / length) * length);
}

/** True for the first caller of an actor, action and minute; the others are already on record. */
export async function markDenial(tx: Tx, actor: string, action: string, now: Date): Promise<boolean> {
  const minute = new Date(Math.floor(now.getTime() / 60_000) * 60_000);
  const result = await tx
    .insertInto('denial_marks')
    .values({ actor, action, minute })
    .onConflict((conflict) => conflict.doNothing())
    .executeTakeFirst();
  return (result.numInsertedOrUpdatedRows ?? 0n) > 0n;
}
