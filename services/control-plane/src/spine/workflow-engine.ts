import { setTimeout as delay } from 'node:timers/promises';
import { DBOS } from '@dbos-inc/dbos-sdk';
import { migrateSystemDatabase } from '@dbos-inc/dbos-sdk/internal/system_database';
import { GlobalLogger } from '@dbos-inc/dbos-sdk/internal/telemetry/logs';
import { errorChain, type Logger, redactText } from '@gpuaas/kernel';
import { type Kysely, sql } from 'kysely';
import pg from 'pg';
import { z } from 'zod';
import type { Database } from './database.generated.js';
import { APPLICATION_ROLE, connectionConfig, openDatabase } from './database.js';
import type { EventSubscriber } from './relay.js';
import {
  WORKFLOW_CONSUMER,
  WORKFLOW_REQUESTED,
  type WorkflowInput,
  type WorkflowOutcome,
  type WorkflowRegistration,
  type WorkflowSteps,
} from './workflows.js';

/**
 * Workflows of another version are left to workers of that version. It is not the version of the program: a new
 * release has to continue what the old one began. Raise it only together with a change that cannot.
 */
const WORKFLOW_VERSION = '1';
const APPLICATION_NAME = 'gpuaas';
const HEARTBEAT_MILLISECONDS = 1_000;
/** A worker that has been silent for longer is taken for dead. If it was not, both runs meet at their next step. */
const SILENCE_MILLISECONDS = 6_000;
const TAKEOVER_BATCH = 200;
const DEFAULT_ATTEMPTS = 8;

export interface WorkflowEngineOptions {
  readonly databaseUrl: string;
  readonly registrations: readonly WorkflowRegistration[];
  /** a new one for each start of a process */
  readonly executorId: string;
  /** of the program, for operators */
  readonly applicationVersion: string;
  readonly log: Logger;
}

export interface WorkflowEngine {
  /** Starts and feeds the workflows that transactions ask for. Every relay must have it. */
  readonly subscribers: readonly EventSubscriber[];
  /** Runs an ended workflow again from one of its steps (0 = all of it); what came before keeps its results. */
  rerun(workflowId: string, fromStep: number): Promise<void>;
  /** Continues a cancelled or given-up workflow where it stood. */
  resume(workflowId: string): Promise<void>;
  /** Stops a workflow before its next step; nothing is taken back. */
  cancel(workflowId: string): Promise<void>;
  /** The finished steps of the current run, in order. */
  stepsOf(workflowId: string): Promise<readonly WorkflowStep[]>;
  /** Gives what is under way a moment to reach its next step and leaves the rest to others. */
  stop(): Promise<void>;
}

export interface WorkflowStep {
  readonly number: number;
  readonly name: string;
  readonly failed: boolean;
  readonly startedAt: Date | null;
  readonly endedAt: Date | null;
}

// Any fixed number will do; it only has to differ from other locks on the same database.
const MIGRATION_LOCK = '7236150017732582';
const MIGRATION_PAUSE_MILLISECONDS = 50;

/**
 * Makes or updates the tables of the workflow engine (schema `dbos`). `url` must be the owner's login. Processes that
 * start together wait for each other: the engine's own migrator does not expect a second one.
 */
export async function migrateWorkflowEngine(url: string, log?: Logger): Promise<void> {
  // DBOS.migrate does the same, but writes each grant to standard output.
  const logger = new GlobalLogger(undefined, { logger: log ? engineLog(log) : SILENT });
  const client = new pg.Client({ connectionString: url, application_name: 'gpuaas-migrations' });
  await client.connect();
  try {
    // Asked for again and again: a statement that waits has a snapshot, and indexes that the migrator builds
    // concurrently wait for the end of every older snapshot.
    while (!(await tryLock(client))) await delay(MIGRATION_PAUSE_MILLISECONDS);
    await migrateSystemDatabase(url, logger, 'dbos', APPLICATION_ROLE);
  } finally {
    // Closing the connection gives the lock back.
    await client.end();
  }
}

