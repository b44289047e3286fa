import { type Clock, errorChain, type Logger } from '@gpuaas/kernel';
import {
  MAX_OUTPUT_BYTES,
  type NodeTaskParams,
  type NodeTaskType,
  type RejectionReason,
  resourceKey,
  type TaskEnvelope,
  type TaskResultRequest,
  verifyTask,
} from '@gpuaas/node-protocol';
import { HostError, type HostPort } from '../host/host-port.js';
import type { Journal, StartedTask } from '../store/journal.js';
import { runTask } from '../tasks/run-task.js';
import {
  type AgentControl,
  type TaskContext,
  TaskInterrupted,
  type TaskOutcome,
  TaskRefused,
} from '../tasks/task-context.js';
import { admissible } from './admission.js';
import type { IdentityManager } from './identity-manager.js';
import type { ResultSender } from './result-sender.js';
import type { Timer } from './timing.js';

/** More than these are not taken in: their lease runs out and the control plane keeps them. */
const MAX_WAITING = 64;
/** A task that the agent did not survive this often is reported instead of run again. */
const MAX_ATTEMPTS = 20;

interface Work {
  type: NodeTaskType;
  resourceKey: string;
  task: NodeTaskParams;
  envelope: TaskEnvelope;
  /** Continues a run that was interrupted. */
  resumed: boolean;
}

interface Dependencies {
  nodeId: string;
  host: HostPort;
  journal: Journal;
  identity: IdentityManager;
  sender: ResultSender;
  control: Omit<AgentControl, 'otherTasks'>;
  sshEndpoint: { host: string; port: number };
  /** Aborts when the agent is told to stop. */
  stopping: AbortSignal;
  clock: Clock;
  timer: Timer;
  log: Logger;
}

/** What became of something that a poll brought. `unusable`: nothing could be done with it, not even answer. */
export interface Acceptance {
  verdict: 'taken' | 'known' | 'rejected' | 'unusable';
  taskId: string | null;
}

/** Checks tasks, runs each once, and has its result on disk before anybody hears of it. */
export class TaskRunner {
  readonly #d: Dependencies;
  readonly #waiting: Work[] = [];
  readonly #running = new Map<string, Work>();
  readonly #interrupt = new AbortController();
  #idle: Array<() => void> = [];

  constructor(dependencies: Dependencies) {
    this.#d = dependencies;
  }

