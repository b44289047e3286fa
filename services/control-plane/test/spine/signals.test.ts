import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { APPLICATION_ROLE, openDatabase } from '../../src/spine/database.js';
import { createSignals } from '../../src/spine/signals.js';
import { cloneDatabase, type TestDatabase } from '../harness/database.js';
import { until } from '../harness/waiting.js';
import { quietLog } from './support.js';

let database: TestDatabase;
beforeAll(async () => {
  database = await cloneDatabase();
});
afterAll(() => database.drop());

async function pair() {
  const here = createSignals({ url: database.url, log: quietLog });
  const there = createSignals({ url: database.url, log: quietLog });
  await Promise.all([here.ready(), there.ready()]);
  const db = openDatabase({ url: database.url, role: APPLICATION_ROLE, poolSize: 2, afterCommit: here.afterCommit });
  return { here, there, db, close: () => Promise.all([here.close(), there.close(), db.destroy()]) };
}

describe('signals', () => {
  it('reach listeners of this process at the commit and those of others soon after, each once', async () => {
    const { here, there, db, close } = await pair();
    const heard: string[] = [];
    here.subscribe('tasks', (payload) => heard.push(`here ${payload}`));
    there.subscribe('tasks', (payload) => heard.push(`there ${payload}`));
    await db.transaction().execute(async (tx) => {
      await here.notify(tx, 'tasks', 'node-1');
      expect(heard).toEqual([]);
    });
    expect(heard).toEqual(['here node-1']);
    await until(() => heard.includes('there node-1'));
    await here.notify(db, 'tasks', 'last');
    await until(() => heard.includes('there last'));
    expect(heard.filter((each) => each === 'here node-1').length).toBe(1);
    await close();
  });

  it('are not sent by a transaction that rolled back', async () => {
    const { here, there, db, close } = await pair();
    const heard: string[] = [];
    for (const each of [here, there]) each.subscribe('tasks', (payload) => heard.push(payload));
    await db
      .transaction()
      .execute(async (tx) => {
        await here.notify(tx, 'tasks', 'lost');
        throw new Error('rolled back');
      })
      .catch(() => undefined);
    await here.notify(db, 'tasks', 'kept');
    await until(() => heard.length === 2);
    expect(heard).toEqual(['kept', 'kept']);
    await close();
  });

  it('survive the loss of their connection and tell those who wait that something may have been missed', async () => {
    const { here, there, db, close } = await pair();
    let gaps = 0;
    const heard: string[] = [];
    there.onGap(() => {
      gaps += 1;
    });
    there.subscribe('tasks', (payload) => heard.push(payload));
    const owner = openDatabase({ url: database.url, poolSize: 1 });
    await sql`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gpuaas-signals'`.execute(
      owner,
    );
    await until(() => gaps > 0);
    await until(async () => {
      await here.notify(db, 'tasks', 'after');
      return heard.includes('after');
    });
    await owner.destroy();
    await close();
  });

  it('stop reaching a listener that has left, and do not let one listener’s error harm another', async () => {
    const { here, db, close } = await pair();
    const heard: string[] = [];
    const leave = here.subscribe('tasks', () => heard.push('left'));
    here.subscribe('tasks', () => {
      throw new Error('a bad listener');
    });
    here.subscribe('tasks', () => heard.push('stayed'));
    leave();
    await here.notify(db, 'tasks');
    expect(heard).toEqual(['stayed']);
    await expect(here.notify(db, 'tasks', 'x'.repeat(8_000))).rejects.toThrow(/too long/);
    await close();
  });
});