async function tryLock(client: pg.Client): Promise<boolean> {
  const { rows } = await client.query<{ locked: boolean }>('SELECT pg_try_advisory_lock($1) AS locked', [
    MIGRATION_LOCK,
  ]);
  return rows[0]?.locked === true;
}

/**
 * The engine is one a process. Control planes that share a process and a database (tests do) share it as well: the
 * first starts it, the last stops it.
 */
interface Running {
  readonly databaseUrl: string;
  readonly db: Kysely<Database>;
  readonly users: Set<WorkflowEngineOptions>;
  readonly ready: Promise<void>;
  readonly stop: () => Promise<void>;
}
let running: Running | null = null;
let lastStop: Promise<void> = Promise.resolve();

type Entrance = (input: WorkflowInput) => Promise<void>;
const entrances = new Map<string, Entrance>();

/** Starts the engine on a migrated database and begins to take over what dead workers have left. */
export async function startWorkflowEngine(options: WorkflowEngineOptions): Promise<WorkflowEngine> {
  await lastStop;
  if (running && running.databaseUrl !== options.databaseUrl) {
    throw new Error('the workflow engine of this process already works on another database');
  }
  if (running && options.registrations.some(({ name }) => !entrances.has(name))) {
    throw new Error('a workflow cannot be added while the engine runs');
  }
  for (const registration of options.registrations) enter(registration.name);
  running ??= launch(options);
  const shared = running;
  shared.users.add(options);
  await shared.ready;

  return {
    subscribers: [subscriberOf(shared)],
    rerun: (workflowId, fromStep) => rerun(shared.db, workflowId, fromStep),
    resume: (workflowId) => resume(shared.db, workflowId),
    cancel: (workflowId) => cancel(shared.db, workflowId),
    stepsOf: (workflowId) => stepsOf(shared.db, workflowId),
    async stop() {
      if (!shared.users.delete(options) || shared.users.size > 0) return;
      running = null;
      lastStop = shared.stop();
      await lastStop;
    },
  };
}

/** Makes a workflow known to the engine, which accepts that only before its start. Once a process is enough. */
function enter(name: string): void {
  if (entrances.has(name)) return;
  const entrance: Entrance = (input) => runRegistered(name, input);
  entrances.set(name, DBOS.registerWorkflow(entrance, { name, className: 'gpuaas' }));
}

function launch(options: WorkflowEngineOptions): Running {
  const { databaseUrl, executorId, log } = options;
  const db = openDatabase({
    url: databaseUrl,
    role: APPLICATION_ROLE,
    poolSize: 4,
    applicationName: 'gpuaas-workflows',
    onConnectionError: (error) => log.warn({ error: errorChain(error) }, 'a connection of the workflow engine broke'),
  });
  const pool = new pg.Pool(
    connectionConfig({
      url: databaseUrl,
      role: APPLICATION_ROLE,
      poolSize: 10,
      applicationName: 'gpuaas-workflow-engine',
      statementTimeoutMilliseconds: 0,
    }),
  );
  pool.on('error', (error) => log.warn({ error: errorChain(error) }, 'a connection of the workflow engine broke'));
  pool.on('connect', (client) => client.on('error', () => undefined));
  const stopping = new AbortController();
  let loop: Promise<void> = Promise.resolve();

  const begin = async (): Promise<void> => {
    // Before the engine: whatever this executor holds has a row by which others can see that it is alive.
    await beat(db, options);
    DBOS.setConfig({
      name: APPLICATION_NAME,
      applicationVersion: WORKFLOW_VERSION,
      executorID: executorId,
      systemDatabasePool: pool,
      systemDatabaseUrl: databaseUrl,
      runMigrations: false,
      logger: engineLog(log),
      enableOTLP: false,
    });
    await DBOS.launch();
    loop = watch(db, options, stopping.signal);
  };

  return {
    databaseUrl,
    db,
    users: new Set(),
    ready: begin(),
    async stop() {
      stopping.abort();
      await loop;
      await DBOS.shutdown({ workflowCompletionTimeoutMS: 1_000 });
      // Others need not wait for the silence: this executor says itself that it is gone.
      await db
        .updateTable('workflow_executors')
        .set((eb) => ({ stopped_at: eb.fn<Date>('clock_timestamp') }))
        .where('executor_id', '=', executorId)
        .execute()
        .catch((error: unknown) => log.warn({ error: errorChain(error) }, 'the executor could not be signed off'));
      await db.destroy();
      if (!pool.ended) await pool.end();
    },
  };
}