  /** Ids of all tasks that this host has taken and not reported. */
  held(): string[] {
    const working = [...this.#running.values(), ...this.#waiting].map((work) => work.envelope.task_id);
    return [...new Set([...working, ...this.#d.sender.pending()])];
  }

  async accept(received: unknown): Promise<Acceptance> {
    const { nodeId, identity, journal, sender, clock, log } = this.#d;
    const verified = verifyTask(received, identity.signingKeys, { nodeId, now: clock.now() });
    if (verified.ok) {
      const taskId = verified.envelope.task_id;
      if (this.#isHeld(taskId)) return { verdict: 'known', taskId };
      const before = journal.find(taskId);
      if (before?.state === 'finished') {
        sender.sendFinished(before);
        return { verdict: 'known', taskId };
      }
      if (this.#waiting.length >= MAX_WAITING) {
        log.warn({ task_id: taskId }, 'too many tasks wait; this one is left to the control plane');
        return { verdict: 'unusable', taskId };
      }
      this.#enqueue(verified.task, verified.envelope, before !== undefined);
      return { verdict: 'taken', taskId };
    }

    const { reason, message, taskId, authentic } = verified;
    log.warn({ task_id: taskId, reason, problem: message }, 'a task is refused');
    if (taskId === null) return { verdict: 'unusable', taskId };
    if (!authentic) {
      // Whoever made this up must not speak for a real task of the same id, neither now nor later.
      if (this.#isHeld(taskId) || journal.find(taskId) !== undefined) return { verdict: 'unusable', taskId };
      sender.sendOnce(taskId, this.#rejection(reason, message));
      return { verdict: 'rejected', taskId };
    }
    if (this.#isHeld(taskId)) return { verdict: 'known', taskId };
    const before = journal.find(taskId);
    if (before === undefined) {
      sender.sendOnce(taskId, this.#rejection(reason, message));
      return { verdict: 'rejected', taskId };
    }
    if (before.state === 'finished') sender.sendFinished(before);
    else await this.#giveUp(before.envelope, message);
    return { verdict: 'known', taskId };
  }

  /** Takes up what an earlier process began. What may no longer run is reported as interrupted. */
  async resume(tasks: readonly StartedTask[]): Promise<void> {
    const { nodeId, identity, clock } = this.#d;
    for (const { envelope } of tasks) {
      const verified = verifyTask(envelope, identity.signingKeys, { nodeId, now: clock.now() });
      if (verified.ok) this.#enqueue(verified.task, envelope, true);
      else await this.#giveUp(envelope, verified.message);
    }
  }

  /** The types of the tasks in hand besides one. */
  otherTasks(taskId: string): NodeTaskType[] {
    const others = [...this.#running.values(), ...this.#waiting].filter((work) => work.envelope.task_id !== taskId);
    return others.map((work) => work.type);
  }

  /** Gives up what only waits; it was not begun, so its lease brings it back. */
  dropWaiting(): void {
    this.#waiting.length = 0;
  }

  /** Resolves when nothing runs. */
  idle(): Promise<void> {
    return this.#running.size === 0 ? Promise.resolve() : new Promise((resolve) => this.#idle.push(resolve));
  }

  /** Tells what runs to leave off; it is taken up again by the next process. */
  interrupt(): void {
    this.#interrupt.abort();
  }

  #isHeld(taskId: string): boolean {
    return this.#running.has(taskId) || this.#waiting.some((work) => work.envelope.task_id === taskId);
  }

  #enqueue(task: NodeTaskParams, envelope: TaskEnvelope, resumed: boolean): void {
    this.#waiting.push({ type: task.task_type, resourceKey: resourceKey(task), task, envelope, resumed });
    this.#pump();
  }

  #pump(): void {
    for (const work of admissible([...this.#running.values()], this.#waiting)) {
      this.#waiting.splice(this.#waiting.indexOf(work), 1);
      this.#running.set(work.envelope.task_id, work);
      void this.#run(work)
        .catch((error: unknown) => {
          // The journal could not be written. The task is given back: its lease runs out and it comes again.
          this.#d.log.error({ err: error, task_id: work.envelope.task_id }, 'a task could not be recorded');
        })
        .finally(() => {
          this.#running.delete(work.envelope.task_id);
          if (this.#running.size === 0) for (const resolve of this.#idle.splice(0)) resolve();
          this.#pump();
        });
    }
  }

  async #run(work: Work): Promise<void> {
    const { envelope } = work;
    const { journal, clock, log } = this.#d;
    if (!work.resumed && Date.parse(envelope.expires_at) <= clock.now().getTime()) {
      await this.#finish(envelope, {
        status: 'rejected',
        reason: 'expired',
        message: 'the task expired while it waited',
      });
      return;
    }
    const started = await journal.start(envelope);
    const facts = { task_id: envelope.task_id, task_type: envelope.task_type, correlation_id: envelope.correlation_id };
    log.info({ ...facts, attempt: started.attempt }, 'task started');
    const outcome = await this.#outcomeOf(work, started);
    if (outcome === null) {
      log.info(facts, 'task interrupted');
      return;
    }
    log.info(
      { ...facts, status: outcome.status, ...('reason' in outcome ? { reason: outcome.reason } : {}) },
      'task ended',
    );
    await this.#finish(envelope, outcome);
  }

  /** Null when the agent stops before the task is over. */
  async #outcomeOf(work: Work, started: StartedTask): Promise<TaskOutcome | null> {
    if (started.attempt > MAX_ATTEMPTS) {
      const message = `the agent did not survive ${MAX_ATTEMPTS} attempts at this task`;
      return { status: 'failed', reason: 'interrupted', message, output: {} };
    }
    const context = this.#context(work, started);
    try {
      await this.#d.host.beforeTask?.(work.type, context.signal);
      return await runTask(work.task, context);
    } catch (error) {
      if (error instanceof TaskInterrupted || context.signal.aborted) return null;
      if (error instanceof TaskRefused) return { status: 'rejected', reason: error.reason, message: error.message };
      if (error instanceof HostError)
        return { status: 'failed', reason: error.code, message: error.message, output: {} };
      this.#d.log.error({ err: error, task_id: work.envelope.task_id }, 'a task failed unexpectedly');
      return { status: 'failed', reason: 'internal_error', message: errorChain(error), output: {} };
    }
  }

  #context(work: Work, started: StartedTask): TaskContext {
    const { host, journal, control, sshEndpoint, stopping, clock, timer, log } = this.#d;
    const taskId = work.envelope.task_id;
    return {
      taskId,
      signingKeyId: work.envelope.signature.slice(0, work.envelope.signature.indexOf('.')),
      host,
      agent: { ...control, otherTasks: (id) => this.otherTasks(id) },
      sshEndpoint,
      clock,
      timer,
      log,
      stopping,
      signal: this.#interrupt.signal,
      remember: async (key, make) => {
        const noted = started.notes.get(key);
        if (noted !== undefined) return noted;
        const made = await make();
        await journal.note(taskId, key, made);
        return made;
      },
    };
  }

  /** For a task that was begun and may not be run again: it may have acted, so it is not merely rejected. */
  async #giveUp(envelope: TaskEnvelope, why: string): Promise<void> {
    const message = `the agent stopped while the task ran, and it may not be run again: ${why}`;
    await this.#finish(envelope, { status: 'failed', reason: 'interrupted', message, output: {} });
  }

  async #finish(envelope: TaskEnvelope, outcome: TaskOutcome): Promise<void> {
    const { journal, sender } = this.#d;
    await journal.finish(envelope, this.#resultOf(outcome));
    const finished = journal.find(envelope.task_id);
    if (finished?.state === 'finished') sender.sendFinished(finished);
  }

  #resultOf(outcome: TaskOutcome): TaskResultRequest {
    const completedAt = this.#d.clock.now().toISOString();
    if (outcome.status === 'rejected') return this.#rejection(outcome.reason, outcome.message);
    const reported: Record<string, unknown> = { ...outcome.output };
    if (Buffer.byteLength(JSON.stringify(reported)) > MAX_OUTPUT_BYTES) {
      const error = 'the output is too large to be reported';
      return { status: 'failed', error, completed_at: completedAt, output: { reason: 'output_too_large' } };
    }
    if (outcome.status === 'success') return { status: 'success', completed_at: completedAt, output: reported };
    const error = `${outcome.reason}: ${outcome.message}`.slice(0, 4000);
    return { status: 'failed', error, completed_at: completedAt, output: { ...reported, reason: outcome.reason } };
  }

  #rejection(reason: RejectionReason | string, message: string): TaskResultRequest {
    return {
      status: 'rejected',
      error: `${reason}: ${message}`.slice(0, 4000),
      completed_at: this.#d.clock.now().toISOString(),
      output: { reason },
    };
  }
}
