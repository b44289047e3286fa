import type { ErrorCode } from '@gpuaas/contract';
import type { AllocationId, NodeId, NodeTaskId, ProjectId, SlotId, SshKeyId, TenantId, UserId } from '@gpuaas/kernel';
import type { NodeTaskType, SliceSlot, TaskParams } from '@gpuaas/node-protocol';
import type { CallContext, Reader, Tx } from '../../spine/operation.js';
import type { BillingUnit } from './rules/sku.js';

/** What compute needs of its neighbours, in its own words; the composition root puts their faces behind it. */

export interface LiveProject {
  readonly projectId: ProjectId;
  readonly tenantId: TenantId;
  readonly name: string;
}

export interface SshKey {
  readonly id: SshKeyId;
  readonly name: string;
  readonly publicKey: string;
  readonly fingerprint: string;
  readonly ownerScope: 'user' | 'project';
}

export interface IdentityPort {
  /** Shares the row until commit, so that the project cannot be deleted under a launch. Refuses unknown and deleted. */
  shareProject(tx: Tx, projectId: ProjectId): Promise<LiveProject>;
  /** The account that the person has on every host; made on first use, never changed. */
  posixIdentityOf(tx: Tx, userId: UserId): Promise<{ readonly username: string; readonly uid: number }>;
  /**
   * The named keys, or the person's usual ones for `ids: null`. Refuses (400) keys that are unknown or not theirs. With
   * `held` their revocation waits for the commit: who is told of it must find every use.
   */
  sshKeysFor(
    reader: Reader,
    owner: {
      readonly userId: UserId;
      readonly projectId: ProjectId;
      readonly ids: readonly string[] | null;
      readonly held?: boolean;
    },
  ): Promise<readonly SshKey[]>;
}

export interface FundsRequest {
  readonly tenantId: TenantId;
  readonly userId: UserId;
  readonly projectId: ProjectId;
  readonly hourlyMinor: bigint;
  readonly currency: string;
}

export type FundsDecision =
  | { readonly allowed: true }
  | { readonly allowed: false; readonly code: ErrorCode; readonly reason: string };

export interface FundsPort {
  /** Whether an hour of it could be paid now; changes nothing. */
  check(reader: Reader, request: FundsRequest): Promise<FundsDecision>;
  /** Sets an hour aside for each allocation, for all or none of them. Locks the wallet until commit. */
  holdMany(
    tx: Tx,
    requests: readonly (FundsRequest & { readonly allocationId: AllocationId })[],
  ): Promise<FundsDecision>;
  /** Gives an hour back that was set aside and is no longer needed. May be repeated. */
  release(tx: Tx, allocationId: AllocationId): Promise<void>;
  /** Whether the wallet has run dry and was not topped up since. */
  isDepleted(
    reader: Reader,
    wallet: { readonly tenantId: string; readonly userId: string; readonly currency: string },
  ): Promise<boolean>;
}

export interface MeteringPort {
  start(
    tx: Tx,
    ctx: CallContext,
    usage: {
      readonly source: 'allocation';
      readonly allocationId: AllocationId;
      readonly tenantId: TenantId;
      readonly projectId: ProjectId;
      readonly userId: UserId;
      readonly sku: string;
      readonly unit: BillingUnit;
      readonly units: number;
      readonly unitPriceMinor: bigint;
      readonly currency: string;
      readonly startedAt: Date;
    },
  ): Promise<void>;
  /** With `givesBack` what was charged already for the time after the end is given back. */
  stop(
    tx: Tx,
    ctx: CallContext,
    usage: { readonly allocationId: AllocationId; readonly endedAt: Date; readonly givesBack?: boolean },
  ): Promise<void>;
}

/** The list price of a SKU, for whoever explains past and coming bills. */
export type RecordListPrice = (
  tx: Tx,
  price: {
    readonly sku: string;
    readonly currency: string;
    readonly billingUnit: BillingUnit;
    readonly unitPriceMinor: bigint;
  },
  effectiveFrom: Date,
  now: Date,
) => Promise<void>;

