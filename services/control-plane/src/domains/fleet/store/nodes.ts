import type { NodeId } from '@gpuaas/kernel';
import { asId } from '@gpuaas/kernel';
import { sql } from 'kysely';
import type { Reader, Tx } from '../../../spine/operation.js';
import { refuse } from '../../../spine/refusal.js';
import type { DrainIntent } from '../rules/lifecycle.js';
import type { NodeStatus } from '../rules/node-state.js';

const NODE_COLUMNS = [
  'nodes.id',
  'nodes.host',
  'nodes.hostname',
  'nodes.port',
  'nodes.ssh_username',
  'nodes.sku',
  'nodes.gpus_total',
  'nodes.region_code',
  'nodes.onboarding_mode',
  'nodes.status',
  'nodes.status_changed_at',
  'nodes.drain_intent',
  'nodes.quiesced_at',
  'nodes.fenced_at',
  'nodes.open_claims',
  'nodes.slice_mode',
  'nodes.desired_agent_version',
  'nodes.desired_delivery_mode',
  'nodes.created_at',
] as const;

export interface NodeRow {
  readonly id: NodeId;
  readonly host: string;
  readonly hostname: string | null;
  readonly port: number;
  readonly sshUsername: string;
  readonly sku: string;
  readonly gpusTotal: number;
  readonly regionCode: string;
  readonly onboardingMode: 'manual' | 'maas';
  readonly status: NodeStatus;
  readonly statusChangedAt: Date;
  readonly drainIntent: DrainIntent | null;
  readonly quiescedAt: Date | null;
  readonly fencedAt: Date | null;
  readonly openClaims: number;
  readonly sliceMode: boolean;
  readonly desiredAgentVersion: string | null;
  readonly desiredDeliveryMode: 'reimage' | 'manual_install' | 'rebootstrap' | null;
  readonly createdAt: Date;
}

export interface NewNode {
  readonly id: NodeId;
  readonly host: string;
  readonly hostname: string | null;
  readonly port: number;
  readonly sshUsername: string;
  readonly sku: string;
  readonly gpusTotal: number;
  readonly regionCode: string;
  readonly onboardingMode: 'manual' | 'maas';
  /** its place in the random order of placement, 0 up to 2^48 */
  readonly placementKey: number;
  readonly now: Date;
}

/** Null where a node of this fleet already stands on that host. */
export async function insertNode(tx: Tx, node: NewNode): Promise<NodeRow | null> {
  const row = await tx
    .insertInto('nodes')
    .values({
      id: node.id,
      host: node.host,
      hostname: node.hostname,
      port: node.port,
      ssh_username: node.sshUsername,
      sku: node.sku,
      gpus_total: node.gpusTotal,
      region_code: node.regionCode,
      onboarding_mode: node.onboardingMode,
      placement_key: node.placementKey,
      status_changed_at: node.now,
      created_at: node.now,
      updated_at: node.now,
    })
    .onConflict((conflict) => conflict.expression(sql`lower(host)`).where('removed_at', 'is', null).doNothing())
    .returning(NODE_COLUMNS)
    .executeTakeFirst();
  return row ? nodeOf(row) : null;
}

/** The node, unless it has left the fleet. */
export async function findNode(reader: Reader, id: NodeId): Promise<NodeRow | null> {
  const row = await reader
    .selectFrom('nodes')
    .select(NODE_COLUMNS)
    .where('nodes.id', '=', id)
    .where('removed_at', 'is', null)
    .executeTakeFirst();
  return row ? nodeOf(row) : null;
}

/** Refuses (404) a node that is unknown or has left. */
export async function getNode(reader: Reader, id: NodeId): Promise<NodeRow> {
  const node = await findNode(reader, id);
  if (node === null) throw refuse('node_not_found');
  return node;
}

