import type { Schema } from '@gpuaas/contract';
import {
  type AllocationId,
  type NodeId,
  newId,
  type OperationRunId,
  type ProjectId,
  type ServiceAccountId,
  type UserId,
} from '@gpuaas/kernel';
import type { CallContext, Tx } from '../../../spine/operation.js';
import type { Policies } from '../../../spine/policy-registry.js';
import { RetryTransaction, sqlState } from '../../../spine/transaction.js';
import type { IdentityPort } from '../ports.js';
import { type LifecycleServices, operationDeadline, publishAllocation } from '../provisioning/lifecycle.js';
import { queueLaunchTask } from '../provisioning/runtime-tasks.js';
import { decideBundle, decideConcurrency, decideImage, decideSku } from '../rules/admission.js';
import { CONCURRENCY_POLICY } from '../rules/limits.js';
import { OPERATION_DEADLINE_SECONDS } from '../rules/operation-state.js';
import { billingUnits, hourlyMinor } from '../rules/rate.js';
import { type CapacityShape, decideGpuCount, type ResourceClass, type SkuFacts, shapeOf } from '../rules/sku.js';
import { countInTurnOf } from '../store/allocations.js';
import { insertLaunch, type Launch, type PlacedAllocation } from '../store/launches.js';
import { imageFacts, shareImageBySlug } from '../store/os-images.js';
import { type BundleRow, bundleFacts, findBundle, insertPendingBundle } from '../store/runtime-bundles.js';
import { type SkuRow, shareSku, skuFacts } from '../store/skus.js';
import type { AllocationRow } from '../views/allocation-view.js';
import { decideGuest } from './guest.js';
import { takePlaces } from './places.js';
import { fundsGate, pass, refusalOf } from './refusals.js';

export interface AdmissionServices extends LifecycleServices {
  readonly identity: IdentityPort;
  readonly policies: Pick<Policies, 'policyNumber'>;
}

/** What someone wants to launch; every way to launch is translated to one of these. */
export interface AdmissionIntent {
  readonly projectId: ProjectId;
  /** whose quota, money and account it is */
  readonly userId: UserId;
  readonly serviceAccountId: ServiceAccountId | null;
  readonly sku: string;
  /** what the caller takes the SKU for, where it says so */
  readonly resourceClass: ResourceClass | null;
  readonly shape: CapacityShape | null;
  /** GPUs of one allocation; null leaves it to the SKU */
  readonly gpuCount: number | null;
  readonly count: number;
  /** with less room than this nothing is created */
  readonly atLeast: number;
  readonly nodeId: NodeId | null;
  readonly regionCode: string | null;
  readonly osImageSlug: string | null;
  /** null takes the keys that the person uses by default */
  readonly sshKeyIds: readonly string[] | null;
  readonly runtimeBundle: { readonly id: string | null; readonly slug: string | null } | null;
  readonly schedulerType: Schema<'Allocation'>['scheduler_type'];
  readonly schedulerRequest: Readonly<Record<string, unknown>>;
  readonly name: string | null;
}

export interface Admission {
  /** in the order of placement; at least `atLeast`, at most `count` */
  readonly allocations: readonly { readonly id: AllocationId; readonly operationId: OperationRunId }[];
  /** the same allocations, as they are shown */
  readonly rows: readonly AllocationRow[];
  readonly requested: number;
}

const UNIQUE_VIOLATION = '23505';
const EXCLUSION_VIOLATION = '23P01';

/**
 * The one way into hardware: checks every rule, sets the money aside, takes the hosts and tells them, in the caller's
 * transaction. Rules apply to the full number asked for; only room may fall short, down to `atLeast`.
 *
 * The order of the steps is the order of the locks, for everyone: project, SKU, image, person, wallet, nodes (by
 * fleet's order), claims. Throws the first refusal; a rival's claim that comes first makes it a RetryTransaction.
 */
