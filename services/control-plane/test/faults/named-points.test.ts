import { randomUUID } from 'node:crypto';
import { type RawBuilder, sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { openDatabase } from '../../src/spine/database.js';
import { until } from '../harness/waiting.js';
import { Customer, expectStatus, launchText, nothingTold, type Told } from './journey.js';
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
import { openConnection } from './raw-http.js';
import { findOpenEnds, findUntruths } from './truths.js';

// The points at which a death is most likely to lose or double something, each met exactly: SIGKILL follows a fact.

const PATIENCE = { timeoutMilliseconds: 60_000 };

let site: ProcessSite;
let host: ProcessHost;
let tenant: Tenant;
let customer: Customer;
const told: Told = nothingTold();
beforeAll(async () => {
  site = await startProcessSite({ planes: 2, hosts: 1 });
  host = theOnly(site.hosts);
  tenant = await signUp(site);
  customer = new Customer({ site, told, random: seededRandom(1), happened: () => undefined }, tenant);
  await customer.payIn();
  await customer.makeKey();
}, 120_000);
afterAll(() => site?.stop());
beforeEach(() => site.untilReady());

function theOnly<Item>(items: readonly Item[]): Item {
  const [item] = items;
  if (item === undefined) throw new Error('there is none');
  return item;
}

const [FIRST, SECOND] = [0, 1] as const;
const plane = (index: 0 | 1) => {
  const [program, url] = [site.planes[index], site.planeUrls[index]];
  if (program === undefined || url === undefined) throw new Error(`there is no control plane ${index}`);
  return { program, url };
};

/** The launch of this key, asked for at whichever control plane answers. */
async function launchAgain(key: string): Promise<{ id: string; replayed: boolean }> {
  const body = JSON.parse(launchText(tenant, key).split('\r\n\r\n')[1] ?? '');
  const answer = await site.call({
    method: 'POST',
    path: '/api/v1/allocations',
    token: tenant.token,
    project: tenant.projectId,
    key,
    body,
  });
  expectStatus(answer, 201);
  const { id } = answer.body.allocation;
  told.launches.set(key, [id]);
  return { id, replayed: answer.headers.get('idempotency-replayed') === 'true' };
}

async function launched(): Promise<string> {
  const { id } = await launchAgain(randomUUID());
  await customer.untilStatus(id, 'active');
  return id;
}

async function andBack(id: string): Promise<void> {
  await customer.release(id);
  await customer.untilStatus(id, 'released');
}

/** The tasks of an allocation, by type, with the number of times that each was handed out. */
const tasksOf = (id: string) =>
  site.db
    .selectFrom('node_tasks')
    .select(['id', 'task_type', 'status', 'attempt'])
    .where('subject_id', '=', id)
    .orderBy('issued_at')
    .execute();

describe('a control plane dies', () => {
  it('in the middle of a launch: nothing of it remains, and the same key launches elsewhere', async () => {
    const key = randomUUID();
    const connection = await openConnection(plane(FIRST).url);
    await site.db.transaction().execute(async (tx) => {
      await tx
        .selectFrom('wallet_balances')
        .select('user_id')
        .where('user_id', '=', tenant.userId)
        .forUpdate()
        .execute();
      connection.socket.write(launchText(tenant, key));
      await untilSomebodyWaits(site.database.url);
      await plane(FIRST).program.kill();
    });
    const { id, replayed } = await launchAgain(key);
    expect(replayed).toBe(false);
    await customer.untilStatus(id, 'active');
    await andBack(id);
  });

  it('between the commit of a launch and its answer: the same key gets the answer that nobody heard', async () => {
    const key = randomUUID();
    const connection = await openConnection(plane(SECOND).url);
    connection.socket.pause();
    connection.socket.write(launchText(tenant, key));
    await until(async () => {
      const row = await site.db
        .selectFrom('idempotency_keys')
        .select('status')
        .where('key', '=', key)
        .executeTakeFirst();
      return row?.status === 201;
    });
    await plane(SECOND).program.kill();
    connection.socket.destroy();
    const { id, replayed } = await launchAgain(key);
    expect(replayed).toBe(true);
    await customer.untilStatus(id, 'active');
    await andBack(id);
  });

  it('after it has handed out a task whose answer is lost: the host gets it again, long before the lease ends', async () => {
    site.gateway.swallowAnswers();
    const { id } = await launchAgain(randomUUID());
    await until(async () => theOnly(await tasksOf(id)).status === 'dispatched', PATIENCE);
    await Promise.all([plane(FIRST).program.kill(), plane(SECOND).program.kill()]);
    site.gateway.letThrough();
    const lost = performance.now();
    await customer.untilStatus(id, 'active');
    expect(performance.now() - lost).toBeLessThan(60_000);
    const task = theOnly(await tasksOf(id));
    expect([task.task_type, task.status, task.attempt]).toEqual(['allocation.provision_user', 'completed', 2]);
    await andBack(id);
  });

  it('while it delivers an event: another delivers it, and its effect is there once', async () => {
    const id = await launched();
    const second = await customer.makeKey();
    await customer.setKeys(id, [second]);
    await until(async () => (await tasksOf(id)).every(({ status }) => status === 'completed'), PATIENCE);
    const tasksBefore = (await tasksOf(id)).length;
    await site.db.transaction().execute(async (tx) => {
      // The subscriber needs the allocation.
      await tx.selectFrom('allocations').select('id').where('id', '=', id).forUpdate().execute();
      await customer.revokeKey(second);
      await untilSomebodyWaits(site.database.url);
      await Promise.all([plane(FIRST).program.kill(), plane(SECOND).program.kill()]);
    });
    const event = await until(
      () =>
        site.db
          .selectFrom('outbox_events')
          .select(['id', 'status'])
          .where('event_type', '=', 'identity.ssh_key.revoked')
          .where('aggregate_id', '=', second)
          .where('status', '=', 'published')
          .executeTakeFirst(),
      PATIENCE,
    );
    const inbox = await site.db.selectFrom('inbox').select('consumer').where('event_id', '=', event.id).execute();
    expect(inbox).toEqual([{ consumer: 'compute.revoked-keys' }]);
    await until(async () => (await tasksOf(id)).every(({ status }) => status === 'completed'), PATIENCE);
    expect((await tasksOf(id)).length).toBe(tasksBefore + 1);
    expect(await stateText(host, 'host-users.json')).not.toContain(second);
    await andBack(id);
  });
});

describe('a host’s agent dies', () => {
  it('in the middle of a task: the next one does it again, and reports it once', async () => {
    await host.setFaults([{ id: 'slow', task: 'allocation.provision_user', times: 1, delay_ms: 600_000 }]);
    const { id } = await launchAgain(randomUUID());
    const begun = async () => {
      const journal = (await stateText(host, 'journal.jsonl')) ?? '';
      return journal.split('\n').some((line) => line.includes('"started"') && line.includes(id));
    };
    await until(begun, PATIENCE);
    await host.agent.kill();
    await host.setFaults([]);
    await customer.untilStatus(id, 'active');
    const task = theOnly(await tasksOf(id));
    expect([task.status, task.attempt]).toEqual(['completed', 1]);
    await andBack(id);
  });
});

describe('the database dies', () => {
  it('in the middle of a release: the callers hear that it is away, and the same key releases once', async () => {
    const id = await launched();
    const before = site.retries.unavailable;
    let releasing: Promise<void> = Promise.resolve();
    await site.db
      .transaction()
      .execute(async (tx) => {
        await tx.selectFrom('allocations').select('id').where('id', '=', id).forUpdate().execute();
        releasing = customer.release(id);
        await untilSomebodyWaits(site.database.url);
        await site.database.kill();
      })
      // The lock went with the server that kept it.
      .catch(() => undefined);
    await releasing;
    expect(site.retries.unavailable).toBeGreaterThan(before);
    await customer.untilStatus(id, 'released');
  });
});

it('after all of it everything is as it was told', async () => {
  await until(async () => (await findOpenEnds(site.db)).length === 0, PATIENCE);
  expect(await findUntruths(site, told)).toEqual([]);
  expect(site.retries.internalErrors).toEqual([]);
});

describe('and had anything been wrong, it would have been found', () => {
  const planted: readonly [what: string, plant: RawBuilder<unknown>][] = [
    [
      'claims overlap',
      sql`INSERT INTO placement_claims (id, allocation_id, node_id, kind, status, created_at, released_at)
          SELECT gen_random_uuid(), allocation_id, node_id, kind, status, created_at, released_at
          FROM placement_claims LIMIT 1`,
    ],
    ['count of open claims', sql`UPDATE nodes SET open_claims = open_claims + 1`],
    ['allocation not released', sql`UPDATE allocations SET status = 'failed', released_at = NULL`],
    [
      'hold left behind',
      sql`
      INSERT INTO wallet_holds (allocation_id, tenant_id, user_id, project_id, currency, amount_minor, created_at)
      SELECT id, tenant_id, requested_by_user_id, project_id, currency, 1, created_at FROM allocations LIMIT 1`,
    ],
    ['balance unlike its postings', sql`UPDATE wallet_balances SET balance_minor = balance_minor + 1`],
    ['books, I2', sql`UPDATE wallet_balances SET balance_minor = balance_minor + 1`],
    ['task that nobody did', sql`UPDATE node_tasks SET status = 'failed' WHERE status = 'completed'`],
    ['event not delivered', sql`UPDATE outbox_events SET status = 'pending' WHERE status = 'published'`],
    ['delivered, or not', sql`DELETE FROM inbox`],
    ['key without an answer', sql`UPDATE idempotency_keys SET response = NULL`],
    [
      'audit of a launch, there and never promised',
      sql`
      INSERT INTO audit_logs SELECT (jsonb_populate_record(a, jsonb_build_object('id', gen_random_uuid()))).*
      FROM audit_logs a WHERE action = 'allocation.create' LIMIT 1`,
    ],
    [
      'is completed, here undefined',
      sql`
      INSERT INTO node_tasks SELECT (jsonb_populate_record(t, jsonb_build_object('id', gen_random_uuid()))).*
      FROM node_tasks t WHERE status = 'completed' LIMIT 1`,
    ],
  ];
  it.each(planted)('%s', async (what, plant) => {
    const owner = openDatabase({ url: site.database.url, poolSize: 1 });
    const undo = new Error('nothing of this stays');
    let found: string[] = [];
    try {
      await owner.transaction().execute(async (tx) => {
        await plant.execute(tx);
        found = await findUntruths(site, told, tx);
        throw undo;
      });
    } catch (error) {
      if (error !== undo) throw error;
    } finally {
      await owner.destroy();
    }
    expect(found).toContainEqual(expect.stringContaining(what));
  });

  it('a launch that nobody was promised, and one that is missing', async () => {
    const [[key, ids] = [], ...others] = [...told.launches];
    const forgotten = await findUntruths(site, { ...told, launches: new Map(others) });
    expect(forgotten).toContain(`allocation, there and never promised: ${ids?.[0]}`);
    expect(forgotten).toContain(`key of a launch, there and never promised: ${key}`);
    const missing = await findUntruths(site, { ...told, launches: new Map([...told.launches, ['a key', ['an id']]]) });
    expect(missing).toContain('allocation, promised and not there: an id');
  });
});
