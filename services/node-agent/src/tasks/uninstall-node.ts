import type { TaskContext, TaskOutcome } from './task-context.js';

/**
 * Takes every account and every file of ours off the host. The agent itself stays until its result was answered; then
 * it removes its own state and ends. A host that is not clean keeps its agent.
 */
export async function uninstallNode(context: TaskContext): Promise<TaskOutcome> {
  const { host } = context;
  const removed: string[] = [];
  const leftovers: string[] = [];
  for (const user of await host.runtimeUsers()) {
    const remains = await host.ensureUserAbsent(user);
    if (remains.length === 0) removed.push(`account:${user.username}`);
    leftovers.push(...remains);
  }
  if (leftovers.length > 0) {
    const message = `${leftovers.length} things are still there`;
    return { status: 'failed', reason: 'not_clean', message, output: { removed, leftovers } };
  }
  removed.push(...(await host.ensureUninstalled()));
  return { status: 'success', task_type: 'node.uninstall', output: { removed } };
}