/** Locks the node until commit; null where it is unknown or has left. */
export async function lockNodeIfThere(tx: Tx, id: NodeId): Promise<NodeRow | null> {
  const row = await tx
    .selectFrom('nodes')
    .select(NODE_COLUMNS)
    .where('nodes.id', '=', id)
    .where('removed_at', 'is', null)
    .forUpdate()
    .executeTakeFirst();
  return row ? nodeOf(row) : null;
}

/** Locks the node until commit. Refuses (404) a node that is unknown or has left. */
export async function lockNode(tx: Tx, id: NodeId): Promise<NodeRow> {
  const node = await lockNodeIfThere(tx, id);
  if (node === null) throw refuse('node_not_found');
  return node;
}

/** Whether a certificate was ever issued to the node. */
export async function wasEverEnrolled(reader: Reader, id: NodeId): Promise<boolean> {
  const row = await reader
    .selectFrom('node_certificates')
    .select('id')
    .where('node_id', '=', id)
    .limit(1)
    .executeTakeFirst();
  return row !== undefined;
}

export interface NodeChange {
  readonly status: NodeStatus;
  readonly drainIntent?: DrainIntent | null;
  readonly quiescedAt?: Date | null;
  readonly fencedAt?: Date | null;
  readonly signatureRejections?: number;
}

/** Writes a new state of a node that the caller has locked. Outside of draining there is no intent. */
export async function updateNodeStatus(tx: Tx, id: NodeId, change: NodeChange, now: Date): Promise<void> {
  await tx
    .updateTable('nodes')
    .set({
      status: change.status,
      status_changed_at: now,
      drain_intent: change.status === 'draining' ? (change.drainIntent ?? null) : null,
      quiesced_at: change.quiescedAt ?? null,
      ...(change.fencedAt !== undefined && { fenced_at: change.fencedAt }),
      ...(change.signatureRejections !== undefined && { signature_rejections: change.signatureRejections }),
      updated_at: now,
    })
    .where('id', '=', id)
    .execute();
}

export async function markQuiesced(tx: Tx, id: NodeId, now: Date): Promise<void> {
  await tx.updateTable('nodes').set({ quiesced_at: now, updated_at: now }).where('id', '=', id).execute();
}

/** Takes the node out of the fleet for good; the row stays for what points to it. */
export async function markRemoved(tx: Tx, id: NodeId, now: Date): Promise<void> {
  await tx
    .updateTable('nodes')
    .set({ removed_at: now, fenced_at: now, updated_at: now })
    .where('id', '=', id)
    .where('removed_at', 'is', null)
    .execute();
}

/** One more refused signature in a row; returns how many there are now. */
export async function countSignatureRejection(tx: Tx, id: NodeId): Promise<number> {
  const row = await tx
    .updateTable('nodes')
    .set((eb) => ({ signature_rejections: eb('signature_rejections', '+', 1) }))
    .where('id', '=', id)
    .returning('signature_rejections')
    .executeTakeFirst();
  return row?.signature_rejections ?? 0;
}

export async function clearSignatureRejections(tx: Tx, id: NodeId): Promise<void> {
  await tx
    .updateTable('nodes')
    .set({ signature_rejections: 0 })
    .where('id', '=', id)
    .where('signature_rejections', '>', 0)
    .execute();
}

export interface MovedNode {
  readonly id: NodeId;
  readonly from: NodeStatus;
}

/**
 * Moves those of `ids` that stand in one of `from`, locked in the order of their ids; returns each with the status it
 * had. Fenced nodes stay.
 */
export async function moveNodes(
  tx: Tx,
  ids: readonly NodeId[],
  from: readonly NodeStatus[],
  to: NodeStatus,
  now: Date,
): Promise<readonly MovedNode[]> {
  const moved = await sql<{ id: string; from_status: NodeStatus }>`
    WITH found AS (
      SELECT id, status FROM nodes
      WHERE id = ANY(${ids}::uuid[]) AND status = ANY(${from}::text[]) AND removed_at IS NULL AND fenced_at IS NULL
      ORDER BY id FOR UPDATE
    )
    UPDATE nodes SET status = ${to}, status_changed_at = ${now}, updated_at = ${now}
    FROM found WHERE nodes.id = found.id
    RETURNING nodes.id, found.status AS from_status`.execute(tx);
  return moved.rows.map((row) => ({ id: asId(row.id), from: row.from_status }));
}

