import { type Clock, errorChain, type Logger, type NodeId } from '@gpuaas/kernel';
import { signTask, type TaskEnvelope, type UnsignedTask } from '@gpuaas/node-protocol';
import type { Reader } from '../../../spine/operation.js';
import type { Signals } from '../../../spine/signals.js';
import { type DispatchedTask, dispatchTasks, findNodesWithQueuedTasks, returnTasks } from '../store/tasks.js';
import { NODE_TASKS_CHANNEL, type TaskQueue } from './task-queue.js';
import type { TaskSigner } from './task-signer.js';

/** Nodes asked about in one statement. */
const LARGEST_DISPATCH = 500;
/** A wake-up may be lost; after that long a process looks for itself. */
const LOOK_AGAIN_MILLISECONDS = 5_000;
/** Pauses after a dispatch that failed: doubled from the first to the second. */
const RETRY_MILLISECONDS = { first: 20, longest: 5_000 } as const;

/**
 * Told of tasks after they were handed out. A hint for what people see: a process that dies in between tells nobody,
 * and the result of the task comes all the same.
 */
export type DispatchListener = (tasks: readonly DispatchedTask[]) => Promise<void>;

interface HeldPoll {
  readonly nodeId: NodeId;
  answer(task: TaskEnvelope | null): void;
}

/**
 * Polls of nodes that wait for a task, in memory: a waiting poll holds no database connection. A wake-up makes its
 * node due, and all nodes that are due at one moment are served by one statement.
 */
export class HeldPolls {
  readonly #database: Reader;
  readonly #queue: TaskQueue;
  readonly #signer: TaskSigner;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #holdMilliseconds: number;
  readonly #polls = new Map<NodeId, HeldPoll>();
  readonly #due = new Set<NodeId>();
  readonly #stopListening: (() => void)[];
  readonly #listeners: DispatchListener[] = [];
  #dispatching = false;
  #lookAgain: NodeJS.Timeout | null = null;
  #closed = false;