async function runRegistered(name: string, input: WorkflowInput): Promise<void> {
  const shared = running;
  // The newest user's registration: the others may be about to close what theirs works with.
  const registration = [...(shared?.users ?? [])]
    .reverse()
    .flatMap((user) => user.registrations)
    .find((each) => each.name === name);
  if (!shared || !registration) throw new Error(`no workflow ${name} here`);
  const runId = DBOS.workflowID ?? input.id;
  let outcome: WorkflowOutcome = 'completed';
  let failure: unknown;
  try {
    outcome = (await registration.run(input, stepsFor(shared.db, input.id))) ?? 'completed';
  } catch (error) {
    failure = error;
    outcome = (await isCancelled(runId)) ? 'cancelled' : 'failed_manual_intervention';
    if (outcome === 'cancelled') {
      // No further step runs in a cancelled workflow.
      await close(shared.db, input.id, runId, outcome, null);
      throw error;
    }
  }
  // Where the engine has been shut under the workflow this step cannot run either: then nothing is over, and another
  // worker goes on.
  const reason = failure === undefined ? null : redactText(errorChain(failure)).slice(0, 2_000);
  await DBOS.runStep(() => close(shared.db, input.id, runId, outcome, reason), {
    name: `close:${outcome}`,
    ...patience({}),
  });
  if (failure !== undefined) throw failure;
}

async function isCancelled(runId: string): Promise<boolean> {
  const status = await DBOS.getWorkflowStatus(runId).catch(() => null);
  return status?.status === 'CANCELLED';
}

async function close(
  db: Kysely<Database>,
  workflowId: string,
  runId: string,
  status: WorkflowOutcome,
  error: string | null,
): Promise<void> {
  await db
    .updateTable('workflow_runs')
    .set((eb) => ({
      status,
      error,
      updated_at: eb.fn<Date>('clock_timestamp'),
      closed_at: eb.fn<Date>('clock_timestamp'),
    }))
    .where('workflow_id', '=', workflowId)
    // A run that has been replaced by another does not speak for the workflow any more.
    .where((eb) => eb.or([eb('run_id', '=', runId), eb('run_id', 'is', null)]))
    .execute();
}

const patience = ({ attempts, firstPauseSeconds }: { attempts?: number; firstPauseSeconds?: number }) => ({
  retriesAllowed: true,
  maxAttempts: attempts ?? DEFAULT_ATTEMPTS,
  intervalSeconds: firstPauseSeconds ?? 1,
  backoffRate: 2,
});

function stepsFor(db: Kysely<Database>, workflowId: string): WorkflowSteps {
  return {
    step: (name, run, options = {}) => DBOS.runStep(run, { name, ...patience(options) }),
    receive: (topic, { timeoutSeconds }) => DBOS.recv<unknown>(topic, { timeoutSeconds }),
    sleep: (seconds) => DBOS.sleep(seconds * 1000),
    now: async () => new Date(await DBOS.now()),
    async compensating() {
      await DBOS.runStep(
        async () => {
          await db
            .updateTable('workflow_runs')
            .set((eb) => ({ status: 'compensating', updated_at: eb.fn<Date>('clock_timestamp') }))
            .where('workflow_id', '=', workflowId)
            .where('closed_at', 'is', null)
            .execute();
        },
        { name: 'compensating', ...patience({}) },
      );
    },
  };
}

