import { randomUUID } from 'node:crypto';
import { systemClock } from '@gpuaas/kernel';
import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { openDatabase } from '../../src/spine/database.js';
import { type Relay, startRelay } from '../../src/spine/relay.js';
import { startWorkflowEngine, type WorkflowEngine } from '../../src/spine/workflow-engine.js';
import { sendToWorkflow, startWorkflow, type WorkflowRegistration } from '../../src/spine/workflows.js';
import { cloneDatabase, type TestDatabase } from '../harness/database.js';
import { type Program, startProgram } from '../harness/program.js';
import { until } from '../harness/waiting.js';
import { noSignals, quietLog, systemContext } from './support.js';

let database: TestDatabase;
beforeAll(async () => {
  database = await cloneDatabase({ poolSize: 20 });
  const owner = openDatabase({ url: database.url, poolSize: 1 });
  await sql`CREATE TABLE effects (workflow text, number int, PRIMARY KEY (workflow, number))`.execute(owner);
  await sql`CREATE TABLE tries (workflow text, number int, executor text)`.execute(owner);
  await owner.destroy();
});
afterAll(() => database.drop());

const start = (name: string, id: string = randomUUID()) =>
  database.db.transaction().execute(async (tx) => {
    const started = await startWorkflow(tx, systemContext(), { name, id, family: 'unknown', resourceType: 'test' });
    return { id, started };
  });
const send = (workflowId: string, topic: string, content: unknown) =>
  database.db.transaction().execute((tx) => sendToWorkflow(tx, systemContext(), { workflowId, topic, content }));
const runOf = (id: string) =>
  database.db
    .selectFrom('workflow_runs')
    .select(['status', 'error', 'run_id', 'started_at', 'closed_at'])
    .where('workflow_id', '=', id)
    .executeTakeFirstOrThrow();
const reaches = (id: string, status: string) =>
  until(async () => (await runOf(id)).status === status, {
    what: `workflow to be ${status}`,
    timeoutMilliseconds: 45_000,
  });

