import type { Clock, Logger, ProjectId } from '@gpuaas/kernel';
import type { DomainModule } from '../../spine/domain.js';
import type { CallContext, Reader, Tx } from '../../spine/operation.js';
import { jobContext } from '../../spine/periodic-jobs.js';
import { inTransaction } from '../../spine/transaction.js';
import { type Admission, type AdmissionIntent, type AdmissionServices, admit } from './admission/admit.js';
import { accessGrantOperations } from './operations/access-grants.js';
import { allocationOperations } from './operations/allocations.js';
import { groupOperations } from './operations/groups.js';
import { launchOperations } from './operations/launch.js';
import { nodeOperations } from './operations/nodes.js';
import { operatorOperations } from './operations/operator.js';
import { osImageOperations } from './operations/os-images.js';
import { skuOperations } from './operations/skus.js';
import { taskOperations } from './operations/tasks.js';
import type { RecordListPrice } from './ports.js';
import { accessSubscribers } from './provisioning/access-events.js';
import { depletedWalletSubscriber } from './provisioning/depleted-wallets.js';
import { markProvisioning } from './provisioning/lifecycle.js';
import { lostRuntimesJob, overdueOperationsJob } from './provisioning/sweeps.js';
import { type AllocationTaskResults, createTaskResults } from './provisioning/task-results.js';
import { countProjectUse, lockAllocation } from './store/allocations.js';
import { recordDispatch } from './store/moves.js';
import { findSku as findSkuRow } from './store/skus.js';
import { occupancyOf } from './views/occupancy.js';

export type { Admission, AdmissionIntent } from './admission/admit.js';
export type {
  FinishedNodeTask,
  FleetPort,
  FundsDecision,
  FundsPort,
  FundsRequest,
  IdentityPort,
  LiveProject,
  LockedNode,
  MeteringPort,
  NodeTaskOutcome,
  NodeTaskRequest,
  SshKey,
} from './ports.js';
export type { ProvisioningEvent } from './provisioning/lifecycle.js';
export { type NodeOccupancy, occupancyOf } from './views/occupancy.js';

export interface ComputeDependencies extends AdmissionServices {
  readonly db: Reader;
  readonly clock: Clock;
  readonly recordListPrice: RecordListPrice;
  readonly log: Logger;
}

/** A node task that a host was just given. */
export interface DispatchedNodeTask {
  readonly type: string;
  readonly operationId: string | null;
  readonly subjectType: string;
  readonly subjectId: string;
}

/** What others may know of a SKU. */
export interface SkuOffer {
  readonly code: string;
  readonly active: boolean;
  /** GPUs of a whole host; null where the SKU does not say */
  readonly acceleratorCount: number | null;
  readonly acceleratorVendor: string | null;
  readonly acceleratorModel: string | null;
}

/** Allocations, the catalogue and placement, as the composition root and the other domains see them. */
export interface ComputeDomain extends DomainModule {
  /** The one way into hardware; see admission/admit.ts. */
  admit(tx: Tx, ctx: CallContext, intent: AdmissionIntent): Promise<Admission>;
  /** Who holds these nodes whole. */
  readonly occupancyOf: typeof occupancyOf;
  findSku(reader: Reader, code: string): Promise<SkuOffer | null>;
  /** What a project still runs or occupies, by kind. */
  projectUsage(tx: Tx, projectId: ProjectId): Promise<Readonly<Record<string, number>>>;
  /** Notes what hosts have taken up: to be told of every dispatch. */
  tasksDispatched(tasks: readonly DispatchedNodeTask[]): Promise<void>;
  /** To be registered with the fleet before the first request is served. */
  readonly taskResultHandlers: readonly AllocationTaskResults[];
}

/** What of a SKU other domains may ask without the rest of compute. */
export async function findSku(reader: Reader, code: string): Promise<SkuOffer | null> {
  const row = await findSkuRow(reader, code);
  if (!row) return null;
  return {
    code: row.sku,
    active: row.active,
    acceleratorCount: row.accelerator_count,
    acceleratorVendor: row.accelerator_vendor,
    acceleratorModel: row.accelerator_model,
  };
}

/** What a project still runs, or holds after a failure: while there is any, the project cannot go. */
export async function projectUsage(tx: Tx, projectId: ProjectId): Promise<Readonly<Record<string, number>>> {
  return { allocations: await countProjectUse(tx, projectId) };
}

export function createComputeDomain(dependencies: ComputeDependencies): ComputeDomain {
  return {
    name: 'compute',
    operations: {
      ...skuOperations(dependencies.recordListPrice),
      ...osImageOperations,
      ...nodeOperations,
      ...taskOperations,
      ...allocationOperations(dependencies),
      ...accessGrantOperations(dependencies),
      ...groupOperations(dependencies),
      ...launchOperations(dependencies),
      ...operatorOperations(dependencies),
    },
    subscribers: [...accessSubscribers(dependencies.fleet), depletedWalletSubscriber(dependencies)],
    periodicJobs: [overdueOperationsJob(dependencies), lostRuntimesJob(dependencies, dependencies.policies)],
    admit: (tx, ctx, intent) => admit(tx, ctx, dependencies, intent),
    occupancyOf,
    findSku,
    projectUsage,
    tasksDispatched: async (tasks) => {
      const all = tasks.flatMap(({ type, operationId, subjectType, subjectId }) =>
        operationId !== null && subjectType === 'allocation'
          ? [{ type, id: operationId, allocationId: subjectId }]
          : [],
      );
      // The slots of a guest move with it, which takes more than one statement.
      const guests = all.filter((one) => one.type === 'slice.vm_provision');
      const operations = all.filter((one) => one.type !== 'slice.vm_provision');
      if (operations.length > 0) await recordDispatch(dependencies.db, operations, dependencies.clock.now());
      for (const guest of guests) await guestDispatched(dependencies, guest);
    },
    taskResultHandlers: [createTaskResults(dependencies)],
  };
}

async function guestDispatched(
  dependencies: ComputeDependencies,
  operation: { readonly id: string; readonly allocationId: string },
): Promise<void> {
  await inTransaction(dependencies.db, async (tx) => {
    const allocation = await lockAllocation(tx, operation.allocationId);
    if (allocation?.status !== 'requested' || allocation.currentOperationId !== operation.id) return;
    await markProvisioning(tx, jobContext('compute.dispatch', dependencies), dependencies, allocation);
  });
}
