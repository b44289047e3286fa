import type { AllocationId, NodeTaskId, SshKeyId } from '@gpuaas/kernel';
import { asId } from '@gpuaas/kernel';
import type { ManagedKey } from '@gpuaas/node-protocol';
import type { Reader, Tx } from '../../../spine/operation.js';

/** Puts these keys in the place of the owner's. */
export async function replaceOwnerKeys(
  tx: Tx,
  allocationId: AllocationId,
  keys: readonly {
    readonly id: SshKeyId;
    readonly name: string;
    readonly fingerprint: string;
    readonly publicKey: string;
  }[],
): Promise<void> {
  await tx.deleteFrom('allocation_ssh_keys').where('allocation_id', '=', allocationId).execute();
  await tx
    .insertInto('allocation_ssh_keys')
    .values(
      keys.map((key, position) => ({
        allocation_id: allocationId,
        ssh_key_id: key.id,
        position,
        name: key.name,
        fingerprint: key.fingerprint,
        public_key: key.publicKey,
      })),
    )
    .execute();
}

/** Everything that may open the allocation's account: the owner's keys and those of active grants, each once. */
export async function keySetOf(reader: Reader, allocationId: AllocationId): Promise<ManagedKey[]> {
  const rows = await reader
    .selectFrom('allocation_ssh_keys')
    .select(['ssh_key_id', 'public_key'])
    .where('allocation_id', '=', allocationId)
    .union(
      reader
        .selectFrom('allocation_access_grants')
        .select(['ssh_key_id', 'ssh_public_key as public_key'])
        .where('allocation_id', '=', allocationId)
        .where('status', '=', 'active'),
    )
    .execute();
  const byId = new Map(rows.map((row) => [row.ssh_key_id, row.public_key]));
  return [...byId]
    .sort(([left], [right]) => (left < right ? -1 : 1))
    .map(([managed_key_id, public_key]) => ({ managed_key_id, public_key }));
}

/** Makes the set a new one: hosts take a set only where it is newer than theirs. Returns its version. */
export async function raiseKeySetVersion(tx: Tx, allocationId: AllocationId, now: Date): Promise<number> {
  const row = await tx
    .updateTable('allocations')
    .set((eb) => ({
      key_set_version: eb('key_set_version', '+', 1),
      key_sync_attempts: 0,
      key_sync_error: null,
      updated_at: now,
    }))
    .where('id', '=', allocationId)
    .returning('key_set_version')
    .executeTakeFirstOrThrow();
  return row.key_set_version;
}

export async function recordKeySyncQueued(tx: Tx, allocationId: AllocationId, taskId: NodeTaskId): Promise<void> {
  await tx
    .updateTable('allocations')
    .set((eb) => ({ key_sync_task_id: taskId, key_sync_attempts: eb('key_sync_attempts', '+', 1) }))
    .where('id', '=', allocationId)
    .execute();
}

/** What the host proved to have; an older proof that comes late takes nothing back. */
export async function recordKeySetApplied(tx: Tx, allocationId: AllocationId, version: number): Promise<void> {
  await tx
    .updateTable('allocations')
    .set({ key_set_applied_version: version, key_sync_error: null })
    .where('id', '=', allocationId)
    .where((eb) => eb.or([eb('key_set_applied_version', 'is', null), eb('key_set_applied_version', '<', version)]))
    .execute();
}

export async function recordKeySyncFailed(tx: Tx, allocationId: AllocationId, error: string): Promise<void> {
  await tx.updateTable('allocations').set({ key_sync_error: error }).where('id', '=', allocationId).execute();
}

/** The allocations that a key opens, as their owner's or by a grant. */
export async function allocationsWithKey(reader: Reader, keyId: string): Promise<AllocationId[]> {
  const rows = await reader
    .selectFrom('allocation_ssh_keys')
    .select('allocation_id')
    .where('ssh_key_id', '=', keyId)
    .union(
      reader
        .selectFrom('allocation_access_grants')
        .select('allocation_id')
        .where('ssh_key_id', '=', keyId)
        .where('status', '=', 'active'),
    )
    .orderBy('allocation_id')
    .execute();
  return rows.map((row) => asId(row.allocation_id));
}

export async function deleteOwnerKey(tx: Tx, allocationId: AllocationId, keyId: string): Promise<void> {
  await tx
    .deleteFrom('allocation_ssh_keys')
    .where('allocation_id', '=', allocationId)
    .where('ssh_key_id', '=', keyId)
    .execute();
}