/** A host that a launch has locked. */
export interface LockedNode {
  readonly nodeId: NodeId;
  readonly hostname: string | null;
  readonly host: string;
  readonly port: number;
  readonly gpusTotal: number;
  readonly regionCode: string;
}

/** The place of one guest: slots of one host, locked. */
export interface LockedSlice {
  readonly nodeId: NodeId;
  readonly regionCode: string;
  readonly slots: readonly {
    readonly slotId: SlotId;
    /** as the host is told of it */
    readonly slot: SliceSlot;
    readonly wipePolicy: TaskParams<'slice.vm_release'>['wipe_policy'];
  }[];
}

export interface SliceWish {
  readonly sku: string;
  /** GPUs of one guest */
  readonly gpuCount: number;
  /** guests */
  readonly count: number;
  readonly regionCode: string | null;
  /** what the guests boot from, `sha256:` and hex; a host that keeps images must have it */
  readonly imageDigest: string | null;
  readonly now: Date;
}

export type SlotEvent = 'reserve' | 'provision' | 'activate' | 'release' | 'free' | 'block';

export interface NodeTaskRequest<Type extends NodeTaskType = NodeTaskType> {
  readonly nodeId: NodeId;
  readonly type: Type;
  readonly params: TaskParams<Type>;
  readonly operationId: string | null;
  readonly subjectType: string;
  readonly subjectId: string;
  readonly expiresInSeconds?: number;
}

export interface FleetPort {
  /**
   * Locks up to `count` hosts that can be sold whole right now; fewer where there are not so many. With `nodeId` that
   * host or a refusal that says why not.
   */
  lockFreeNodes(
    tx: Tx,
    wish: {
      readonly sku: string;
      readonly regionCode: string | null;
      readonly count: number;
      readonly nodeId: NodeId | null;
      readonly now: Date;
    },
  ): Promise<readonly LockedNode[]>;
  /** Locks the places of up to `count` guests, each on one host; fewer where there are not so many. */
  lockFreeSlots(tx: Tx, wish: SliceWish & { readonly nodeId: NodeId | null }): Promise<readonly LockedSlice[]>;
  /** What lockFreeSlots would find, without taking anything. */
  sliceRoom(
    reader: Reader,
    wish: SliceWish,
  ): Promise<{ readonly places: number; readonly freeGpus: number; readonly unclaimedGpus: number }>;
  /** Moves all slots of one guest with their claims. Throws where one is not where its claim says. */
  moveSlots(
    tx: Tx,
    ctx: CallContext,
    move: {
      readonly slotIds: readonly SlotId[];
      readonly event: SlotEvent;
      readonly allocationId: AllocationId;
      readonly reason?: string;
    },
  ): Promise<void>;
  queueNodeTask<Type extends NodeTaskType>(
    tx: Tx,
    ctx: CallContext,
    request: NodeTaskRequest<Type>,
  ): Promise<NodeTaskId>;
  /** Takes back a task that no host has seen; false where one has, or may just be seeing it. Tells no handler. */
  withdrawNodeTask(tx: Tx, ctx: CallContext, taskId: NodeTaskId): Promise<boolean>;
  /** What a node is sold as, whole or in slots; null for one that is unknown or has left. */
  findNode(reader: Reader, nodeId: NodeId): Promise<{ readonly sku: string; readonly sliceMode: boolean } | null>;
  /** The last claim of a host is gone: a drain that waited for it may go on. */
  claimsEnded(tx: Tx, ctx: CallContext, nodeId: NodeId): Promise<void>;
}

/** A node task as its result is handed over. */
export interface FinishedNodeTask {
  readonly id: NodeTaskId;
  readonly type: NodeTaskType;
  readonly nodeId: NodeId;
  readonly operationId: string | null;
  readonly subjectType: string;
  readonly subjectId: string;
  readonly params: unknown;
}

export interface NodeTaskOutcome {
  readonly status: 'completed' | 'failed' | 'rejected' | 'expired';
  readonly output: unknown;
  readonly error: string | null;
  readonly at: Date;
}
