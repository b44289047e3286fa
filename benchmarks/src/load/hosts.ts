import { formatRunningTasks, NODE_HEADERS, nodePaths } from '@gpuaas/node-protocol';
import { nodeId, nodeToken } from '../fixtures/nodes.js';
import { HttpConnection } from './http-connection.js';

/** A task as a host receives it, and when. */
export interface ReceivedTask {
  readonly taskId: string;
  readonly type: string;
  readonly params: Readonly<Record<string, unknown>>;
  /** on the clock of `performance` plus its origin: comparable between processes of one machine */
  readonly at: number;
}

export interface LeanHostOptions {
  readonly url: string;
  readonly number: number;
  /** The output that is reported; null reports nothing. */
  work(task: ReceivedTask): Record<string, unknown> | null;
  /** told once the control plane has taken the result */
  readonly reported?: (task: ReceivedTask) => void;
  readonly problem: (text: string) => void;
}

export const wallClock = (): number => performance.timeOrigin + performance.now();

/**
 * A host that speaks the node protocol over plain HTTP with its internal token: it holds a poll at any time, and
 * reports results on a second connection. It checks no signature and keeps no journal: the load is the server's.
 */
export class LeanHost {
  readonly #options: LeanHostOptions;
  readonly #poll: HttpConnection;
  readonly #results: HttpConnection;
  readonly #headers: Readonly<Record<string, string>>;
  readonly #running = new Set<string>();
  #sending: Promise<void> = Promise.resolve();
  #stopped = false;

  constructor(options: LeanHostOptions) {
    this.#options = options;
    this.#poll = new HttpConnection(options.url);
    this.#results = new HttpConnection(options.url);
    this.#headers = { authorization: `Bearer ${nodeToken(options.number)}`, [NODE_HEADERS.agentVersion]: '1.0.0' };
  }

  start(): void {
    void this.#pollForEver();
  }

  stop(): void {
    this.#stopped = true;
    this.#poll.close();
    this.#results.close();
  }

  async #pollForEver(): Promise<void> {
    const path = nodePaths.wait(nodeId(this.#options.number));
    while (!this.#stopped) {
      try {
        const running = { [NODE_HEADERS.agentRunningTasks]: formatRunningTasks(this.#running) };
        const answer = await this.#poll.request('GET', path, {
          ...this.#headers,
          ...(this.#running.size > 0 && running),
        });
        if (answer.status === 200) this.#take(answer.body);
        else if (answer.status !== 204) throw new Error(`a poll was answered ${answer.status}: ${answer.body}`);
      } catch (error) {
        if (this.#stopped) return;
        this.#options.problem(String(error));
        await new Promise((resolve) => setTimeout(resolve, 1000));
      }
    }
  }

  #take(body: string): void {
    const at = wallClock();
    const envelope: { task_id: string; task_type: string; params: Record<string, unknown> } = JSON.parse(body);
    const task: ReceivedTask = { taskId: envelope.task_id, type: envelope.task_type, params: envelope.params, at };
    const output = this.#options.work(task);
    if (output === null) return;
    this.#running.add(task.taskId);
    this.#sending = this.#sending.then(() => this.#report(task, output));
  }

  async #report(task: ReceivedTask, output: Record<string, unknown>): Promise<void> {
    const path = nodePaths.result(nodeId(this.#options.number), task.taskId);
    const body = JSON.stringify({ status: 'success', completed_at: new Date().toISOString(), output });
    try {
      const answer = await this.#results.request('POST', path, this.#headers, body);
      if (answer.status !== 200) throw new Error(`a result was answered ${answer.status}: ${answer.body}`);
      this.#options.reported?.(task);
    } catch (error) {
      if (!this.#stopped) this.#options.problem(String(error));
    } finally {
      this.#running.delete(task.taskId);
    }
  }
}
