import { setTimeout as delay } from 'node:timers/promises';
import { type Clock, childTrace, errorChain, type Logger, newId, redactText } from '@gpuaas/kernel';
import { sql } from 'kysely';
import type { CallContext, Reader } from './operation.js';

/** Work that one elected worker repeats: sweeps, raters, retention. A run may be cut short and is then repeated. */
export interface PeriodicJob {
  /** stable: lock, metrics and audit carry it */
  readonly name: string;
  readonly everyMilliseconds: number;
  /** opens its own transactions; `db` is the read-write pool */
  run(db: Reader, ctx: CallContext, signal: AbortSignal): Promise<void>;
}

export interface JobObservation {
  readonly name: string;
  readonly outcome: 'completed' | 'failed';
  readonly seconds: number;
}

export interface PeriodicJobsOptions {
  readonly db: Reader;
  readonly jobs: readonly PeriodicJob[];
  readonly clock: Clock;
  readonly log: Logger;
  /** after how long another worker takes over from one that died in the middle */
  readonly leaseMilliseconds?: number;
  readonly observe?: (observation: JobObservation) => void;
}

const DEFAULT_LEASE_MILLISECONDS = 15_000;
const LONGEST_PAUSE_MILLISECONDS = 30_000;

/**
 * Repeats each job in one worker at a time, whichever comes first; intervals are counted from start to start in the
 * server's time. A worker that loses its lease (it was cut off, or hung) is told by the job's signal to stop.
 */
export function startPeriodicJobs(options: PeriodicJobsOptions): { stop(): Promise<void> } {
  const stopping = new AbortController();
  const names = new Set(options.jobs.map((job) => job.name));
  if (names.size !== options.jobs.length) throw new Error('two periodic jobs have the same name');
  const loops = options.jobs.map((job) => repeat(job, options, stopping.signal));
  return {
    async stop() {
      stopping.abort();
      await Promise.all(loops);
    },
  };
}

async function repeat(job: PeriodicJob, options: PeriodicJobsOptions, stopping: AbortSignal): Promise<void> {
  const { db, log } = options;
  const holder = newId<'job-holder'>();
  const leaseMilliseconds = options.leaseMilliseconds ?? DEFAULT_LEASE_MILLISECONDS;
  let failing = false;
  while (!stopping.aborted) {
    let pause = Math.min(job.everyMilliseconds, LONGEST_PAUSE_MILLISECONDS);
    try {
      const turn = await takeTurn(db, job, holder, leaseMilliseconds);
      if (turn.taken) {
        await runHeld(job, options, holder, leaseMilliseconds, stopping);
        pause = 0;
      } else {
        pause = Math.min(turn.waitMilliseconds, LONGEST_PAUSE_MILLISECONDS);
      }
      failing = false;
    } catch (error) {
      if (!failing) log.warn({ job: job.name, error: errorChain(error) }, 'a periodic job cannot be scheduled');
      failing = true;
      pause = Math.min(pause, 1_000);
    }
    // A little disorder keeps workers from asking all at once.
    if (pause > 0)
      await delay(pause * (1 + Math.random() * 0.05) + 1, undefined, { signal: stopping }).catch(() => undefined);
  }
}

type Turn = { readonly taken: true } | { readonly taken: false; readonly waitMilliseconds: number };

async function takeTurn(db: Reader, job: PeriodicJob, holder: string, leaseMilliseconds: number): Promise<Turn> {
  const { rows } = await sql<{ taken: boolean; wait: number }>`
    INSERT INTO periodic_jobs AS job (name, every_milliseconds, claimed_by, claimed_until, last_started_at)
    VALUES (${job.name}, ${job.everyMilliseconds}, ${holder},
            clock_timestamp() + ${leaseMilliseconds} * interval '1 millisecond', clock_timestamp())
    ON CONFLICT (name) DO UPDATE
      SET claimed_by = excluded.claimed_by, claimed_until = excluded.claimed_until,
          last_started_at = excluded.last_started_at, every_milliseconds = excluded.every_milliseconds
      WHERE job.next_run_at <= clock_timestamp()
        AND (job.claimed_until IS NULL OR job.claimed_until < clock_timestamp())
    RETURNING true AS taken, 0 AS wait`.execute(db);
  if (rows.length > 0) return { taken: true };
  const waiting = await sql<{ wait: number }>`
    SELECT GREATEST(0, EXTRACT(EPOCH FROM GREATEST(next_run_at, claimed_until) - clock_timestamp()) * 1000)::float8 AS wait
    FROM periodic_jobs WHERE name = ${job.name}`.execute(db);
  return { taken: false, waitMilliseconds: waiting.rows[0]?.wait ?? job.everyMilliseconds };
}

async function runHeld(
  job: PeriodicJob,
  options: PeriodicJobsOptions,
  holder: string,
  leaseMilliseconds: number,
  stopping: AbortSignal,
): Promise<void> {
  const { db, log } = options;
  const finished = new AbortController();
  const lost = new AbortController();
  const keeping = keepLease(db, job.name, holder, leaseMilliseconds, finished.signal, lost);
  const started = performance.now();
  let failure: string | null = null;
  try {
    await job.run(db, jobContext(job.name, options), AbortSignal.any([stopping, lost.signal]));
  } catch (error) {
    failure = errorChain(error);
    if (!stopping.aborted) log.error({ job: job.name, error: failure }, 'a periodic job failed');
  } finally {
    finished.abort();
    await keeping;
  }
  options.observe?.({
    name: job.name,
    outcome: failure === null ? 'completed' : 'failed',
    seconds: (performance.now() - started) / 1000,
  });
  await sql`
    UPDATE periodic_jobs
    SET claimed_by = NULL, claimed_until = NULL, last_finished_at = clock_timestamp(),
        last_error = ${failure === null ? null : redactText(failure).slice(0, 2_000)},
        consecutive_failures = CASE WHEN ${failure === null} THEN 0 ELSE consecutive_failures + 1 END,
        next_run_at = GREATEST(clock_timestamp(), last_started_at + ${job.everyMilliseconds} * interval '1 millisecond')
    WHERE name = ${job.name} AND claimed_by = ${holder}`.execute(db);
}

async function keepLease(
  db: Reader,
  name: string,
  holder: string,
  leaseMilliseconds: number,
  finished: AbortSignal,
  lost: AbortController,
): Promise<void> {
  let expires = performance.now() + leaseMilliseconds;
  while (!finished.aborted && !lost.signal.aborted) {
    await delay(leaseMilliseconds / 3, undefined, { signal: finished }).catch(() => undefined);
    if (finished.aborted) return;
    const asked = performance.now();
    try {
      const kept = await sql`
        UPDATE periodic_jobs SET claimed_until = clock_timestamp() + ${leaseMilliseconds} * interval '1 millisecond'
        WHERE name = ${name} AND claimed_by = ${holder} RETURNING 1 AS kept`.execute(db);
      if (kept.rows.length === 0) lost.abort();
      else expires = asked + leaseMilliseconds;
    } catch {
      // The database is away; while the lease lasts nobody else can have taken it.
      if (performance.now() >= expires) lost.abort();
    }
  }
}

/** The context of one run: its own correlation id, the job as the actor. */
export function jobContext(name: string, options: { readonly clock: Clock; readonly log: Logger }): CallContext {
  const correlationId = newId<'correlation'>();
  return {
    principal: { kind: 'system', name },
    requestId: correlationId,
    correlationId,
    trace: childTrace(undefined),
    clock: options.clock,
    log: options.log.child({ job: name, correlationId }),
    actorIp: null,
    userAgent: null,
  };
}