/**
 * Active nodes whose last poll lies before `silentSince`; at most `limit`. Read from the heartbeats, which are narrow
 * and of which few are old. A node is never active without one: its first poll writes both.
 */
export async function lockSilentNodes(tx: Tx, silentSince: Date, limit: number): Promise<readonly NodeId[]> {
  const silent = await sql<{ id: string }>`
    WITH old AS MATERIALIZED (SELECT node_id FROM node_heartbeats WHERE last_seen_at < ${silentSince})
    SELECT n.id FROM old JOIN nodes n ON n.id = old.node_id
    WHERE n.status = 'active' AND n.removed_at IS NULL
    ORDER BY n.id LIMIT ${limit} FOR UPDATE OF n SKIP LOCKED`.execute(tx);
  return silent.rows.map((row) => asId(row.id));
}

/** Nodes that wait to be enrolled and have neither a token that could do it nor a certificate; at most `limit`. */
export async function lockLapsedNodes(tx: Tx, now: Date, limit: number): Promise<readonly NodeId[]> {
  const lapsed = await sql<{ id: string }>`
    SELECT n.id FROM nodes n
    WHERE n.status IN ('bootstrap_issued', 'enrolling') AND n.removed_at IS NULL
      AND NOT EXISTS (SELECT FROM node_certificates c WHERE c.node_id = n.id)
      AND NOT EXISTS (SELECT FROM node_tokens t WHERE t.node_id = n.id AND t.revoked_at IS NULL AND t.expires_at > ${now})
    ORDER BY n.id LIMIT ${limit} FOR UPDATE OF n SKIP LOCKED`.execute(tx);
  return lapsed.rows.map((row) => asId(row.id));
}

export interface ListedNode {
  readonly node: NodeRow;
  readonly heartbeat: HeartbeatRow | null;
}

export interface HeartbeatRow {
  readonly lastSeenAt: Date;
  readonly agentVersion: string | null;
  readonly agentCommit: string | null;
  readonly agentBuiltAt: string | null;
  readonly bootId: string | null;
}

/** Newest first, `limit` rows after the position (created_at, id). */
export async function listNodes(
  reader: Reader,
  filter: { readonly statuses: readonly NodeStatus[] | null; readonly regionCode: string | null },
  after: { readonly createdAt: Date; readonly id: string } | null,
  limit: number,
): Promise<readonly ListedNode[]> {
  let query = withHeartbeat(reader).where('nodes.removed_at', 'is', null);
  if (filter.statuses !== null) query = query.where('nodes.status', 'in', [...filter.statuses]);
  if (filter.regionCode !== null) query = query.where('nodes.region_code', '=', filter.regionCode);
  if (after !== null)
    query = query.where(sql<boolean>`(nodes.created_at, nodes.id) < (${after.createdAt}, ${after.id}::uuid)`);
  const rows = await query.orderBy('nodes.created_at', 'desc').orderBy('nodes.id', 'desc').limit(limit).execute();
  return rows.map(listedNodeOf);
}

/** A node of the fleet with its last heartbeat; null for one that is unknown or has left. */
export async function findListedNode(reader: Reader, id: NodeId): Promise<ListedNode | null> {
  const row = await withHeartbeat(reader)
    .where('nodes.id', '=', id)
    .where('nodes.removed_at', 'is', null)
    .executeTakeFirst();
  return row === undefined ? null : listedNodeOf(row);
}

export async function findHeartbeat(reader: Reader, id: NodeId): Promise<Date | null> {
  const row = await reader
    .selectFrom('node_heartbeats')
    .select('last_seen_at')
    .where('node_id', '=', id)
    .executeTakeFirst();
  return row?.last_seen_at ?? null;
}

