import { isIP } from 'node:net';
import type { Schema } from '@gpuaas/contract';
import { asId, errorChain, newId } from '@gpuaas/kernel';
import { audit } from '../../../spine/audit.js';
import { pageOf, pageRequest } from '../../../spine/cursors.js';
import { command, type OperationHandlers, preparedCommand, query } from '../../../spine/operation.js';
import { badRequest, Refusal, refuse } from '../../../spine/refusal.js';
import { freshnessOf } from '../rules/freshness.js';
import { advanceNode, type NodeStatus } from '../rules/node-state.js';
import type { FleetServices } from '../services.js';
import { findHeartbeat, insertNode, listNodes, lockNode, recordDial } from '../store/nodes.js';
import { newPlacementKey } from '../store/placement.js';
import { countSlots } from '../store/slots.js';
import { nodeAdminView } from '../views/node-admin.js';

/** Registering, listing and probing nodes. */
export function nodeOperations(services: FleetServices): OperationHandlers {
  const { occupancy, skuCatalog, life, settings } = services;

  const list = query<'adminListNodes'>(async ({ db, ctx, query: asked }) => {
    const filters = { status: asked.status, region_code: asked.region_code };
    const request = pageRequest(
      ctx,
      { operation: 'adminListNodes', context: '', filters, sort: 'created_at_desc' },
      asked,
    );
    const rows = await listNodes(
      db,
      { statuses: statusesOf(asked.status), regionCode: asked.region_code ?? null },
      positionOf(request.after),
      request.pageSize + 1,
    );
    const page = pageOf(ctx, request, rows, ({ node }) => [node.createdAt.toISOString(), node.id]);
    const occupants = await occupancy.occupancyOf(
      db,
      page.rows.filter(({ node }) => node.openClaims > 0).map(({ node }) => node.id),
    );
    const slots = await countSlots(
      db,
      page.rows.map(({ node }) => node.id),
    );
    const now = ctx.clock.now();
    return {
      status: 200,
      body: {
        items: page.rows.map(({ node, heartbeat }) =>
          nodeAdminView(node, heartbeat, { occupant: occupants.get(node.id) ?? null, slots: slots.get(node.id) }, now),
        ),
        pagination: page.pagination,
      },
    };
  });

  const create = preparedCommand<'adminCreateNode', null>({
    // The catalogue is asked before anything is locked: a SKU is never deleted, so the answer keeps.
    async prepare({ db, body }) {
      requireHost(body.host, '/body/host');
      if (body.hostname !== null && body.hostname !== undefined) requireHost(body.hostname, '/body/hostname');
      if (!REGION_CODE.test(body.region_code)) {
        throw badRequest('region_invalid', '/body/region_code', 'must be 1 to 64 of A-Z a-z 0-9 . _ -');
      }
      if (body.gpus_total > MAXIMUM_GPUS) {
        throw badRequest('gpus_total_too_large', '/body/gpus_total', `must be at most ${MAXIMUM_GPUS}`);
      }
      if ((await skuCatalog.findSku(db, body.sku)) === null) {
        throw new Refusal('sku_not_found', {
          status: 400,
          details: { issues: [{ pointer: '/body/sku', message: 'is not in the catalogue' }] },
        });
      }
      return null;
    },
    async run({ tx, ctx, body }) {
      const now = ctx.clock.now();
      const node = await insertNode(tx, {
        id: newId(),
        host: body.host,
        hostname: body.hostname ?? null,
        port: body.port,
        sshUsername: settings.sshUsername,
        sku: body.sku,
        gpusTotal: body.gpus_total,
        regionCode: body.region_code,
        onboardingMode: body.onboarding_mode,
        placementKey: newPlacementKey(),
        now,
      });
      if (node === null) throw refuse('node_already_exists', { reason: 'host_registered' });
      await audit(tx, ctx, {
        action: 'node.create',
        targetType: 'node',
        targetId: node.id,
        metadata: { host: node.host, sku: node.sku, region_code: node.regionCode },
      });
      if (body.probe) ctx.afterCommit(() => void dial(services, node));
      return { status: 201, body: nodeAdminView(node, null, { occupant: null, slots: undefined }, now) };
    },
  });

  /** Looks at the heartbeat now instead of at the next sweep. */
  const probe = command<'adminProbeNode'>(async ({ tx, ctx, path }) => {
    const node = await lockNode(tx, asId(path.node_id));
    const fresh = freshnessOf(await findHeartbeat(tx, node.id), ctx.clock.now()) === 'fresh';
    const event = fresh ? 'poll' : 'go_silent';
    const step = advanceNode(node.status, event);
    // Only what the sweep would do: a probe enrols nobody.
    if (step.ok && step.changed && (node.status === 'active' || node.status === 'offline')) {
      await life.move(tx, ctx, node, step.to, event);
    }
    await audit(tx, ctx, {
      action: 'node.probe',
      targetType: 'node',
      targetId: node.id,
      metadata: { heartbeat_fresh: fresh },
    });
    return { status: 200, body: { ok: fresh, status: fresh ? 'active' : 'offline' } };
  });

  return { adminListNodes: list, adminCreateNode: create, adminProbeNode: probe, probeV3PlatformNode: probe };
}

type StatusFilter = Schema<'NodeAdmin'>['status'] | 'maintenance';

/** `maintenance` is no status: it stands for all in which an operator has taken the node out of service. */
function statusesOf(filter: StatusFilter | undefined): readonly NodeStatus[] | null {
  if (filter === undefined) return null;
  return filter === 'maintenance' ? ['cordoned', 'draining', 'quarantined'] : [filter];
}

function positionOf(after: readonly (string | null)[] | null): { createdAt: Date; id: string } | null {
  const [createdAt, id] = after ?? [];
  return createdAt && id ? { createdAt: new Date(createdAt), id } : null;
}

const HOST_NAME = /^(?=.{3,253}$)[A-Za-z0-9]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9]([A-Za-z0-9_-]{0,62}))*\.?$/;

const REGION_CODE = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
/** No host is built like that; what is beyond it is a mistake. */
const MAXIMUM_GPUS = 1024;

/** Addresses and names end up in scripts, URLs and known_hosts files. */
function requireHost(text: string, pointer: string): void {
  if (isIP(text) === 0 && !HOST_NAME.test(text)) {
    throw badRequest('host_invalid', pointer, 'must be a host name or an IP address');
  }
}

/** One try to connect to a new node's port: a hint for operators, never a condition. */
async function dial(
  services: FleetServices,
  node: { readonly id: Parameters<typeof recordDial>[1]; readonly host: string; readonly port: number },
): Promise<void> {
  try {
    const reachable = await services.dialHost(node.host, node.port);
    await recordDial(services.database, node.id, reachable, services.clock.now());
  } catch (error) {
    services.log.warn({ error: errorChain(error), node_id: node.id }, 'the dial of a new node could not be recorded');
  }
}
