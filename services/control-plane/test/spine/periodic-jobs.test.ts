import { systemClock } from '@gpuaas/kernel';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { APPLICATION_ROLE, openDatabase } from '../../src/spine/database.js';
import { startHeartbeat } from '../../src/spine/heartbeat.js';
import { type PeriodicJob, startPeriodicJobs } from '../../src/spine/periodic-jobs.js';
import { cloneDatabase, type TestDatabase } from '../harness/database.js';
import { until } from '../harness/waiting.js';
import { quietLog } from './support.js';

let database: TestDatabase;
beforeAll(async () => {
  database = await cloneDatabase();
});
afterAll(() => database.drop());

const start = (jobs: readonly PeriodicJob[], leaseMilliseconds = 300, db = database.db) =>
  startPeriodicJobs({ db, jobs, clock: systemClock, log: quietLog, leaseMilliseconds });

/** A slow machine may have taken the lease away before the job looks at its signal for the first time. */
const untilAborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });

describe('a periodic job', () => {
  it('runs in one worker at a time and again after its interval', async () => {
    let running = 0;
    let most = 0;
    const runs: number[] = [];
    const job: PeriodicJob = {
      name: 'test.once-at-a-time',
      everyMilliseconds: 60,
      async run(db) {
        running += 1;
        most = Math.max(most, running);
        runs.push(performance.now());
        await sql`SELECT pg_sleep(0.03)`.execute(db);
        running -= 1;
      },
    };
    const workers = [start([job]), start([job]), start([job])];
    await until(() => runs.length >= 6);
    await Promise.all(workers.map((worker) => worker.stop()));
    expect(most).toBe(1);
    const gaps = runs.slice(1).map((at, index) => at - (runs[index] ?? 0));
    expect(Math.min(...gaps)).toBeGreaterThan(50);
  });

  it('that fails is recorded and runs again', async () => {
    let runs = 0;
    const worker = start([
      {
        name: 'test.failing',
        everyMilliseconds: 20,
        async run() {
          runs += 1;
          if (runs < 3) throw new Error('password=hunter2 postgresql://a:b@c/d');
        },
      },
    ]);
    const row = () =>
      database.db
        .selectFrom('periodic_jobs')
        .select(['last_error', 'consecutive_failures'])
        .where('name', '=', 'test.failing')
        .executeTakeFirst();
    const failed = await until(async () => {
      const found = await row();
      return found && found.consecutive_failures > 0 ? found : null;
    });
    expect(failed.last_error).not.toContain('a:b@');
    await until(async () => (await row())?.consecutive_failures === 0);
    await worker.stop();
  });

  it('is taken over from a worker that died in the middle, which is told that it lost it', async () => {
    const name = 'gpuaas-dying-worker';
    const dying = openDatabase({ url: database.url, role: APPLICATION_ROLE, poolSize: 2, applicationName: name });
    const owner = openDatabase({ url: database.url, poolSize: 1 });
    let told = false;
    let begun = false;
    const cutOff = start(
      [
        {
          name: 'test.taken-over',
          everyMilliseconds: 10,
          async run(_db, _ctx, signal) {
            begun = true;
            await untilAborted(signal);
            told = true;
          },
        },
      ],
      200,
      dying,
    );
    await until(() => begun);
    let takenOver = false;
    const other = start(
      [
        {
          name: 'test.taken-over',
          everyMilliseconds: 10,
          run: async () => {
            takenOver = true;
          },
        },
      ],
      200,
    );
    // From now on the first worker cannot reach the database any more.
    const cut = async () => {
      await sql`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = ${name}`.execute(owner);
      return takenOver && told;
    };
    await until(cut);
    await cutOff.stop();
    await other.stop();
    await Promise.all([dying.destroy(), owner.destroy()]);
  });

  it('is cut short when the process stops', async () => {
    let aborted = false;
    const worker = start([
      {
        name: 'test.cut-short',
        everyMilliseconds: 10,
        async run(_db, _ctx, signal) {
          await untilAborted(signal);
          aborted = true;
        },
      },
    ]);
    await until(
      async () =>
        (await database.db.selectFrom('periodic_jobs').select('name').where('name', '=', 'test.cut-short').execute())
          .length === 1,
    );
    await worker.stop();
    expect(aborted).toBe(true);
    const row = await database.db
      .selectFrom('periodic_jobs')
      .select('claimed_by')
      .where('name', '=', 'test.cut-short')
      .executeTakeFirstOrThrow();
    expect(row.claimed_by).toBeNull();
  });
});

describe('a heartbeat', () => {
  it('appears for its component and instance, and goes with a clean end', async () => {
    const rows = () =>
      database.db
        .selectFrom('component_heartbeats')
        .select(['component', 'instance_id', 'status', 'checked_at'])
        .execute();
    const beats = ['api', 'outbox-relay'].map((component) =>
      startHeartbeat({
        db: database.db,
        component,
        instanceId: 'one',
        applicationVersion: 'test',
        everyMilliseconds: 10,
        status: () => (component === 'api' ? 'healthy' : 'degraded'),
        log: quietLog,
      }),
    );
    const first = await until(async () => {
      const found = await rows();
      return found.length === 2 ? found : null;
    });
    expect(first.map((row) => [row.component, row.status]).sort()).toEqual([
      ['api', 'healthy'],
      ['outbox-relay', 'degraded'],
    ]);
    await until(async () =>
      (await rows()).every((row, index) => row.checked_at > (first[index]?.checked_at ?? row.checked_at)),
    );
    await Promise.all(beats.map((beat) => beat.stop()));
    expect(await rows()).toEqual([]);
  });
});
