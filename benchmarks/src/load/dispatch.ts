import { setTimeout as delay } from 'node:timers/promises';
import type { Program } from '../harness/programs.js';
import { latenciesOf } from '../harness/statistics.js';
import type { GivenTask } from '../programs/task-giver.js';

const TASK_TIMEOUT_SECONDS = 30;

/** Gives tasks and collects when hosts received them. */
export class Dispatch {
  readonly #hosts: readonly Program[];
  readonly #giver: Program;

  constructor(hosts: readonly Program[], giver: Program) {
    this.#hosts = hosts;
    this.#giver = giver;
  }

  async measure(nodes: readonly number[], perSecond: number) {
    const given = await this.#giver.ask({ give: { nodes: [...nodes], perSecond } }, givenTasks);
    const received = new Map<string, number>();
    const deadline = performance.now() + TASK_TIMEOUT_SECONDS * 1000;
    while (given.some(([taskId]) => !received.has(taskId))) {
      if (performance.now() > deadline) {
        throw new Error(
          `${given.filter(([taskId]) => !received.has(taskId)).length} of ${given.length} tasks never came`,
        );
      }
      for (const host of this.#hosts) {
        for (const [taskId, at] of await host.ask('flush', receivedTasks)) received.set(taskId, at);
      }
      await delay(50);
    }
    const times = (from: (task: GivenTask) => number) =>
      latenciesOf(given.map((task) => (received.get(task[0]) ?? Number.NaN) - from(task)));
    return { fromBegin: times(([, begunAt]) => begunAt), fromCommit: times(([, , committedAt]) => committedAt) };
  }
}

function givenTasks(message: unknown): readonly GivenTask[] | undefined {
  if (typeof message !== 'object' || message === null) return undefined;
  if ('problem' in message) throw new Error(String(message.problem));
  return 'given' in message && Array.isArray(message.given) ? message.given : undefined;
}

function receivedTasks(message: unknown): readonly (readonly [string, number])[] | undefined {
  if (typeof message !== 'object' || message === null || !('received' in message)) return undefined;
  if ('problems' in message && message.problems !== 0) throw new Error(`hosts had ${message.problems} problems`);
  return Array.isArray(message.received) ? message.received : undefined;
}
