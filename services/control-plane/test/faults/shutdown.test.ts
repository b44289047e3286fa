import { randomUUID } from 'node:crypto';
import { get } from 'node:https';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { z } from 'zod';
import { until } from '../harness/waiting.js';
import { Customer, launchText, nothingTold } from './journey.js';
import { untilSomebodyWaits } from './locks.js';
import {
  type ProcessHost,
  type ProcessSite,
  signUp,
  startProcessSite,
  stateText,
  type Tenant,
} from './process-site.js';
import { seededRandom } from './random.js';
import { openConnection, type RawConnection, refusesConnections, requestText } from './raw-http.js';

// SIGTERM: what is in flight is finished, what only waits is let go, and nothing is left half done.

const PROMPTLY = 5_000;

let site: ProcessSite;
let tenant: Tenant;
beforeEach(async () => {
  site = await startProcessSite({ planes: 1, hosts: 1 });
  tenant = await signUp(site);
  await customer().payIn();
}, 120_000);
afterEach(() => site?.stop());

const customer = () =>
  new Customer({ site, told: nothingTold(), random: seededRandom(1), happened: () => undefined }, tenant);
const theOnly = <Item>(items: readonly Item[]): Item => {
  const [item] = items;
  if (item === undefined) throw new Error('there is none');
  return item;
};

/** Runs `inside` while a launch stands in the middle of its transaction, waiting for its wallet. */
async function withLaunchInFlight(
  key: string,
  inside: (connection: RawConnection) => Promise<void>,
): Promise<RawConnection> {
  const connection = await openConnection(theOnly(site.planeUrls));
  try {
    await site.db.transaction().execute(async (tx) => {
      await tx
        .selectFrom('wallet_balances')
        .select('user_id')
        .where('user_id', '=', tenant.userId)
        .forUpdate()
        .execute();
      connection.socket.write(launchText(tenant, key));
      await untilSomebodyWaits(site.database.url);
      await inside(connection);
    });
    return connection;
  } catch (error) {
    connection.socket.destroy();
    throw error;
  }
}

const identity = z.object({ certificate_pem: z.string(), private_key_pem: z.string() });

/** A poll as the host of this certificate; resolves to the status of its answer. */
async function pollAs(host: ProcessHost): Promise<number> {
  const known = identity.parse(JSON.parse((await stateText(host, 'identity.json')) ?? ''));
  return new Promise((resolve, reject) => {
    get(
      {
        port: site.gateway.port,
        path: `/internal/v1/nodes/${host.nodeId}/tasks/wait`,
        cert: known.certificate_pem,
        key: known.private_key_pem,
        rejectUnauthorized: false,
        agent: false,
      },
      (response) => {
        response.resume();
        resolve(response.statusCode ?? 0);
      },
    ).on('error', reject);
  });
}

const lastSeen = async (host: ProcessHost): Promise<number> => {
  const row = await site.db
    .selectFrom('node_heartbeats')
    .select('last_seen_at')
    .where('node_id', '=', host.nodeId)
    .executeTakeFirst();
  return row?.last_seen_at.getTime() ?? 0;
};

it('answers the command in flight, ends held polls with 204, and leaves with 0', async () => {
  await customer().makeKey();
  const plane = theOnly(site.planes);
  const host = theOnly(site.hosts);
  // From here on the test plays the host.
  await host.agent.stop();
  const before = await lastSeen(host);
  const poll = pollAs(host);
  await until(async () => (await lastSeen(host)) > before);

  const key = randomUUID();
  let left: Promise<number | null> = Promise.resolve(null);
  const launch = await withLaunchInFlight(key, async ({ received }) => {
    left = plane.stop();
    expect(await poll).toBe(204);
    await until(() => refusesConnections(theOnly(site.planeUrls)));
    expect(received()).toBe('');
  });
  await until(() => launch.statuses().length === 1);
  expect(launch.statuses()).toEqual([201]);
  const answered = performance.now();
  expect(await left).toBe(0);
  expect(performance.now() - answered).toBeLessThan(PROMPTLY);
  launch.socket.destroy();

  const stored = await site.db.selectFrom('idempotency_keys').select('status').where('key', '=', key).execute();
  expect(stored).toEqual([{ status: 201 }]);
  const { id, node_id: nodeId } = await site.db
    .selectFrom('allocations')
    .select(['id', 'node_id'])
    .executeTakeFirstOrThrow();
  expect(nodeId).toBe(host.nodeId);
  const task = await site.db
    .selectFrom('node_tasks')
    .select(['status', 'attempt'])
    .where('subject_id', '=', id)
    .execute();
  expect(task).toEqual([{ status: 'queued', attempt: 0 }]);

  // What was accepted goes on with the next start.
  plane.start();
  host.agent.start();
  await customer().untilStatus(id, 'active');
}, 120_000);

it('serves what still comes over an open connection while a command is in flight, in the form of the contract', async () => {
  await customer().makeKey();
  const plane = theOnly(site.planes);
  const early = await openConnection(theOnly(site.planeUrls));
  const idle = await openConnection(theOnly(site.planeUrls));
  let left: Promise<number | null> = Promise.resolve(null);
  const launch = await withLaunchInFlight(randomUUID(), async () => {
    left = plane.stop();
    await until(() => refusesConnections(theOnly(site.planeUrls)));
    early.socket.write(requestText('GET', '/api/v1/allocations', {}));
    await until(() => early.received().includes('correlation_id'));
    expect(early.statuses()).toEqual([401]);
    expect(early.received()).toMatch(/^connection: close/im);
  });
  await until(() => launch.statuses().length === 1);
  expect(launch.statuses()).toEqual([201]);
  expect(launch.received()).toMatch(/^connection: close/im);
  // Nobody waits for the one who connected and never asked.
  expect(await left).toBe(0);
  for (const { socket } of [launch, early, idle]) socket.destroy();
}, 120_000);