const Requested = z.object({ workflow_id: z.string(), name: z.string() });
const Message = z.object({ workflow_id: z.string(), topic: z.string(), content: z.unknown() });

function subscriberOf(shared: Running): EventSubscriber {
  return {
    ...WORKFLOW_CONSUMER,
    async handle(tx, _ctx, event) {
      await shared.ready;
      if (event.eventType === WORKFLOW_REQUESTED) {
        const { workflow_id: id, name } = Requested.parse(event.payload);
        const entrance = entrances.get(name);
        if (!entrance) throw new Error(`no workflow ${name} here`);
        // First the row: its lock keeps the workflow from closing it before it is marked as running.
        await tx
          .updateTable('workflow_runs')
          .set((eb) => ({
            status: 'running',
            run_id: id,
            started_at: eb.fn<Date>('clock_timestamp'),
            updated_at: eb.fn<Date>('clock_timestamp'),
          }))
          .where('workflow_id', '=', id)
          .where('status', '=', 'pending')
          .execute();
        await DBOS.startWorkflow(entrance, { workflowID: id })({ id, correlationId: event.correlationId });
        return;
      }
      const { workflow_id: id, topic, content } = Message.parse(event.payload);
      const run = await tx
        .selectFrom('workflow_runs')
        .select('run_id')
        .where('workflow_id', '=', id)
        .executeTakeFirst();
      if (!run) throw new Error(`no workflow ${id}`);
      await DBOS.send(run.run_id ?? id, content ?? null, topic, event.eventId);
    },
  };
}

async function beat(db: Kysely<Database>, options: WorkflowEngineOptions): Promise<void> {
  await sql`
    INSERT INTO workflow_executors (executor_id, application_version)
    VALUES (${options.executorId}, ${options.applicationVersion})
    ON CONFLICT (executor_id) DO UPDATE SET beat_at = clock_timestamp(), stopped_at = NULL`.execute(db);
}

async function watch(db: Kysely<Database>, options: WorkflowEngineOptions, stopping: AbortSignal): Promise<void> {
  let failing = false;
  while (!stopping.aborted) {
    try {
      await beat(db, options);
      await takeOver(db, options);
      failing = false;
    } catch (error) {
      if (!failing) options.log.warn({ error: errorChain(error) }, 'the workflow engine cannot report itself');
      failing = true;
    }
    await delay(HEARTBEAT_MILLISECONDS, undefined, { signal: stopping }).catch(() => undefined);
  }
}

/** Puts what dead executors held back into the queue. One worker does that at a time; the others go on. */
async function takeOver(db: Kysely<Database>, options: WorkflowEngineOptions): Promise<void> {
  await db.transaction().execute(async (tx) => {
    const elected = await sql<{ elected: boolean }>`
      SELECT pg_try_advisory_xact_lock(hashtextextended('workflow_takeover', 0)) AS elected`.execute(tx);
    if (!elected.rows[0]?.elected) return;
    const dead = await sql<{ executor_id: string; forgettable: boolean }>`
      SELECT executor_id, COALESCE(stopped_at, beat_at) < clock_timestamp() - interval '10 minutes' AS forgettable
      FROM workflow_executors
      WHERE stopped_at IS NOT NULL
         OR beat_at < clock_timestamp() - ${SILENCE_MILLISECONDS} * interval '1 millisecond'`.execute(tx);
    if (dead.rows.length === 0) return;
    const held = await DBOS.listWorkflows({
      status: 'PENDING',
      executorId: dead.rows.map((row) => row.executor_id),
      limit: TAKEOVER_BATCH,
      loadInput: false,
      loadOutput: false,
    });
    if (held.length > 0) {
      await DBOS.resumeWorkflows(held.map((workflow) => workflow.workflowID));
      options.log.warn(
        { workflows: held.length, executors: [...new Set(held.map((workflow) => workflow.executorId))] },
        'took over the workflows of dead executors',
      );
      return;
    }
    const forgotten = dead.rows.filter((row) => row.forgettable).map((row) => row.executor_id);
    if (forgotten.length > 0) {
      await tx.deleteFrom('workflow_executors').where('executor_id', 'in', forgotten).execute();
    }
  });
}

