import type { Clock, Logger } from '@gpuaas/kernel';
import type { TaskResultRequest } from '@gpuaas/node-protocol';
import type { FinishedTask, Journal } from '../store/journal.js';
import type { CallResult, ControlPlaneClient } from './control-plane-client.js';
import type { IdentityManager } from './identity-manager.js';
import { backoffMilliseconds, type Timer } from './timing.js';

/** Results that are under way at once; more wait their turn. */
const PARALLEL = 4;

interface Outgoing {
  taskId: string;
  result: TaskResultRequest;
  /** In the journal, so that its answer has to be noted there. */
  journaled: FinishedTask | null;
}

interface Dependencies {
  client: ControlPlaneClient;
  identity: IdentityManager;
  journal: Journal;
  clock: Clock;
  timer: Timer;
  random: () => number;
  log: Logger;
  /** The control plane has the result of a journaled task; `accepted` tells whether it counted. */
  onDelivered: (task: FinishedTask, accepted: boolean) => void;
}

/** Brings every result to the control plane, however long that takes, and each until it is answered. */
export class ResultSender {
  readonly #d: Dependencies;
  readonly #queue: Outgoing[] = [];
  readonly #pending = new Map<string, Outgoing>();
  readonly #stop = new AbortController();
  #active = 0;
  #idle: Array<() => void> = [];

  constructor(dependencies: Dependencies) {
    this.#d = dependencies;
  }

  /** Ids of the tasks whose results are not answered yet. */
  pending(): string[] {
    return [...this.#pending.keys()];
  }

  /** Sends the result that the journal holds, also if it was answered before: the answer may have been lost. */
  sendFinished(task: FinishedTask): void {
    this.#add({ taskId: task.taskId, result: task.result, journaled: task });
  }

  /** Sends an answer that need not survive this process. */
  sendOnce(taskId: string, result: TaskResultRequest): void {
    this.#add({ taskId, result, journaled: null });
  }

  /** Resolves when nothing is under way any more. */
  idle(): Promise<void> {
    return this.#pending.size === 0 ? Promise.resolve() : new Promise((resolve) => this.#idle.push(resolve));
  }

  stop(): void {
    this.#stop.abort();
  }

  #add(outgoing: Outgoing): void {
    if (this.#pending.has(outgoing.taskId)) return;
    this.#pending.set(outgoing.taskId, outgoing);
    this.#queue.push(outgoing);
    this.#pump();
  }

  #pump(): void {
    while (this.#active < PARALLEL) {
      const outgoing = this.#queue.shift();
      if (outgoing === undefined) return;
      this.#active += 1;
      void this.#deliver(outgoing)
        .catch((error: unknown) =>
          this.#d.log.error({ err: error, task_id: outgoing.taskId }, 'a result was not noted'),
        )
        .finally(() => {
          this.#active -= 1;
          this.#pending.delete(outgoing.taskId);
          if (this.#pending.size === 0) for (const resolve of this.#idle.splice(0)) resolve();
          this.#pump();
        });
    }
  }

  async #deliver(outgoing: Outgoing): Promise<void> {
    const { log, timer, random } = this.#d;
    let result = outgoing.result;
    for (let failures = 1; !this.#stop.signal.aborted; failures += 1) {
      const answer = await this.#post(outgoing.taskId, result);
      const verdict = judge(answer, outgoing);
      if (verdict.kind === 'answered') {
        log.debug({ task_id: outgoing.taskId, accepted: verdict.accepted }, 'result delivered');
        if (outgoing.journaled === null) return;
        await this.#d.journal.delivered(outgoing.taskId, verdict.accepted);
        this.#d.onDelivered(outgoing.journaled, verdict.accepted);
        return;
      }
      if (verdict.kind === 'unacceptable') {
        log.error({ task_id: outgoing.taskId, reason: verdict.message }, 'the control plane does not take this result');
        if (result.output.reason === REFUSED) return this.#giveUp(outgoing);
        result = refusedResult(verdict.message, this.#d.clock.now());
        continue;
      }
      const wait = Math.max(backoffMilliseconds(failures, random()), verdict.retryAfterMilliseconds);
      log.warn(
        { task_id: outgoing.taskId, reason: verdict.message, retry_in_ms: wait },
        'a result is not delivered yet',
      );
      await timer.sleep(wait, this.#stop.signal);
    }
  }

  async #post(taskId: string, result: TaskResultRequest) {
    const { client, identity } = this.#d;
    const answer = await client.postResult(identity.credentials(), taskId, result, this.#stop.signal);
    // A renewed certificate may have polled already, which ends the older one, before its poll was answered.
    const other = identity.otherCredentials();
    const mayBeOver = answer.kind === 'unauthenticated' || answer.kind === 'unavailable';
    return mayBeOver && other !== null ? client.postResult(other, taskId, result, this.#stop.signal) : answer;
  }

  async #giveUp(outgoing: Outgoing): Promise<void> {
    if (outgoing.journaled !== null) await this.#d.journal.delivered(outgoing.taskId, false);
  }
}

const REFUSED = 'result_refused';

type Verdict =
  | { kind: 'answered'; accepted: boolean }
  | { kind: 'unacceptable'; message: string }
  | { kind: 'later'; message: string; retryAfterMilliseconds: number };

function judge(answer: CallResult<{ ok: boolean }>, outgoing: Outgoing): Verdict {
  const { journaled } = outgoing;
  const leaving = journaled?.taskType === 'node.uninstall' && journaled.result.status === 'success';
  switch (answer.kind) {
    case 'ok':
      return { kind: 'answered', accepted: answer.value.ok };
    case 'refused':
      // Not known, or not wanted any more. After an uninstall that is what success looks like from here.
      if (answer.status === 404 || answer.status === 409) return { kind: 'answered', accepted: leaving };
      return { kind: 'unacceptable', message: answer.message };
    case 'unauthenticated':
    case 'forbidden':
      if (leaving) return { kind: 'answered', accepted: true };
      return { kind: 'later', message: answer.message, retryAfterMilliseconds: 0 };
    case 'unavailable':
      return { kind: 'later', message: answer.message, retryAfterMilliseconds: answer.retryAfterMilliseconds };
    case 'aborted':
      return { kind: 'later', message: 'given up', retryAfterMilliseconds: 0 };
  }
}

/** Stands in for a result that the control plane finds malformed, so that it learns at least that the task is over. */
function refusedResult(message: string, now: Date): TaskResultRequest {
  return {
    status: 'failed',
    error: `the result was refused: ${message}`.slice(0, 2000),
    completed_at: now.toISOString(),
    output: { reason: REFUSED },
  };
}
