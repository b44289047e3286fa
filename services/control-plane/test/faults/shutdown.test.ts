import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { get } from 'node:https';
import { connect, type Socket } from 'node:net';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { z } from 'zod';
import { until } from '../harness/waiting.js';
import { Customer, nothingTold } from './journey.js';
import { untilSomebodyWaits } from './locks.js';
import {
  type ProcessHost,
  type ProcessSite,
  SKU,
  signUp,
  startProcessSite,
  stateText,
  type Tenant,
} from './process-site.js';
import { seededRandom } from './random.js';

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

/** A launch over a connection of its own, which the caller keeps open as every HTTP client does. */
function launchOver(socket: Socket, key: string): void {
  const body = JSON.stringify({ scheduler_type: 'bare_metal', scheduler_request: { sku: SKU } });
  socket.write(
    [
      'POST /api/v1/allocations HTTP/1.1',
      'host: control-plane',
      'connection: keep-alive',
      `authorization: Bearer ${tenant.token}`,
      `x-project-id: ${tenant.projectId}`,
      `idempotency-key: ${key}`,
      'content-type: application/json',
      `content-length: ${Buffer.byteLength(body)}`,
      '',
      body,
    ].join('\r\n'),
  );
}

async function openConnection(): Promise<{ socket: Socket; received: () => string }> {
  const socket = connect(Number(new URL(theOnly(site.planeUrls)).port), '127.0.0.1');
  await once(socket, 'connect');
  let received = '';
  socket.on('data', (chunk: Buffer) => {
    received += chunk.toString();
  });
  socket.on('error', () => undefined);
  return { socket, received: () => received };
}

const statusesIn = (text: string): number[] =>
  [...text.matchAll(/^HTTP\/1\.1 (\d{3})/gm)].map((match) => Number(match[1]));

async function refusesConnections(): Promise<boolean> {
  const socket = connect(Number(new URL(theOnly(site.planeUrls)).port), '127.0.0.1');
  try {
    await once(socket, 'connect');
    return false;
  } catch {
    return true;
  } finally {
    socket.destroy();
  }
}

/** Runs `inside` while a launch stands in the middle of its transaction, waiting for its wallet. */
async function withLaunchInFlight(key: string, inside: (received: () => string, socket: Socket) => Promise<void>) {
  const { socket, received } = await openConnection();
  try {
    await site.db.transaction().execute(async (tx) => {
      await tx
        .selectFrom('wallet_balances')
        .select('user_id')
        .where('user_id', '=', tenant.userId)
        .forUpdate()
        .execute();
      launchOver(socket, key);
      await untilSomebodyWaits(site.database.url);
      await inside(received, socket);
    });
    return { socket, received };
  } catch (error) {
    socket.destroy();
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
  const { socket, received } = await withLaunchInFlight(key, async (answers) => {
    left = plane.stop();
    expect(await poll).toBe(204);
    await until(refusesConnections);
    expect(answers()).toBe('');
  });
  await until(() => statusesIn(received()).length === 1);
  expect(statusesIn(received())).toEqual([201]);
  const answered = performance.now();
  expect(await left).toBe(0);
  expect(performance.now() - answered).toBeLessThan(PROMPTLY);
  socket.destroy();

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
  const early = await openConnection();
  const idle = await openConnection();
  let left: Promise<number | null> = Promise.resolve(null);
  const { socket, received } = await withLaunchInFlight(randomUUID(), async () => {
    left = plane.stop();
    await until(refusesConnections);
    early.socket.write('GET /api/v1/allocations HTTP/1.1\r\nhost: control-plane\r\n\r\n');
    await until(() => early.received().includes('correlation_id'));
    expect(statusesIn(early.received())).toEqual([401]);
    expect(early.received()).toMatch(/^connection: close/im);
  });
  await until(() => statusesIn(received()).length === 1);
  expect(statusesIn(received())).toEqual([201]);
  expect(received()).toMatch(/^connection: close/im);
  // Nobody waits for the one who connected and never asked.
  expect(await left).toBe(0);
  for (const each of [socket, early.socket, idle.socket]) each.destroy();
}, 120_000);