/** Keeps what a dial of the node's port found. */
export async function recordDial(db: Reader, id: NodeId, reachable: boolean, now: Date): Promise<void> {
  await db
    .insertInto('node_facts')
    .values({ node_id: id, port_reachable: reachable, port_dialled_at: now })
    .onConflict((conflict) =>
      conflict.column('node_id').doUpdateSet({ port_reachable: reachable, port_dialled_at: now }),
    )
    .execute();
}

export interface HostFacts {
  readonly kernel: string | null;
  readonly driverVersion: string | null;
  readonly cudaVersion: string | null;
  readonly os: string | null;
  readonly architecture: string | null;
  readonly memoryMib: number | null;
  readonly vcpuCount: number | null;
}

/** Replaces what the host last said of itself. */
export async function recordFacts(
  tx: Tx,
  id: NodeId,
  facts: HostFacts,
  topology: unknown,
  source: { readonly taskId: string; readonly at: Date },
): Promise<void> {
  const columns = {
    kernel: facts.kernel,
    driver_version: facts.driverVersion,
    cuda_version: facts.cudaVersion,
    os: facts.os,
    architecture: facts.architecture,
    memory_mib: facts.memoryMib,
    vcpu_count: facts.vcpuCount,
    topology: JSON.stringify(topology),
    topology_task_id: source.taskId,
    topology_reported_at: source.at,
  };
  await tx
    .insertInto('node_facts')
    .values({ node_id: id, ...columns })
    .onConflict((conflict) => conflict.column('node_id').doUpdateSet(columns))
    .execute();
}

function withHeartbeat(reader: Reader) {
  return reader
    .selectFrom('nodes')
    .leftJoin('node_heartbeats', 'node_heartbeats.node_id', 'nodes.id')
    .select(NODE_COLUMNS)
    .select([
      'node_heartbeats.last_seen_at',
      'node_heartbeats.agent_version',
      'node_heartbeats.agent_commit',
      'node_heartbeats.agent_built_at',
      'node_heartbeats.boot_id',
    ]);
}

interface NodeColumns {
  id: string;
  host: string;
  hostname: string | null;
  port: number;
  ssh_username: string;
  sku: string;
  gpus_total: number;
  region_code: string;
  onboarding_mode: 'manual' | 'maas';
  status: NodeStatus;
  status_changed_at: Date;
  drain_intent: DrainIntent | null;
  quiesced_at: Date | null;
  fenced_at: Date | null;
  open_claims: number;
  slice_mode: boolean;
  desired_agent_version: string | null;
  desired_delivery_mode: 'reimage' | 'manual_install' | 'rebootstrap' | null;
  created_at: Date;
}

interface HeartbeatColumns {
  last_seen_at: Date | null;
  agent_version: string | null;
  agent_commit: string | null;
  agent_built_at: string | null;
  boot_id: string | null;
}

function nodeOf(row: NodeColumns): NodeRow {
  return {
    id: asId(row.id),
    host: row.host,
    hostname: row.hostname,
    port: row.port,
    sshUsername: row.ssh_username,
    sku: row.sku,
    gpusTotal: row.gpus_total,
    regionCode: row.region_code,
    onboardingMode: row.onboarding_mode,
    status: row.status,
    statusChangedAt: row.status_changed_at,
    drainIntent: row.drain_intent,
    quiescedAt: row.quiesced_at,
    fencedAt: row.fenced_at,
    openClaims: row.open_claims,
    sliceMode: row.slice_mode,
    desiredAgentVersion: row.desired_agent_version,
    desiredDeliveryMode: row.desired_delivery_mode,
    createdAt: row.created_at,
  };
}

function listedNodeOf(row: NodeColumns & HeartbeatColumns): ListedNode {
  return {
    node: nodeOf(row),
    heartbeat:
      row.last_seen_at === null
        ? null
        : {
            lastSeenAt: row.last_seen_at,
            agentVersion: row.agent_version,
            agentCommit: row.agent_commit,
            agentBuiltAt: row.agent_built_at,
            bootId: row.boot_id,
          },
  };
}
