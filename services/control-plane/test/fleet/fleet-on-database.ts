import { randomInt } from 'node:crypto';
import { asId, createLogger, ManualClock, type NodeId, newId } from '@gpuaas/kernel';
import type { Kysely } from 'kysely';
import { createFleetDomain, type FleetDomain, type FleetSettings } from '../../src/domains/fleet/index.js';
import type { NodeStatus } from '../../src/domains/fleet/rules/node-state.js';
import { openCertificateAuthority } from '../../src/spine/certificate-authority.js';
import { CursorCodec } from '../../src/spine/cursors.js';
import { createCustody, parseCustodyKeys } from '../../src/spine/custody.js';
import type { Database } from '../../src/spine/database.generated.js';
import { APPLICATION_ROLE, openDatabase } from '../../src/spine/database.js';
import type { CallContext } from '../../src/spine/operation.js';
import { jobContext } from '../../src/spine/periodic-jobs.js';
import { createSignals } from '../../src/spine/signals.js';
import { cloneDatabase } from '../harness/database.js';

export const START = new Date('2026-11-20T12:00:00.000Z');

/** The fleet alone on a database of its own: without HTTP, without the other domains. */
export interface FleetOnDatabase {
  readonly db: Kysely<Database>;
  readonly fleet: FleetDomain;
  /** of the owner */
  readonly url: string;
  readonly cursors: CursorCodec;
  readonly clock: ManualClock;
  readonly ctx: CallContext;
  /** Another process on the same database. */
  another(): Promise<FleetDomain>;
  /** Nodes that are in service and were seen just now, unless `given` says otherwise. */
  addNodes(count: number, given?: Partial<NodeGiven>): Promise<NodeId[]>;
  stop(): Promise<void>;
}

export interface NodeGiven {
  readonly sku: string;
  readonly regionCode: string;
  readonly status: NodeStatus;
  readonly sliceMode: boolean;
  readonly openClaims: number;
  readonly seenAt: Date | null;
}

export async function fleetOnDatabase(settings: Partial<FleetSettings> = {}): Promise<FleetOnDatabase> {
  const database = await cloneDatabase();
  const clock = new ManualClock(START);
  const log = createLogger({
    program: 'test',
    level: process.env.GPUAAS_TEST_LOG_LEVEL === 'debug' ? 'debug' : 'silent',
  });
  const custody = createCustody(parseCustodyKeys('0f'.repeat(32)));
  const undo: (() => Promise<unknown> | unknown)[] = [() => database.drop()];

  const start = async (): Promise<{ fleet: FleetDomain; db: Kysely<Database> }> => {
    const signals = createSignals({ url: database.url, log });
    undo.unshift(() => signals.close());
    const db = openDatabase({
      url: database.url,
      role: APPLICATION_ROLE,
      poolSize: 20,
      afterCommit: signals.afterCommit,
    });
    undo.unshift(() => db.destroy());
    await signals.ready();
    const fleet = createFleetDomain({
      database: db,
      custody,
      signals,
      certificateAuthority: await openCertificateAuthority({ db, custody, clock, environment: 'test' }),
      clock,
      log,
      occupancy: { occupancyOf: async () => new Map() },
      skuCatalog: { findSku: async (_reader, code) => ({ code }) },
      dialHost: async () => true,
      registryCredential: async () => null,
      settings: {
        nodeApiUrl: () => 'https://nodes.test:8091',
        terminalApiUrl: () => 'https://terminal.test',
        apiCaBundlePem: null,
        nodePackagePath: '/nonexistent/gpuaas-node-agent.tar.gz',
        sshUsername: 'ubuntu',
        acceptsInternalTokens: true,
        pollHoldMilliseconds: 25_000,
        ...settings,
      },
    });
    undo.unshift(() => fleet.close());
    return { fleet, db };
  };

  const { fleet, db } = await start();
  return {
    db,
    fleet,
    url: database.url,
    cursors: new CursorCodec(custody.deriveKey('cursors')),
    clock,
    ctx: jobContext('test', { clock, log }),
    another: async () => (await start()).fleet,
    addNodes: (count, given = {}) => addNodes(db, clock, count, given),
    stop: async () => {
      for (const step of undo) await step();
    },
  };
}

let hosts = 0;

async function addNodes(
  db: Kysely<Database>,
  clock: ManualClock,
  count: number,
  given: Partial<NodeGiven>,
): Promise<NodeId[]> {
  const ids = Array.from({ length: count }, () => newId<'node'>());
  const now = clock.now();
  const status = given.status ?? 'active';
  await db
    .insertInto('nodes')
    .values(
      ids.map((id) => {
        hosts += 1;
        return {
          id,
          host: `host-${hosts}.test`,
          port: 22,
          ssh_username: 'ubuntu',
          sku: given.sku ?? 'h200',
          gpus_total: 8,
          region_code: given.regionCode ?? 'region-1',
          onboarding_mode: 'manual' as const,
          status,
          status_changed_at: now,
          drain_intent: status === 'draining' ? ('maintenance' as const) : null,
          fenced_at: status === 'retired' || status === 'removing' ? now : null,
          slice_mode: given.sliceMode ?? false,
          open_claims: given.openClaims ?? 0,
          placement_key: randomInt(2 ** 48 - 1),
          created_at: now,
          updated_at: now,
        };
      }),
    )
    .execute();
  const seenAt = given.seenAt === undefined ? now : given.seenAt;
  if (seenAt !== null) {
    await db
      .insertInto('node_heartbeats')
      .values(ids.map((id) => ({ node_id: id, last_seen_at: seenAt })))
      .execute();
  }
  return ids.map((id) => asId<'node'>(id));
}