describe('a workflow in this process', () => {
  let relay: Relay | null = null;
  let engine: WorkflowEngine | null = null;
  afterEach(async () => {
    await relay?.stop();
    await engine?.stop();
    relay = null;
    engine = null;
  });

  async function run(...registrations: WorkflowRegistration[]): Promise<WorkflowEngine> {
    engine = await startWorkflowEngine({
      databaseUrl: database.url,
      registrations,
      executorId: randomUUID(),
      applicationVersion: 'test',
      log: quietLog,
    });
    relay = startRelay({
      db: database.db,
      subscribers: engine.subscribers,
      signals: noSignals,
      clock: systemClock,
      log: quietLog,
      pollMilliseconds: 10,
    });
    return engine;
  }

  it('runs its steps and ends as it says', async () => {
    const seen: unknown[] = [];
    await run(
      {
        name: 'local.plain',
        run: async (input, steps) => {
          seen.push(await steps.step('one', async () => ({ id: input.id })));
        },
      },
      { name: 'local.reconciled', run: async () => 'reconciled' },
    );
    const plain = await start('local.plain');
    const reconciled = await start('local.reconciled');
    await reaches(plain.id, 'completed');
    await reaches(reconciled.id, 'reconciled');
    expect(seen).toEqual([{ id: plain.id }]);
    const row = await runOf(plain.id);
    expect(row.started_at).not.toBeNull();
    expect(row.closed_at).not.toBeNull();
  });

  it('is one workflow however often it is started', async () => {
    let runs = 0;
    await run({
      name: 'local.once',
      run: async (_input, steps) => {
        await steps.step('count', async () => {
          runs += 1;
        });
      },
    });
    const id = randomUUID();
    const starts = await Promise.all([1, 2, 3].map(() => start('local.once', id)));
    expect(starts.filter(({ started }) => started).length).toBe(1);
    await reaches(id, 'completed');
    expect((await start('local.once', id)).started).toBe(false);
    expect(runs).toBe(1);
  });

  it('is not started by a transaction that rolls back', async () => {
    await run({ name: 'local.never', run: async () => undefined });
    const id = randomUUID();
    await database.db
      .transaction()
      .execute(async (tx) => {
        await startWorkflow(tx, systemContext(), { name: 'local.never', id, family: 'unknown', resourceType: 'test' });
        throw new Error('no');
      })
      .catch(() => undefined);
    expect(
      await database.db.selectFrom('workflow_runs').select('name').where('workflow_id', '=', id).execute(),
    ).toEqual([]);
  });

  it('receives messages that were sent in the transaction that started it, and null when none comes', async () => {
    const got: unknown[] = [];
    await run({
      name: 'local.waiting',
      async run(_input, steps) {
        got.push(
          await steps.receive('first', { timeoutSeconds: 30 }),
          await steps.receive('second', { timeoutSeconds: 0.05 }),
        );
      },
    });
    const id = randomUUID();
    await database.db.transaction().execute(async (tx) => {
      await startWorkflow(tx, systemContext(), { name: 'local.waiting', id, family: 'unknown', resourceType: 'test' });
      await sendToWorkflow(tx, systemContext(), { workflowId: id, topic: 'first', content: { status: 'completed' } });
    });
    await reaches(id, 'completed');
    expect(got).toEqual([{ status: 'completed' }, null]);
  });

  it('tries a failing step again and, once that does not help, waits for a person, with the reason', async () => {
    let tries = 0;
    const engineHere = await run({
      name: 'local.failing',
      async run(_input, steps) {
        await steps.step('fine', async () => 'kept');
        await steps.step(
          'bad',
          async () => {
            tries += 1;
            if (tries < 4) throw new Error('postgresql://user:secret@host/db refused');
          },
          { attempts: 3, firstPauseSeconds: 0.01 },
        );
      },
    });
    const { id } = await start('local.failing');
    await reaches(id, 'failed_manual_intervention');
    expect(tries).toBe(3);
    expect((await runOf(id)).error).toContain('refused');
    expect((await runOf(id)).error).not.toContain('secret');
    expect((await engineHere.stepsOf(id)).map((step) => [step.name, step.failed]).slice(0, 2)).toEqual([
      ['fine', false],
      ['bad', true],
    ]);
    // Run again from the step that failed: what came before is not done again.
    await engineHere.rerun(id, 1);
    await reaches(id, 'completed');
    expect(tries).toBe(4);
  });

  it('shows that it takes back what it did, and can be cancelled', async () => {
    const engineHere = await run({
      name: 'local.compensating',
      async run(_input, steps) {
        await steps.compensating();
        await steps.receive('never', { timeoutSeconds: 60 });
      },
    });
    const { id } = await start('local.compensating');
    await reaches(id, 'compensating');
    await engineHere.cancel(id);
    await reaches(id, 'cancelled');
  });

  it('goes on where it was after the process stopped and another took over', async () => {
    const done: string[] = [];
    const registration: WorkflowRegistration = {
      name: 'local.survivor',
      async run(_input, steps) {
        await steps.step('before', async () => {
          done.push('before');
        });
        await steps.receive('go', { timeoutSeconds: 60 });
        await steps.step('after', async () => {
          done.push('after');
        });
      },
    };
    await run(registration);
    const { id } = await start('local.survivor');
    await until(() => done.length === 1);
    await relay?.stop();
    await engine?.stop();
    expect((await runOf(id)).status).toBe('running');
    await run(registration);
    await send(id, 'go', true);
    await reaches(id, 'completed');
    expect(done).toEqual(['before', 'after']);
  });

  it('survives the loss of every connection of its engine', async () => {
    const done: string[] = [];
    await run({
      name: 'local.cut-off',
      async run(_input, steps) {
        await steps.step('before', async () => {
          done.push('before');
        });
        await steps.receive('go', { timeoutSeconds: 60 });
        await steps.step('after', async () => {
          done.push('after');
        });
      },
    });
    const { id } = await start('local.cut-off');
    await until(() => done.length === 1);
    const owner = openDatabase({ url: database.url, poolSize: 1 });
    const cut = async () => {
      const { rows } = await sql`
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name LIKE 'gpuaas-workflow%'`.execute(owner);
      return rows.length > 0;
    };
    await until(cut);
    await until(cut);
    await send(id, 'go', true);
    await until(cut);
    await owner.destroy();
    await reaches(id, 'completed');
    expect(done).toEqual(['before', 'after']);
  });

  it('is shared by control planes of one process; the last one to stop ends it', async () => {
    const registration: WorkflowRegistration = { name: 'local.shared', run: async () => undefined };
    const other = {
      databaseUrl: database.url,
      registrations: [registration],
      applicationVersion: 'test',
      log: quietLog,
    };
    const first = await startWorkflowEngine({ ...other, executorId: randomUUID() });
    await run(registration);
    await first.stop();
    const { id } = await start('local.shared');
    await reaches(id, 'completed');
    await expect(
      startWorkflowEngine({ ...other, databaseUrl: 'postgresql://elsewhere/db', executorId: 'x' }),
    ).rejects.toThrow(/another database/);
  });
});

describe('workflows of several processes, killed at any moment', () => {
  it('all come to their end, each step counted once', { timeout: 180_000 }, async () => {
    const programs = new Map<string, Program>();
    let number = 0;
    const spawnWorker = (): void => {
      number += 1;
      const name = `executor-${number}`;
      const file = new URL('workflow-program.ts', import.meta.url);
      programs.set(name, startProgram(file, { TEST_DATABASE_URL: database.url, TEST_EXECUTOR: name }));
    };
    const ready = () =>
      until(() => [...programs.values()].every((program) => program.output().includes('ready')), {
        what: [...programs.values()].map((program) => program.output()).join('\n'),
        timeoutMilliseconds: 60_000,
      });
    const killOne = async (): Promise<void> => {
      const [name] = programs.keys();
      const program = programs.get(name ?? '');
      programs.delete(name ?? '');
      await program?.kill();
    };

    spawnWorker();
    spawnWorker();
    await ready();
    const ids = (await Promise.all(Array.from({ length: 20 }, () => start('test.counting')))).map(({ id }) => id);
    // Some have begun, none is past the message it waits for.
    await until(async () => (await sql`SELECT FROM tries LIMIT 1`.execute(database.db)).rows.length > 0);
    await killOne();
    spawnWorker();
    await ready();
    for (const id of ids) await send(id, 'go', {});
    await until(
      async () => (await sql`SELECT FROM tries WHERE number > 3 LIMIT 1`.execute(database.db)).rows.length > 0,
      { timeoutMilliseconds: 60_000 },
    );
    await killOne();
    for (const id of ids) await reaches(id, 'completed');
    const { rows } = await sql<{ workflow: string; count: number }>`
      SELECT workflow, count(*)::int AS count FROM effects GROUP BY workflow`.execute(database.db);
    expect(rows.length).toBe(ids.length);
    expect(rows.every((row) => row.count === 6)).toBe(true);
    await Promise.all([...programs.values()].map((program) => program.kill()));
  });
});