  constructor(dependencies: {
    readonly database: Reader;
    readonly queue: TaskQueue;
    readonly signer: TaskSigner;
    readonly signals: Signals;
    readonly clock: Clock;
    readonly log: Logger;
    readonly holdMilliseconds: number;
  }) {
    this.#database = dependencies.database;
    this.#queue = dependencies.queue;
    this.#signer = dependencies.signer;
    this.#clock = dependencies.clock;
    this.#log = dependencies.log;
    this.#holdMilliseconds = dependencies.holdMilliseconds;
    this.#stopListening = [
      dependencies.signals.subscribe(NODE_TASKS_CHANNEL, (nodeId) => this.#wake(nodeId)),
      dependencies.signals.onGap(() => this.#look()),
    ];
  }

  onDispatched(listener: DispatchListener): void {
    this.#listeners.push(listener);
  }

  /** How many polls wait here now. */
  get size(): number {
    return this.#polls.size;
  }

  /**
   * The next task of the node, signed and leased, or null where none comes while the poll is held. Another poll of the
   * same node ends this one with null; so does `signal`.
   */
  wait(nodeId: NodeId, signal: AbortSignal): Promise<TaskEnvelope | null> {
    return new Promise((resolve) => {
      if (signal.aborted || this.#closed) {
        resolve(null);
        return;
      }
      this.#polls.get(nodeId)?.answer(null);
      const giveUp = () => poll.answer(null);
      const timer = setTimeout(giveUp, this.#holdMilliseconds);
      const poll: HeldPoll = {
        nodeId,
        answer: (task) => {
          clearTimeout(timer);
          signal.removeEventListener('abort', giveUp);
          if (this.#polls.get(nodeId) === poll) this.#polls.delete(nodeId);
          resolve(task);
        },
      };
      signal.addEventListener('abort', giveUp, { once: true });
      // Known as waiting before the queue is asked: a task that is queued in between finds the poll.
      this.#polls.set(nodeId, poll);
      this.#startLookingAgain();
      this.#wake(nodeId);
    });
  }

  /** Ends every poll with null and listens no more. */
  close(): void {
    this.#closed = true;
    for (const stop of this.#stopListening) stop();
    if (this.#lookAgain !== null) clearInterval(this.#lookAgain);
    for (const poll of [...this.#polls.values()]) poll.answer(null);
    this.#due.clear();
  }

  #wake(nodeId: string): void {
    const poll = this.#pollOf(nodeId);
    if (poll === undefined) return;
    this.#due.add(poll.nodeId);
    if (!this.#dispatching) void this.#dispatchDue();
  }

  #pollOf(nodeId: string): HeldPoll | undefined {
    const polls: ReadonlyMap<string, HeldPoll> = this.#polls;
    return polls.get(nodeId);
  }

  async #dispatchDue(): Promise<void> {
    this.#dispatching = true;
    let pause: number = RETRY_MILLISECONDS.first;
    try {
      while (this.#due.size > 0) {
        const nodeIds: NodeId[] = [];
        for (const nodeId of this.#due) {
          if (nodeIds.length === LARGEST_DISPATCH) break;
          this.#due.delete(nodeId);
          if (this.#polls.has(nodeId)) nodeIds.push(nodeId);
        }
        if (nodeIds.length === 0) continue;
        try {
          await this.#dispatch(nodeIds);
          pause = RETRY_MILLISECONDS.first;
        } catch (error) {
          // Also when another process handed out a task of the same resource at this very moment.
          this.#log.warn({ error: errorChain(error), nodes: nodeIds.length }, 'tasks could not be handed out');
          for (const nodeId of nodeIds) this.#due.add(nodeId);
          await new Promise((resolve) => setTimeout(resolve, pause));
          pause = Math.min(2 * pause, RETRY_MILLISECONDS.longest);
        }
      }
    } finally {
      this.#dispatching = false;
    }
  }

  async #dispatch(nodeIds: readonly NodeId[]): Promise<void> {
    const tasks = await dispatchTasks(this.#database, nodeIds, this.#clock.now());
    if (tasks.length === 0) return;
    const nobodyThere: DispatchedTask[] = [];
    const handedOut: DispatchedTask[] = [];
    const key = await this.#signer.activeKey();
    for (const task of tasks) {
      const poll = this.#polls.get(task.nodeId);
      if (poll === undefined) {
        nobodyThere.push(task);
        continue;
      }
      try {
        poll.answer(signTask(this.#unsigned(task), key));
        handedOut.push(task);
      } catch (error) {
        // It stays leased and comes again, until it expires or what is wrong with it is repaired.
        this.#log.error({ error: errorChain(error), task_id: task.id }, 'a task could not be signed');
      }
    }
    // A lease would keep them from the node's next poll for two minutes.
    if (nobodyThere.length > 0) await returnTasks(this.#database, nobodyThere);
    if (handedOut.length > 0) void this.#announce(handedOut);
  }

  async #announce(tasks: readonly DispatchedTask[]): Promise<void> {
    for (const listener of this.#listeners) {
      try {
        await listener(tasks);
      } catch (error) {
        if (!this.#closed)
          this.#log.warn({ error: errorChain(error), tasks: tasks.length }, 'nobody heard of a dispatch');
      }
    }
  }

  #unsigned(task: DispatchedTask): UnsignedTask {
    return {
      task_id: task.id,
      task_type: task.type,
      node_id: task.nodeId,
      correlation_id: task.correlationId,
      issued_at: task.issuedAt.toISOString(),
      expires_at: task.expiresAt.toISOString(),
      params: this.#queue.openParams(task.paramsSealed),
    };
  }

  #startLookingAgain(): void {
    if (this.#lookAgain !== null) return;
    this.#lookAgain = setInterval(() => void this.#look(), LOOK_AGAIN_MILLISECONDS);
    this.#lookAgain.unref();
  }

  async #look(): Promise<void> {
    if (this.#polls.size === 0 || this.#closed) return;
    try {
      for (const nodeId of await findNodesWithQueuedTasks(this.#database)) this.#wake(nodeId);
    } catch (error) {
      this.#log.warn({ error: errorChain(error) }, 'waiting tasks could not be looked up');
    }
  }
}