export async function admit(
  tx: Tx,
  ctx: CallContext,
  services: AdmissionServices,
  intent: AdmissionIntent,
): Promise<Admission> {
  const project = await services.identity.shareProject(tx, intent.projectId);

  const row = await shareSku(tx, intent.sku);
  const sku = row ? skuFacts(row) : null;
  pass(decideSku(sku, intent));
  if (!row || !sku) throw new Error('an unknown SKU has passed its gate');
  const gpus = decideGpuCount(sku, intent.gpuCount);
  if (!gpus.ok) throw new Error('a number of GPUs that is not offered has passed its gate');

  const image = intent.osImageSlug === null ? undefined : await shareImageBySlug(tx, intent.osImageSlug);
  pass(decideImage(intent.osImageSlug, image ? imageFacts(image) : null, sku));
  const made = await decideGuest(tx, row, sku, gpus.gpus, image);
  if (!made.ok) throw refusalOf(made);
  const keys = await services.identity.sshKeysFor(tx, {
    userId: intent.userId,
    projectId: intent.projectId,
    ids: intent.sshKeyIds,
    held: true,
  });
  const bundle = await bundleOf(tx, intent, sku);
  const account = await services.identity.posixIdentityOf(tx, intent.userId);

  const current = await countInTurnOf(tx, intent.userId);
  const maximum = await services.policies.policyNumber(tx, CONCURRENCY_POLICY, {
    userId: intent.userId,
    projectId: intent.projectId,
    tenantId: project.tenantId,
  });
  pass(decideConcurrency({ maximum, current, wanted: intent.count }));

  const wanted = Array.from({ length: intent.count }, () => newId<'allocation'>());
  const hourly = hourlyMinor(sku, gpus.gpus);
  pass(
    fundsGate(
      await services.funds.holdMany(
        tx,
        wanted.map((allocationId) => ({
          tenantId: project.tenantId,
          userId: intent.userId,
          projectId: intent.projectId,
          hourlyMinor: hourly,
          currency: sku.currency,
          allocationId,
        })),
      ),
    ),
  );

  const places = await takePlaces(tx, services.fleet, {
    ...intent,
    sku,
    gpus: gpus.gpus,
    imageDigest: made.guest?.digest ?? null,
    now: ctx.clock.now(),
  });
  // Read only now that the places are held: the claims before these ended while this launch waited for its turn.
  const now = ctx.clock.now();
  for (const unplaced of wanted.slice(places.length)) await services.funds.release(tx, unplaced);

  const placed = places.map((place, index): PlacedAllocation => {
    const id = wanted[index];
    if (id === undefined) throw new Error('more places were taken than asked for');
    return { ...place, id, operationId: newId() };
  });
  const launch: Launch = {
    tenantId: project.tenantId,
    projectId: intent.projectId,
    requestedByUserId: intent.userId,
    serviceAccountId: intent.serviceAccountId,
    name: intent.name,
    schedulerType: intent.schedulerType,
    schedulerRequest: intent.schedulerRequest,
    capacityShape: shapeOf(sku.resourceClass),
    sku: sku.sku,
    skuSnapshot: snapshotOf(row),
    billingUnit: sku.billingUnit,
    billingUnits: billingUnits(sku, gpus.gpus),
    unitPriceMinor: sku.unitPriceMinor,
    currency: sku.currency,
    osImageId: image?.id ?? made.guest?.image.id ?? null,
    username: account.username,
    uid: account.uid,
    keys,
    correlationId: ctx.correlationId,
    deadlineAt: operationDeadline(now),
  };
  const rows = await insertPlaced(tx, launch, placed, now);

  for (const allocation of placed) {
    if (bundle) {
      await insertPendingBundle(
        tx,
        { allocationId: allocation.id, projectId: intent.projectId, userId: intent.userId, bundleId: bundle.id },
        now,
      );
    }
    const slotIds = allocation.claims.flatMap((claim) => claim.slotId ?? []);
    if (slotIds.length > 0) {
      await services.fleet.moveSlots(tx, ctx, { slotIds, event: 'reserve', allocationId: allocation.id });
    }
    await queueLaunchTask(
      tx,
      ctx,
      services.fleet,
      { ...launch, ...account, ...allocation, currentOperationId: allocation.operationId },
      {
        keys: keys.map((key) => ({ managed_key_id: key.id, public_key: key.publicKey })),
        keySetVersion: FIRST_KEY_SET,
        guest: made.guest?.shape ?? null,
        expiresInSeconds: OPERATION_DEADLINE_SECONDS,
      },
    );
    await publishAllocation(
      tx,
      ctx,
      'requested',
      { ...launch, id: allocation.id, currentOperationId: allocation.operationId, status: 'requested' },
      { sku: sku.sku, node_id: allocation.nodeId },
    );
  }
  return {
    allocations: placed.map(({ id, operationId }) => ({ id, operationId })),
    rows,
    requested: intent.count,
  };
}

/** The version of the key set that an allocation begins with. */
const FIRST_KEY_SET = 1;

async function bundleOf(tx: Tx, intent: AdmissionIntent, sku: SkuFacts): Promise<BundleRow | null> {
  if (intent.runtimeBundle === null) return null;
  const bundle = await findBundle(tx, intent.runtimeBundle);
  pass(decideBundle(bundle ? bundleFacts(bundle) : null, sku.acceleratorVendor));
  return bundle ?? null;
}

async function insertPlaced(
  tx: Tx,
  launch: Launch,
  placed: readonly PlacedAllocation[],
  now: Date,
): Promise<readonly AllocationRow[]> {
  try {
    return await insertLaunch(tx, launch, placed, now);
  } catch (error) {
    const state = sqlState(error);
    if (state === UNIQUE_VIOLATION || state === EXCLUSION_VIOLATION) {
      throw new RetryTransaction('another launch has claimed the host first', { cause: error });
    }
    throw error;
  }
}

/** What of the catalogue an allocation keeps for its own history. */
function snapshotOf(row: SkuRow): Record<string, unknown> {
  return {
    display_name: row.display_name,
    vendor: row.vendor,
    family_id: row.family_id,
    family_version: row.family_version,
    resource_class: row.resource_class,
    scheduling_unit: row.scheduling_unit,
    accelerator_vendor: row.accelerator_vendor,
    accelerator_model: row.accelerator_model,
    accelerator_count: row.accelerator_count,
    vcpu_count: row.vcpu_count,
    memory_mib: row.memory_mib,
  };
}
