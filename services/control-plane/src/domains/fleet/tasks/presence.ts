import type { Clock, Logger, NodeId } from '@gpuaas/kernel';
import type { Reader } from '../../../spine/operation.js';
import { jobContext } from '../../../spine/periodic-jobs.js';
import { inTransaction } from '../../../spine/transaction.js';
import { publishStatusChange } from '../events.js';
import { statusesMovedBy } from '../rules/node-state.js';
import { markCertificatesUsed } from '../store/certificates.js';
import { type Heartbeat, upsertHeartbeats } from '../store/heartbeats.js';
import { moveNodes } from '../store/nodes.js';
import { settleHeldTasks } from '../store/tasks.js';
import { Batch } from './batch.js';

/** What a poll says of its node. */
export interface Poll extends Omit<Heartbeat, 'seenAt'> {
  /** the certificate it came with; null where the host has none to show */
  readonly certificateSerial: string | null;
  readonly runningTaskIds: readonly string[];
}

/** Between two batches of polls: at the rate of a full house it makes one transaction of many polls. */
const GAP_MILLISECONDS = 20;
const SERIALS_REMEMBERED = 50_000;

/** Records polls: heartbeat, what became of tasks, the end of older certificates, and return into service. */
export class Presence {
  readonly #database: Reader;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #batch: Batch<Poll, true>;
  /** serials that are known to have been used, so that a steady poll writes nothing but its heartbeat */
  readonly #usedSerials = new Set<string>();

  constructor(dependencies: { readonly database: Reader; readonly clock: Clock; readonly log: Logger }) {
    this.#database = dependencies.database;
    this.#clock = dependencies.clock;
    this.#log = dependencies.log;
    this.#batch = new Batch((polls) => this.#record(polls), { gapMilliseconds: GAP_MILLISECONDS });
  }

  /** Resolves once the poll is recorded; several that come together are recorded in one transaction. */
  async record(poll: Poll): Promise<void> {
    await this.#batch.add(poll);
  }

  async #record(polls: readonly Poll[]): Promise<readonly true[]> {
    const now = this.#clock.now();
    const latest = new Map<NodeId, Poll>(polls.map((poll) => [poll.nodeId, poll]));
    // In one order everywhere: two processes that record the same nodes must not wait for each other in a circle.
    const sorted = [...latest.values()].sort((left, right) => (left.nodeId < right.nodeId ? -1 : 1));
    const held = sorted.flatMap((poll) => poll.runningTaskIds.map((taskId) => ({ nodeId: poll.nodeId, taskId })));
    const serials = polls.flatMap((poll) =>
      poll.certificateSerial === null || this.#usedSerials.has(poll.certificateSerial) ? [] : [poll.certificateSerial],
    );
    await inTransaction(this.#database, async (tx) => {
      const ctx = jobContext('fleet.presence', { clock: this.#clock, log: this.#log });
      await upsertHeartbeats(
        tx,
        sorted.map((poll) => ({ ...poll, seenAt: now })),
      );
      const moved = await moveNodes(tx, [...latest.keys()], statusesMovedBy('poll'), 'active', now);
      for (const node of moved) await publishStatusChange(tx, ctx, node.id, node.from, 'active', 'poll');
      await settleHeldTasks(tx, [...latest.keys()], held, now);
      if (serials.length > 0) await markCertificatesUsed(tx, serials, now);
    });
    this.#remember(serials);
    return polls.map(() => true);
  }

  #remember(serials: readonly string[]): void {
    if (this.#usedSerials.size + serials.length > SERIALS_REMEMBERED) this.#usedSerials.clear();
    for (const serial of serials) this.#usedSerials.add(serial);
  }
}
