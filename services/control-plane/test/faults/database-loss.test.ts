import { createLogger } from '@gpuaas/kernel';
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { errorAnswer } from '../../src/edge/error-response.js';
import { openDatabase } from '../../src/spine/database.js';
import { startTestSite, type TestSite } from '../harness/site.js';
import { untilSomebodyWaits } from './locks.js';

let site: TestSite;
beforeAll(async () => {
  site = await startTestSite({ planes: 1, roles: ['api'] });
});
afterAll(() => site?.stop());

it('a command whose database connection dies under it is answered 503, and works when it is sent again', async () => {
  const person = await site.signup();
  const owner = openDatabase({ url: site.databaseUrl, poolSize: 1 });
  const create = () =>
    site.call({
      method: 'POST',
      path: '/api/v1/ssh-keys',
      token: person.token,
      key: 'the-same-key',
      body: { name: 'key', public_key: `ssh-ed25519 ${Buffer.from(KEY, 'hex').toString('base64')}` },
    });
  const broken = await site.db.transaction().execute(async (tx) => {
    // The command waits for its person in the middle of its transaction.
    await tx.selectFrom('users').select('id').where('id', '=', person.userId).forUpdate().execute();
    const waiting = create();
    await untilSomebodyWaits(site.databaseUrl);
    await sql`
      SELECT pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE datname = current_database() AND wait_event_type = 'Lock'`.execute(owner);
    return waiting;
  });
  await owner.destroy();
  expect([broken.status, broken.body.code, broken.body.details]).toEqual([
    503,
    'service_unavailable',
    { reason: 'database_unavailable' },
  ]);
  expect(broken.headers.get('retry-after')).toBe('2');
  expect((await create()).status).toBe(201);
});

const KEY = `0000000b7373682d6564323535313900000020${'07'.repeat(32)}`;

it('every way in which the driver says that the connection is gone is an unavailable database', () => {
  const log = createLogger({ program: 'test', level: 'silent' });
  const words = [
    'Connection terminated unexpectedly',
    'Connection terminated',
    'Client has encountered a connection error and is not queryable',
    'Client was closed and is not queryable',
    'timeout exceeded when trying to connect',
    'Connection terminated due to connection timeout',
  ];
  expect(words.map((text) => errorAnswer(new Error(text), 'c', log).status)).toEqual(words.map(() => 503));
  expect(errorAnswer(new Error('something else'), 'c', log).status).toBe(500);
});
