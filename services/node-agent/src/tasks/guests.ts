import type { TaskOutput, TaskParams } from '@gpuaas/node-protocol';
import { type GuestDriver, type GuestState, HostError } from '../host/host-port.js';
import { type TaskContext, TaskInterrupted, type TaskOutcome } from './task-context.js';

const OBSERVE_MILLISECONDS = 1000;
/** How long a guest may take to come back after it was told to restart. */
const RESTART_MILLISECONDS = 10 * 60_000;

export async function provisionGuest(
  guests: GuestDriver,
  params: TaskParams<'slice.vm_provision'>,
): Promise<TaskOutcome> {
  const state = await guests.ensureGuest({
    allocationId: params.allocation_id.toLowerCase(),
    username: params.username,
    uid: params.uid,
    slots: params.slots,
    image: { ref: params.image_ref, digest: params.digest },
    vcpuCount: params.vcpu_count,
    memoryMib: params.memory_mib,
    keySet: { version: params.key_set_version, keys: params.authorized_keys },
  });
  return { status: 'success', task_type: 'slice.vm_provision', output: reported(state) };
}

export async function releaseGuest(guests: GuestDriver, params: TaskParams<'slice.vm_release'>): Promise<TaskOutcome> {
  const allocationId = params.allocation_id.toLowerCase();
  const { wiped, leftovers } = await guests.ensureGuestAbsent(allocationId, params.slots, params.wipe_policy);
  if (leftovers.length === 0) {
    return { status: 'success', task_type: 'slice.vm_release', output: { clean: true, wiped, leftovers } };
  }
  const message = `${leftovers.length} things of the guest are still there`;
  return { status: 'failed', reason: 'not_clean', message, output: { clean: false, wiped, leftovers } };
}

/**
 * Restarts the guest. Its boot id of before is noted durably, so a run that follows an interruption sees that it
 * happened and does not restart it once more.
 */
export async function restartGuest(
  guests: GuestDriver,
  params: TaskParams<'slice.restart'>,
  context: TaskContext,
): Promise<TaskOutcome> {
  const { clock, timer, signal } = context;
  const allocationId = params.allocation_id.toLowerCase();
  const find = async () => {
    const state = await guests.guest(allocationId);
    if (state === null) throw new HostError('guest_absent', 'there is no such guest on this host');
    return state;
  };
  const before = await context.remember('boot_id', async () => (await find()).bootId);
  if ((await find()).bootId === before) await guests.rebootGuest(allocationId);
  const deadline = clock.now().getTime() + RESTART_MILLISECONDS;
  for (;;) {
    const state = await find();
    if (state.bootId !== before && state.sshReachable) {
      const output = { ...reported(state), previous_boot_id: before, boot_id: state.bootId };
      return { status: 'success', task_type: 'slice.restart', output };
    }
    if (clock.now().getTime() >= deadline) {
      throw new HostError('restart_not_observed', 'the guest was told to restart and did not come back');
    }
    await timer.sleep(OBSERVE_MILLISECONDS, signal);
    if (signal.aborted) throw new TaskInterrupted('the agent stops');
  }
}

function reported(state: GuestState): TaskOutput<'slice.vm_provision'> {
  return {
    vm_name: state.vmName,
    private_ip: state.privateIp,
    domstate: state.domainState,
    ssh_reachable: state.sshReachable,
  };
}
