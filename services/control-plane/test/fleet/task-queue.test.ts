import { asId, createLogger, type NodeId, type NodeTaskId } from '@gpuaas/kernel';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { dispatchTasks, returnTasks, settleHeldTasks } from '../../src/domains/fleet/store/tasks.js';
import { sweepTasks } from '../../src/domains/fleet/sweeps.js';
import { TaskQueue } from '../../src/domains/fleet/tasks/task-queue.js';
import { createCustody, parseCustodyKeys } from '../../src/spine/custody.js';
import { handlerOf } from '../../src/spine/operation.js';
import { jobContext } from '../../src/spine/periodic-jobs.js';
import { createSignals, type Signals } from '../../src/spine/signals.js';
import { inTransaction } from '../../src/spine/transaction.js';
import { type FleetOnDatabase, fleetOnDatabase } from './fleet-on-database.js';

let site: FleetOnDatabase;
let signals: Signals;
let queue: TaskQueue;
const log = createLogger({ program: 'test', level: 'silent' });
/** How often the end of each task had its effect, and whether the next effect is to fail. */
const effects = new Map<string, number>();
let crashing = false;

beforeAll(async () => {
  site = await fleetOnDatabase();
  signals = createSignals({ url: site.url, log });
  queue = new TaskQueue({ custody: createCustody(parseCustodyKeys('0f'.repeat(32))), signals });
  // Stands for compute: counted in the transaction, forgotten with it.
  const handler = {
    taskTypes: ['allocation.provision_user', 'allocation.deprovision_user'] as const,
    async handle(_tx: unknown, _ctx: unknown, { task }: { task: { id: string } }) {
      if (crashing) throw new Error('the process died in the middle');
      effects.set(task.id, (effects.get(task.id) ?? 0) + 1);
    },
  };
  queue.register([handler]);
  site.fleet.registerTaskResultHandlers([handler]);
});
afterAll(async () => {
  await signals?.close();
  await site?.stop();
});

const ctx = () => jobContext('test', { clock: site.clock, log });
const allocations = [1, 2, 3].map((n) => `0193f2d0-0000-7000-8000-00000000000${n}`);
const typeOf = { up: 'allocation.provision_user', down: 'allocation.deprovision_user' } as const;

const step = fc.oneof(
  fc.record({
    do: fc.constant('queue'),
    type: fc.constantFrom('up', 'down'),
    of: fc.nat(2),
    version: fc.nat(2),
  } as const),
  fc.record({ do: fc.constant('poll'), answered: fc.boolean() } as const),
  fc.record({
    do: fc.constant('result'),
    of: fc.nat(5),
    status: fc.constantFrom('success', 'failed'),
    crash: fc.boolean(),
  } as const),
  fc.record({ do: fc.constant('withdraw'), of: fc.nat(5) } as const),
  fc.record({ do: fc.constant('wait'), seconds: fc.constantFrom(10, 119, 121, 3_601) } as const),
  fc.record({ do: fc.constant('sweep'), crash: fc.boolean() } as const),
  fc.record({ do: fc.constant('name as running'), of: fc.nat(5) } as const),
);
type Step = typeof step extends fc.Arbitrary<infer Each> ? Each : never;

/** What the test knows of a run: tasks by the order of their making, and those that somebody took back. */
interface Run {
  readonly nodeId: NodeId;
  readonly tasks: NodeTaskId[];
  readonly withdrawn: Set<string>;
}

async function take(run: Run, one: Step): Promise<void> {
  switch (one.do) {
    case 'queue': {
      const allocationId = allocations[one.of] ?? '';
      const user = { allocation_id: allocationId, username: 'someone', uid: 20_001 };
      const about = { nodeId: run.nodeId, operationId: null, subjectType: 'allocation', subjectId: allocationId };
      const taskId = await inTransaction(site.db, (tx) =>
        one.type === 'up'
          ? queue.queue(tx, ctx(), {
              ...about,
              type: typeOf.up,
              params: { ...user, authorized_keys: [], key_set_version: one.version },
            })
          : queue.queue(tx, ctx(), { ...about, type: typeOf.down, params: user }),
      );
      if (!run.tasks.includes(taskId)) run.tasks.push(taskId);
      return;
    }
    case 'poll': {
      const tasks = await dispatchTasks(site.db, [run.nodeId], site.clock.now());
      expect(tasks.length).toBeLessThanOrEqual(1);
      if (!one.answered) await returnTasks(site.db, tasks);
      return;
    }
    case 'result': {
      const taskId = run.tasks[one.of];
      if (taskId === undefined) return;
      crashing = one.crash;
      await report(run.nodeId, taskId, one.status).catch((error: unknown) => {
        if (!one.crash) throw error;
      });
      crashing = false;
      return;
    }
    case 'withdraw': {
      const taskId = run.tasks[one.of];
      if (taskId === undefined) return;
      if (await inTransaction(site.db, (tx) => queue.withdraw(tx, ctx(), taskId))) run.withdrawn.add(taskId);
      return;
    }
    case 'wait':
      site.clock.advance(one.seconds * 1000);
      return;
    case 'sweep':
      crashing = one.crash;
      await sweepTasks(queue, site.db, ctx(), new AbortController().signal);
      crashing = false;
      return;
    case 'name as running': {
      const taskId = run.tasks[one.of];
      if (taskId === undefined) return;
      const held = [{ nodeId: run.nodeId, taskId }];
      await inTransaction(site.db, (tx) => settleHeldTasks(tx, [run.nodeId], held, site.clock.now()));
      return;
    }
  }
}

