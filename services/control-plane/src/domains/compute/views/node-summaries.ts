// Reads fleet's `nodes`, `node_heartbeats`, `node_facts` and `gpuaas_node_resource_slots` beside compute's own tables,
// and changes nothing.
import type { Schema } from '@gpuaas/contract';
import { HEARTBEAT_FRESH_SECONDS } from '@gpuaas/node-protocol';
import { sql } from 'kysely';
import type { Position } from '../../../spine/cursors.js';
import type { Reader } from '../../../spine/operation.js';
import { resourceName } from '../../../spine/wire.js';
import { occupancyStatusOf, readinessOf } from '../rules/node-readiness.js';

/** Nodes that are not in service yet, or have left it, are nobody's business but the operators'. */
const SHOWN = ['active', 'cordoned', 'offline', 'quarantined', 'draining'] as const;

const selectNodes = (reader: Reader) =>
  reader
    .selectFrom('nodes')
    .leftJoin('node_heartbeats as heartbeat', 'heartbeat.node_id', 'nodes.id')
    .leftJoin('node_facts as facts', 'facts.node_id', 'nodes.id')
    .select([
      'nodes.id',
      'nodes.sku',
      'nodes.gpus_total',
      'nodes.status',
      'nodes.region_code',
      'nodes.onboarding_mode',
      'nodes.created_at',
      'nodes.slice_mode',
      'nodes.open_claims',
      'facts.carries_slices',
      'heartbeat.last_seen_at',
    ])
    .select((eb) =>
      eb
        .selectFrom('placement_claims as claim')
        .innerJoin('allocations', 'allocations.id', 'claim.allocation_id')
        .select('allocations.status')
        .whereRef('claim.node_id', '=', 'nodes.id')
        .where('claim.released_at', 'is', null)
        .where('claim.kind', '=', 'node_exclusive')
        .limit(1)
        .as('occupant'),
    )
    .select((eb) =>
      eb
        .selectFrom('gpuaas_node_resource_slots as slot')
        .select((slot) => slot.fn.countAll<bigint>().as('count'))
        .whereRef('slot.node_id', '=', 'nodes.id')
        .where('slot.schedulable', '=', true)
        .as('free_slots'),
    );

export type NodeRow = Awaited<ReturnType<ReturnType<typeof selectNodes>['executeTakeFirstOrThrow']>>;

export interface NodeFilters {
  /** a status of the row, or one of the words that stand for several */
  readonly status: Schema<'NodeSummary'>['status'] | 'online' | 'maintenance' | undefined;
  readonly regionCode: string | undefined;
}

/** Newest first; one row more than the page tells whether there are more. */
export function listNodeSummaries(
  reader: Reader,
  filters: NodeFilters,
  page: { readonly after: Position | null; readonly limit: number },
  now: Date,
): Promise<NodeRow[]> {
  const since = freshSince(now);
  let query = selectNodes(reader)
    .where('nodes.removed_at', 'is', null)
    .where('nodes.status', 'in', SHOWN)
    .orderBy('nodes.created_at', 'desc')
    .orderBy('nodes.id', 'desc')
    .limit(page.limit);
  if (filters.regionCode !== undefined) query = query.where('nodes.region_code', '=', filters.regionCode);
  switch (filters.status) {
    case undefined:
      break;
    case 'maintenance':
      query = query.where('nodes.status', 'in', ['cordoned', 'draining', 'quarantined']);
      break;
    case 'online':
      query = query.where('nodes.status', '=', 'active').where('heartbeat.last_seen_at', '>=', since);
      break;
    case 'offline':
      query = query.where((eb) =>
        eb.or([
          eb('nodes.status', '=', 'offline'),
          eb.and([
            eb('nodes.status', '=', 'active'),
            eb.or([eb('heartbeat.last_seen_at', 'is', null), eb('heartbeat.last_seen_at', '<', since)]),
          ]),
        ]),
      );
      break;
    default:
      query = query.where('nodes.status', '=', filters.status);
  }
  if (page.after) {
    const [createdAt, id] = page.after;
    query = query.where(sql<boolean>`(nodes.created_at, nodes.id) < (${createdAt}::timestamptz, ${id}::uuid)`);
  }
  return query.execute();
}

/** A node as any user of the platform may see it: without address, name or tenant. */
export function nodeSummaryView(row: NodeRow, now: Date): Schema<'NodeSummary'> {
  const facts = {
    status: row.status,
    lastSeenAt: row.last_seen_at,
    occupant: row.occupant,
    slices: row.slice_mode
      ? { free: row.carries_slices === true ? Number(row.free_slots ?? 0n) : 0, claimed: row.open_claims }
      : null,
    freshSince: freshSince(now),
  };
  return {
    id: row.id,
    resource_name: resourceName({ region: row.region_code, kind: 'gpuaas/node', id: row.id }),
    sku: row.sku,
    gpus_total: row.gpus_total,
    status: row.status,
    occupancy_status: occupancyStatusOf(facts),
    in_use: row.open_claims > 0,
    readiness: readinessOf(facts),
    region_code: row.region_code,
    onboarding_mode: row.onboarding_mode,
  };
}

function freshSince(now: Date): Date {
  return new Date(now.getTime() - HEARTBEAT_FRESH_SECONDS * 1000);
}
