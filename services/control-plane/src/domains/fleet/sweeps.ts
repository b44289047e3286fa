import { errorChain } from '@gpuaas/kernel';
import type { CallContext, Reader } from '../../spine/operation.js';
import type { PeriodicJob } from '../../spine/periodic-jobs.js';
import { inTransaction } from '../../spine/transaction.js';
import { publishStatusChange } from './events.js';
import { freshSince } from './rules/freshness.js';
import { statusesMovedBy } from './rules/node-state.js';
import { lockLapsedNodes, lockSilentNodes, moveNodes } from './store/nodes.js';
import { findExpiredTasks, lockLiveTaskIfFree, requeueLostTasks } from './store/tasks.js';
import type { TaskQueue } from './tasks/task-queue.js';

/** Rows that one transaction takes; a sweep goes on until it finds fewer. */
const BATCH = 500;

/** What time alone does to nodes and tasks. */
export function fleetSweeps(queue: TaskQueue): readonly PeriodicJob[] {
  return [
    { name: 'fleet.silent-nodes', everyMilliseconds: 10_000, run: sweepSilentNodes },
    { name: 'fleet.lapsed-tokens', everyMilliseconds: 60_000, run: sweepLapsedNodes },
    { name: 'fleet.tasks', everyMilliseconds: 5_000, run: (db, ctx, signal) => sweepTasks(queue, db, ctx, signal) },
  ];
}

/** Takes nodes that stopped polling out of service. */
export async function sweepSilentNodes(db: Reader, ctx: CallContext, signal: AbortSignal): Promise<void> {
  await inBatches(signal, () =>
    inTransaction(db, async (tx) => {
      const now = ctx.clock.now();
      const silent = await lockSilentNodes(tx, freshSince(now), BATCH);
      const moved = await moveNodes(tx, silent, statusesMovedBy('go_silent'), 'offline', now);
      for (const node of moved) await publishStatusChange(tx, ctx, node.id, node.from, 'offline', 'go_silent');
      return silent.length;
    }),
  );
}

/** Gives nodes that nobody enrolled in time back to the state before their tokens. */
export async function sweepLapsedNodes(db: Reader, ctx: CallContext, signal: AbortSignal): Promise<void> {
  await inBatches(signal, () =>
    inTransaction(db, async (tx) => {
      const now = ctx.clock.now();
      const lapsed = await lockLapsedNodes(tx, now, BATCH);
      const moved = await moveNodes(tx, lapsed, statusesMovedBy('tokens_lapsed'), 'registered', now);
      for (const node of moved) await publishStatusChange(tx, ctx, node.id, node.from, 'registered', 'tokens_lapsed');
      return lapsed.length;
    }),
  );
}

/** Puts tasks back whose host went away, and ends those whose time is over. */
export async function sweepTasks(queue: TaskQueue, db: Reader, ctx: CallContext, signal: AbortSignal): Promise<void> {
  await inBatches(signal, () =>
    inTransaction(db, async (tx) => {
      const nodes = await requeueLostTasks(tx, ctx.clock.now(), BATCH);
      for (const nodeId of nodes) await queue.wake(tx, nodeId);
      return nodes.length;
    }),
  );
  for (const taskId of await findExpiredTasks(db, ctx.clock.now(), BATCH)) {
    if (signal.aborted) return;
    try {
      // One transaction each: what one task's end sets in motion must not hold up the others.
      await inTransaction(db, async (tx) => {
        const task = await lockLiveTaskIfFree(tx, taskId);
        if (task === null || task.expiresAt > ctx.clock.now()) return;
        await queue.finish(tx, ctx, task, { status: 'expired', error: 'expired', output: null, resultHash: null });
      });
    } catch (error) {
      ctx.log.error({ error: errorChain(error), task_id: taskId }, 'an expired task could not be ended');
    }
  }
}

async function inBatches(signal: AbortSignal, run: () => Promise<number>): Promise<void> {
  while (!signal.aborted && (await run()) === BATCH) {
    // the next batch
  }
}