/** The operation itself, in a transaction as the edge opens it. */
async function report(nodeId: NodeId, taskId: string, status: 'success' | 'failed'): Promise<void> {
  const handler = handlerOf(site.fleet.operations, 'internalNodeTaskResult');
  if (handler?.kind !== 'command') throw new Error('the result is not a command');
  await inTransaction(site.db, (tx) =>
    handler.run({
      tx,
      ctx: {
        ...ctx(),
        principal: { kind: 'node', nodeId, authentication: 'internal_token', certificateSerial: null },
        project: null,
        tenantId: null,
        idempotencyKey: null,
        cursors: site.cursors,
        afterCommit: () => undefined,
      },
      path: { node_id: nodeId, task_id: taskId },
      query: {},
      body: { status, completed_at: '2026-11-20T12:00:00Z', output: {} },
      headers: {},
      prepared: undefined,
    }),
  );
}

async function invariants(run: Run): Promise<void> {
  const rows = await site.db
    .selectFrom('node_tasks')
    .select(['id', 'task_type', 'resource_key', 'generation', 'status', 'attempt'])
    .where('node_id', '=', run.nodeId)
    .execute();
  const live = rows.filter((row) => row.status === 'queued' || row.status === 'dispatched');
  const inHand = rows.filter((row) => row.status === 'dispatched').map((row) => row.resource_key);
  expect(new Set(inHand).size).toBe(inHand.length);
  for (const row of live.filter((one) => one.generation === 1)) {
    expect(row).toMatchObject({ status: 'queued', attempt: 0 });
    const head = live.find(
      (one) => one.generation === 0 && one.task_type === row.task_type && one.resource_key === row.resource_key,
    );
    expect(head).toBeDefined();
  }
  for (const row of rows) {
    const ended = !live.includes(row);
    expect([row.id, effects.get(row.id) ?? 0]).toEqual([row.id, ended && !run.withdrawn.has(row.id) ? 1 : 0]);
  }
}

describe('the task queue on its database', () => {
  it('has each end once, in whatever order polls, results, losses and crashes come', () =>
    fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40 }), async (steps) => {
        const [nodeId] = await site.addNodes(1);
        if (nodeId === undefined) throw new Error('no node');
        const run: Run = { nodeId: asId(nodeId), tasks: [], withdrawn: new Set() };
        for (const one of steps) {
          await take(run, one);
          await invariants(run);
        }
        // Whatever happened, time ends it.
        site.clock.advance(3_601_000);
        await take(run, { do: 'sweep', crash: false });
        await invariants(run);
        const open = await site.db
          .selectFrom('node_tasks')
          .select('id')
          .where('node_id', '=', nodeId)
          .where('status', 'in', ['queued', 'dispatched'])
          .execute();
        expect(open).toEqual([]);
      }),
      { numRuns: 25 },
    ));

  it('hands a task to one of many processes that ask at once', async () => {
    const nodes = await site.addNodes(20);
    for (const nodeId of nodes) {
      for (const allocationId of allocations) {
        await inTransaction(site.db, (tx) =>
          queue.queue(tx, ctx(), {
            nodeId,
            type: typeOf.down,
            params: { allocation_id: allocationId, username: 'someone', uid: 20_001 },
            operationId: null,
            subjectType: 'allocation',
            subjectId: allocationId,
          }),
        );
      }
    }
    const rounds = await Promise.all(
      Array.from({ length: 8 }, () =>
        // Two that reach for tasks of one resource at the same moment: one of them fails whole and asks again.
        dispatchTasks(site.db, nodes, site.clock.now()).catch(() => []),
      ),
    );
    const given = rounds.flat().map((task) => task.id);
    expect(new Set(given).size).toBe(given.length);
    expect(given.length).toBeGreaterThanOrEqual(20);
    expect(given.length).toBeLessThanOrEqual(60);
  });
});
