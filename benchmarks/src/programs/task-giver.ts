import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { jobContext } from '@gpuaas/control-plane/spine/periodic-jobs';
import { inTransaction } from '@gpuaas/control-plane/spine/transaction';
import { asId } from '@gpuaas/kernel';
import { nodeId } from '../fixtures/nodes.js';
import { announceReady } from '../harness/programs.js';
import { wallClock } from '../load/hosts.js';
import { openDomains } from './control-plane-parts.js';

/** What the program is told by its only argument, a file of JSON. */
export interface TaskGiverSetup {
  readonly databaseUrl: string;
  readonly masterKey: string;
}

/** A task with the times at which its transaction began and was committed, in milliseconds since 1970. */
export type GivenTask = readonly [taskId: string, begunAt: number, committedAt: number];

/**
 * Queues a health probe for each node of `{ give: { nodes, perSecond } }`, evenly over time and in a process of its own,
 * as a second API process or a worker would. Answers `{ given: GivenTask[] }`.
 */
const setup: TaskGiverSetup = JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8'));
const { db, domains, clock, log } = await openDomains({ ...setup, poolSize: 10 });

async function give(node: number): Promise<GivenTask> {
  const begunAt = wallClock();
  const taskId = await inTransaction(db, (tx) =>
    domains.fleet.queueNodeTask(tx, jobContext('benchmark', { clock, log }), {
      nodeId: asId(nodeId(node)),
      type: 'diag.health_probe',
      params: {},
      operationId: null,
      subjectType: 'node',
      subjectId: nodeId(node),
    }),
  );
  return [taskId, begunAt, wallClock()];
}

async function giveAll(nodes: readonly number[], perSecond: number): Promise<GivenTask[]> {
  const started = performance.now();
  return Promise.all(
    nodes.map(async (node, index) => {
      await delay(Math.max(0, started + (index * 1000) / perSecond - performance.now()));
      return give(node);
    }),
  );
}

process.on('message', (message: unknown) => {
  if (!isOrder(message)) return;
  giveAll(message.give.nodes, message.give.perSecond).then(
    (given) => process.send?.({ given }),
    (error: unknown) => process.send?.({ problem: error instanceof Error ? error.stack : String(error) }),
  );
});

function isOrder(message: unknown): message is { readonly give: { nodes: readonly number[]; perSecond: number } } {
  return typeof message === 'object' && message !== null && 'give' in message;
}

process.on('SIGTERM', () => process.exit(0));
announceReady(true);
