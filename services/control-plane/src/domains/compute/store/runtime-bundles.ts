import type { AllocationId, NodeTaskId, ProjectId, UserId } from '@gpuaas/kernel';
import { newId } from '@gpuaas/kernel';
import type { Reader, Tx } from '../../../spine/operation.js';
import type { BundleFacts } from '../rules/admission.js';
import { jsonObject } from './json.js';

const selectBundles = (reader: Reader) =>
  reader
    .selectFrom('runtime_bundles')
    .select([
      'id',
      'slug',
      'version',
      'display_name',
      'support_level',
      'status',
      'install_root',
      'activation_hint',
      'description',
      'compatible_accelerators',
      'environment',
      'metadata',
      'created_at',
      'updated_at',
    ]);

export type BundleRow = Awaited<ReturnType<ReturnType<typeof selectBundles>['executeTakeFirstOrThrow']>>;

/** By id where one is given, else the newest version of the slug. */
export function findBundle(
  reader: Reader,
  wish: { readonly id: string | null; readonly slug: string | null },
): Promise<BundleRow | undefined> {
  const query = selectBundles(reader).orderBy('created_at', 'desc').orderBy('version', 'desc').limit(1);
  if (wish.id !== null) return query.where('id', '=', wish.id).executeTakeFirst();
  return query.where('slug', '=', wish.slug ?? '').executeTakeFirst();
}

export function listBundles(reader: Reader, status: BundleRow['status'] | undefined): Promise<BundleRow[]> {
  const query = selectBundles(reader).orderBy('slug').orderBy('created_at', 'desc').limit(1000);
  return (status ? query.where('status', '=', status) : query).execute();
}

export function bundleFacts(row: BundleRow): BundleFacts {
  return { slug: row.slug, status: row.status, compatibleAccelerators: row.compatible_accelerators };
}

/** Text values alone: nothing else can be a variable of a process. */
export function bundleEnvironment(row: Pick<BundleRow, 'environment'>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(jsonObject(row.environment)).flatMap(([name, value]) =>
      typeof value === 'string' ? [[name, value]] : [],
    ),
  );
}

/** Keeps the wish for a bundle until the allocation is active. */
export async function insertPendingBundle(
  tx: Tx,
  wish: {
    readonly allocationId: AllocationId;
    readonly projectId: ProjectId;
    readonly userId: UserId;
    readonly bundleId: string;
  },
  now: Date,
): Promise<void> {
  await tx
    .insertInto('allocation_runtime_bundles')
    .values({
      id: newId(),
      allocation_id: wish.allocationId,
      project_id: wish.projectId,
      bundle_id: wish.bundleId,
      status: 'pending',
      requested_by_user_id: wish.userId,
      requested_at: now,
      updated_at: now,
    })
    .execute();
}

/** The bundle that waits for the activation of an allocation. */
export function findPendingBundle(tx: Tx, allocationId: AllocationId) {
  return tx
    .selectFrom('allocation_runtime_bundles as applied')
    .innerJoin('runtime_bundles as bundle', 'bundle.id', 'applied.bundle_id')
    .select(['applied.id', 'bundle.slug', 'bundle.version', 'bundle.environment'])
    .where('applied.allocation_id', '=', allocationId)
    .where('applied.status', '=', 'pending')
    .executeTakeFirst();
}

export async function markBundleQueued(tx: Tx, id: string, taskId: NodeTaskId, now: Date): Promise<void> {
  await tx
    .updateTable('allocation_runtime_bundles')
    .set({ status: 'queued', apply_task_id: taskId, updated_at: now })
    .where('id', '=', id)
    .execute();
}

/** Ends the application that the task carried; a task that is no longer the bundle's changes nothing. */
export async function finishBundle(
  tx: Tx,
  taskId: NodeTaskId,
  outcome: { readonly applied: true } | { readonly applied: false; readonly reason: string },
  now: Date,
): Promise<void> {
  await tx
    .updateTable('allocation_runtime_bundles')
    .set(
      outcome.applied
        ? { status: 'active', applied_at: now, updated_at: now }
        : { status: 'failed', failure_reason: outcome.reason, updated_at: now },
    )
    .where('apply_task_id', '=', taskId)
    .where('status', '=', 'queued')
    .execute();
}
