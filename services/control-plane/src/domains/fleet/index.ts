import type { NodeId, NodeTaskId } from '@gpuaas/kernel';
import { type NodeTaskType, POLL_HOLD_SECONDS } from '@gpuaas/node-protocol';
import type { DomainModule } from '../../spine/domain.js';
import type { CallContext, Reader, Tx } from '../../spine/operation.js';
import type { NodePrincipal } from '../../spine/principal.js';
import { AgentPackage } from './identity/agent-package.js';
import { NodeAuthenticator, type NodeCredentials } from './identity/node-authenticator.js';
import { NodeLife } from './life/node-life.js';
import { moveSlots } from './life/slot-life.js';
import { bootstrapOperations } from './operations/bootstrap.js';
import { discoveryOperations, discoveryResults } from './operations/discovery.js';
import { enrollmentTokenOperations } from './operations/enrollment-tokens.js';
import { identityOperations } from './operations/identity.js';
import { lifecycleOperations } from './operations/lifecycle.js';
import { nodeOperations } from './operations/nodes.js';
import { slotOperations } from './operations/slots.js';
import { taskOperations } from './operations/tasks.js';
import type { FleetDependencies, FleetServices } from './services.js';
import { findListedNode } from './store/nodes.js';
import { type FreeNode, lockFreeNodes, type PlacementWish } from './store/placement.js';
import { type FreeSlice, lockFreeSlots, type SliceRoom, type SliceWish, sliceRoom } from './store/slice-placement.js';
import type { SlotsMove } from './store/slots.js';
import { fleetSweeps } from './sweeps.js';
import { type DispatchListener, HeldPolls } from './tasks/held-polls.js';
import { Presence } from './tasks/presence.js';
import { type NodeTaskRequest, type NodeTaskResultHandler, TaskQueue } from './tasks/task-queue.js';
import { TaskSigner } from './tasks/task-signer.js';

export { NODE_DRAINING, NODE_REMOVED, NODE_STATUS_CHANGED, SLOT_CHANGED } from './events.js';
export type { NodeCredentials } from './identity/node-authenticator.js';
export type {
  CertificateAuthorityPort,
  DialHost,
  FleetSettings,
  IssuedCertificate,
  NodeOccupant,
  OccupancyPort,
  RegistryCredentialPort,
  SkuCatalogPort,
} from './ports.js';
export { type Freshness, freshnessOf, freshSince, isSchedulable } from './rules/freshness.js';

import type { NodeStatus } from './rules/node-state.js';

export { type NodeStatus, nodeStatuses } from './rules/node-state.js';
export type { FleetDependencies } from './services.js';
export type { FreeNode, PlacementWish } from './store/placement.js';
export type { FreeSlice, SliceRoom, SliceWish } from './store/slice-placement.js';
export type { SlotsMove } from './store/slots.js';
export type { DispatchedTask } from './store/tasks.js';
export type { DispatchListener } from './tasks/held-polls.js';
export type {
  FinishedNodeTask,
  NodeTaskOutcome,
  NodeTaskRequest,
  NodeTaskResultHandler,
} from './tasks/task-queue.js';
export { nodeResourceName } from './views/node-admin.js';