async function currentRun(db: Kysely<Database>, workflowId: string): Promise<string> {
  const row = await db
    .selectFrom('workflow_runs')
    .select('run_id')
    .where('workflow_id', '=', workflowId)
    .executeTakeFirst();
  if (!row?.run_id) throw new Error(`workflow ${workflowId} has not been started`);
  return row.run_id;
}

async function rerun(db: Kysely<Database>, workflowId: string, fromStep: number): Promise<void> {
  const before = await currentRun(db, workflowId);
  const after = await DBOS.forkWorkflow(before, fromStep, { applicationVersion: WORKFLOW_VERSION });
  const moved = await db
    .updateTable('workflow_runs')
    .set((eb) => ({
      run_id: after.workflowID,
      status: 'running',
      error: null,
      closed_at: null,
      updated_at: eb.fn<Date>('clock_timestamp'),
    }))
    .where('workflow_id', '=', workflowId)
    .where('run_id', '=', before)
    .executeTakeFirst();
  if (moved.numUpdatedRows === 0n) {
    await DBOS.cancelWorkflow(after.workflowID);
    throw new Error(`workflow ${workflowId} was run again by somebody else`);
  }
}

async function resume(db: Kysely<Database>, workflowId: string): Promise<void> {
  const runId = await currentRun(db, workflowId);
  await db
    .updateTable('workflow_runs')
    .set((eb) => ({ status: 'running', error: null, closed_at: null, updated_at: eb.fn<Date>('clock_timestamp') }))
    .where('workflow_id', '=', workflowId)
    .where('run_id', '=', runId)
    .execute();
  await DBOS.resumeWorkflow(runId);
}

async function cancel(db: Kysely<Database>, workflowId: string): Promise<void> {
  const runId = await currentRun(db, workflowId);
  await DBOS.cancelWorkflow(runId);
  await db
    .updateTable('workflow_runs')
    .set((eb) => ({
      status: 'cancelled',
      closed_at: eb.fn<Date>('clock_timestamp'),
      updated_at: eb.fn<Date>('clock_timestamp'),
    }))
    .where('workflow_id', '=', workflowId)
    .where('run_id', '=', runId)
    .where('closed_at', 'is', null)
    .execute();
}

async function stepsOf(db: Kysely<Database>, workflowId: string): Promise<readonly WorkflowStep[]> {
  const steps = await DBOS.listWorkflowSteps(await currentRun(db, workflowId));
  return (steps ?? []).map((step) => ({
    number: step.functionID,
    name: step.name,
    failed: step.error !== null,
    startedAt: step.startedAtEpochMs === undefined ? null : new Date(step.startedAtEpochMs),
    endedAt: step.completedAtEpochMs === undefined ? null : new Date(step.completedAtEpochMs),
  }));
}

const nothing = (): void => undefined;
const SILENT = { debug: nothing, info: nothing, warn: nothing, error: nothing };

/** The engine's own messages are about itself: below ours in weight. */
function engineLog(log: Logger) {
  const own = log.child({ part: 'workflow-engine' });
  const text = (entry: unknown): string => (entry instanceof Error ? errorChain(entry) : String(entry));
  return {
    debug: (entry: unknown) => own.trace(text(entry)),
    info: (entry: unknown) => own.debug(text(entry)),
    warn: (entry: unknown) => own.warn(text(entry)),
    error: (entry: unknown) => own.error(text(entry)),
  };
}
