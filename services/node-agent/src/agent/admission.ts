import { isExclusive, MAX_RUNNING_TASKS, type NodeTaskType } from '@gpuaas/node-protocol';

/** What decides whether a task may run beside others. */
export interface Claim {
  type: NodeTaskType;
  resourceKey: string;
}

/**
 * The waiting tasks that may start now, in order. A task waits for every task before it, running or waiting, that
 * touches the same thing, so two changes of one thing happen in the order in which they arrived; an exclusive task
 * waits for all, and all wait for it.
 */
export function admissible<Waiting extends Claim>(running: readonly Claim[], waiting: readonly Waiting[]): Waiting[] {
  const before: Claim[] = [...running];
  const started: Waiting[] = [];
  for (const task of waiting) {
    const free = running.length + started.length < MAX_RUNNING_TASKS;
    if (free && !before.some((other) => conflict(other, task))) started.push(task);
    before.push(task);
  }
  return started;
}

function conflict(left: Claim, right: Claim): boolean {
  return left.resourceKey === right.resourceKey || isExclusive(left.type) || isExclusive(right.type);
}