/** The fleet, as the composition root and the other domains see it. */
export interface FleetDomain extends DomainModule {
  /** See store/placement.ts. Locks until commit. */
  lockFreeNodes(tx: Tx, wish: PlacementWish): Promise<readonly FreeNode[]>;
  /** See store/slice-placement.ts. Locks until commit. */
  lockFreeSlots(tx: Tx, wish: SliceWish): Promise<readonly FreeSlice[]>;
  /** What lockFreeSlots would find, without taking anything. */
  sliceRoom(reader: Reader, wish: Omit<SliceWish, 'nodeId'>): Promise<SliceRoom>;
  /** Moves the slots of one guest together, in the transaction that moves their claims. See life/slot-life.ts. */
  moveSlots(tx: Tx, ctx: CallContext, move: SlotsMove): Promise<void>;
  /** See TaskQueue.queue. */
  queueNodeTask<Type extends NodeTaskType>(
    tx: Tx,
    ctx: CallContext,
    request: NodeTaskRequest<Type>,
  ): Promise<NodeTaskId>;
  /** Takes back a task that no host has seen; false where one has, or it has ended. Its handler is not told. */
  withdrawNodeTask(tx: Tx, ctx: CallContext, taskId: NodeTaskId): Promise<boolean>;
  /** What a node is sold as and when it was last seen; null for one that is unknown or has left. */
  findNode(reader: Reader, nodeId: NodeId): Promise<NodeOnSale | null>;
  /** To be called in the transaction that released the last claim on a node. */
  claimsEnded(tx: Tx, ctx: CallContext, nodeId: NodeId): Promise<void>;
  /** Adds who acts on results of node tasks. Once a type, before the first request is served. */
  registerTaskResultHandlers(handlers: readonly NodeTaskResultHandler[]): void;
  /** Adds who is told of tasks right after hosts were given them; a hint that may be lost. */
  onTasksDispatched(listener: DispatchListener): void;
  /** Who calls on the node listener. Refuses 401 and, for a fenced node, 403. */
  authenticateNode(credentials: NodeCredentials): Promise<NodePrincipal>;
  /** Polls that wait in this process. */
  heldPolls(): number;
  /** Ends the polls that wait in this process. */
  close(): void;
}

export interface NodeOnSale {
  readonly sku: string;
  readonly regionCode: string;
  readonly status: NodeStatus;
  readonly lastSeenAt: Date | null;
  /** in slots, and not as a whole */
  readonly sliceMode: boolean;
}

async function nodeOnSale(reader: Reader, nodeId: NodeId): Promise<NodeOnSale | null> {
  const found = await findListedNode(reader, nodeId);
  if (found === null) return null;
  const { sku, regionCode, status, sliceMode } = found.node;
  return { sku, regionCode, status, sliceMode, lastSeenAt: found.heartbeat?.lastSeenAt ?? null };
}

/** Default of the hold of a poll, for the settings. */
export const POLL_HOLD_MILLISECONDS = POLL_HOLD_SECONDS * 1000;

export function createFleetDomain(dependencies: FleetDependencies): FleetDomain {
  const { database, custody, signals, clock, log, settings } = dependencies;
  const queue = new TaskQueue({ custody, signals });
  const life = new NodeLife({ queue });
  const signer = new TaskSigner({ database, custody, clock });
  const polls = new HeldPolls({
    database,
    queue,
    signer,
    signals,
    clock,
    log,
    holdMilliseconds: settings.pollHoldMilliseconds,
  });
  const authenticator = new NodeAuthenticator({
    database,
    clock,
    acceptsInternalTokens: settings.acceptsInternalTokens,
  });
  const services: FleetServices = {
    ...dependencies,
    agentPackage: new AgentPackage(settings.nodePackagePath),
    life,
    polls,
    presence: new Presence({ database, clock, log }),
    queue,
    signer,
  };
  queue.register([...life.resultHandlers(), discoveryResults]);

  return {
    name: 'fleet',
    operations: {
      ...nodeOperations(services),
      ...lifecycleOperations(services),
      ...enrollmentTokenOperations(services),
      ...bootstrapOperations(services),
      ...identityOperations(services),
      ...taskOperations(services),
      ...discoveryOperations(services),
      ...slotOperations(services),
    },
    periodicJobs: fleetSweeps(queue),
    lockFreeNodes,
    lockFreeSlots,
    sliceRoom,
    moveSlots,
    queueNodeTask: (tx, ctx, request) => queue.queue(tx, ctx, request),
    withdrawNodeTask: (tx, ctx, taskId) => queue.withdraw(tx, ctx, taskId),
    findNode: nodeOnSale,
    claimsEnded: (tx, ctx, nodeId) => life.claimsEnded(tx, ctx, nodeId),
    registerTaskResultHandlers: (handlers) => queue.register(handlers),
    onTasksDispatched: (listener) => polls.onDispatched(listener),
    authenticateNode: (credentials) => authenticator.authenticate(credentials),
    heldPolls: () => polls.size,
    close: () => polls.close(),
  };
}
