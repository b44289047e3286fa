import { HostError, type RuntimeUser } from '../host/host-port.js';
import { type TaskContext, TaskInterrupted, type TaskOutcome } from './task-context.js';

const OBSERVE_MILLISECONDS = 1000;
/** How long the machine may keep running after it was told to restart. */
const DEADLINE_MILLISECONDS = 10 * 60_000;

/**
 * Restarts the machine that the allocation owns. The boot id of before is noted durably, so the run that follows the
 * restart sees that it happened and does not restart once more.
 */
export async function restartAllocation(user: RuntimeUser, context: TaskContext): Promise<TaskOutcome> {
  const { host, clock, timer, stopping } = context;
  const owners = await host.runtimeUsers();
  const own = owners.some(
    (owner) => owner.allocationId === user.allocationId && owner.username === user.username && owner.uid === user.uid,
  );
  if (!own) throw new HostError('allocation_not_provisioned', 'the allocation has no account on this host');
  if (owners.length > 1) {
    const message = 'other allocations run on this machine: it is not restarted for one of them';
    return { status: 'failed', reason: 'machine_is_shared', message, output: {} };
  }

  const before = await context.remember('boot_id', () => host.bootId());
  if ((await host.bootId()) === before) await host.reboot();
  const deadline = clock.now().getTime() + DEADLINE_MILLISECONDS;
  for (;;) {
    const now = await host.bootId();
    if (now !== before) {
      const output = { ...context.sshEndpoint, previous_boot_id: before, boot_id: now };
      return { status: 'success', task_type: 'allocation.restart', output };
    }
    if (clock.now().getTime() >= deadline) {
      throw new HostError('restart_not_observed', 'the machine was told to restart and did not');
    }
    await timer.sleep(OBSERVE_MILLISECONDS, stopping);
    // Staying would hold up the very restart that is waited for.
    if (stopping.aborted) throw new TaskInterrupted('the machine is going down');
  }
}
