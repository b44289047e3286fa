import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Notification } from '../../src/spine/after-commit.js';
import { notifyQuery } from '../../src/spine/after-commit.js';
import { APPLICATION_ROLE, databaseAnswers, openDatabase } from '../../src/spine/database.js';
import { migrate, migrationsAreCurrent, readMigrations } from '../../src/spine/migrations.js';
import { cloneDatabase, type TestDatabase } from '../harness/database.js';

let database: TestDatabase;
beforeAll(async () => {
  database = await cloneDatabase();
});
afterAll(() => database.drop());

describe('a connection of the application', () => {
  it('reads whole numbers without loss, days as text and times as instants', async () => {
    const { rows } = await sql<Record<string, unknown>>`
      SELECT 9007199254740993::bigint AS big, ARRAY[9007199254740993, NULL]::bigint[] AS bigs,
             12.50::numeric AS amount, DATE '2026-03-29' AS day, TIMESTAMPTZ '2026-03-29 01:30:00.123+00' AS instant
    `.execute(database.db);
    expect(rows[0]).toEqual({
      big: 9007199254740993n,
      bigs: [9007199254740993n, null],
      amount: '12.50',
      day: '2026-03-29',
      instant: new Date('2026-03-29T01:30:00.123Z'),
    });
  });

  it('cannot change the schema, the migrations or another role', async () => {
    await expect(sql`CREATE TABLE intruder (id int)`.execute(database.db)).rejects.toThrow(/permission denied/);
    await expect(sql`DELETE FROM schema_migrations`.execute(database.db)).rejects.toThrow(/permission denied/);
    await expect(sql`ALTER TABLE audit_logs DISABLE TRIGGER ALL`.execute(database.db)).rejects.toThrow(/owner/);
  });

  it('works in UTC whatever the machine says', async () => {
    const { rows } = await sql<{ zone: string }>`SELECT current_setting('timezone') AS zone`.execute(database.db);
    expect(rows[0]?.zone).toBe('UTC');
  });
});

describe('a read-only connection', () => {
  it('refuses to write', async () => {
    const readOnly = openDatabase({ url: database.url, role: APPLICATION_ROLE, poolSize: 1, readOnly: true });
    await expect(
      sql`INSERT INTO inbox (consumer, event_id) VALUES ('x', gen_random_uuid())`.execute(readOnly),
    ).rejects.toThrow(/read-only/);
    await readOnly.destroy();
  });
});

describe('the audit table', () => {
  it('takes no update and no delete, not even from the owner, not even on a partition', async () => {
    const owner = openDatabase({ url: database.url, poolSize: 1 });
    const { rows } = await sql<{ name: string }>`
      SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'audit_logs'::regclass`.execute(owner);
    expect(rows.length).toBeGreaterThanOrEqual(5);
    for (const table of ['audit_logs', ...rows.map((row) => row.name)]) {
      for (const statement of [`UPDATE ${table} SET action = 'x'`, `DELETE FROM ${table}`, `TRUNCATE ${table}`]) {
        await expect(sql.raw(statement).execute(database.db), statement).rejects.toThrow(/permission denied/);
        await expect(sql.raw(statement).execute(owner), statement).rejects.toThrow(/append-only/);
      }
    }
    await owner.destroy();
  });

  it('makes partitions ahead once, also when two workers ask at the same time', async () => {
    const ask = () => sql<{ made: string[] }>`SELECT ensure_audit_partitions(8) AS made`.execute(database.db);
    const answers = await Promise.all([ask(), ask(), ask()]);
    const made = answers.flatMap((answer) => answer.rows[0]?.made ?? []);
    expect(made.length).toBe(5);
    expect(new Set(made).size).toBe(5);
  });
});

describe('migrations', () => {
  it('are current in a fresh database and are not applied twice', async () => {
    const wanted = await readMigrations();
    expect(await migrationsAreCurrent(database.db, wanted)).toBe(true);
    expect(await migrate(database.url, wanted)).toEqual([]);
    expect(
      await migrationsAreCurrent(database.db, [...wanted, { name: 'power/9999_new', sql: '', checksum: 'x' }]),
    ).toBe(false);
  });

  it('refuse a file that was altered after it had been applied', async () => {
    const [first] = await readMigrations();
    if (!first) throw new Error('no migration');
    await expect(migrate(database.url, [{ ...first, checksum: 'other' }])).rejects.toThrow(
      /altered.*spine\/0001_spine/,
    );
  });

  it('leave nothing of a file that fails, and say where it failed', async () => {
    const broken = { name: 'power/9998_broken', sql: 'CREATE TABLE half (id int);\nSELEC 1;', checksum: 'x' };
    await expect(migrate(database.url, [broken])).rejects.toThrow(/power\/9998_broken failed in line 2/);
    const { rows } = await sql`SELECT to_regclass('half') AS half`.execute(database.db);
    expect(rows[0]).toEqual({ half: null });
  });

  it('are applied once when several processes start together', async () => {
    const migration = { name: 'power/9997_once', sql: 'CREATE TABLE once (id int)', checksum: 'y' };
    const applied = await Promise.all([1, 2, 3, 4].map(() => migrate(database.url, [migration])));
    expect(applied.flat()).toEqual(['power/9997_once']);
  });
});

describe('notifications of a transaction', () => {
  const told: Notification[] = [];
  const open = () =>
    openDatabase({
      url: database.url,
      role: APPLICATION_ROLE,
      poolSize: 2,
      afterCommit: (notifications) => told.push(...notifications),
    });

  it('are handed over after the commit, once each, and never after a rollback', async () => {
    const db = open();
    await db.transaction().execute(async (tx) => {
      await tx.executeQuery(notifyQuery('a', '1'));
      await tx.executeQuery(notifyQuery('a', '1'));
      await tx.executeQuery(notifyQuery('b', '2'));
      expect(told).toEqual([]);
    });
    expect(told.splice(0)).toEqual([
      { channel: 'a', payload: '1' },
      { channel: 'b', payload: '2' },
    ]);
    await expect(
      db.transaction().execute(async (tx) => {
        await tx.executeQuery(notifyQuery('a', '1'));
        throw new Error('changed my mind');
      }),
    ).rejects.toThrow('changed my mind');
    await db.transaction().execute(async (tx) => sql`SELECT 1`.execute(tx));
    expect(told).toEqual([]);
    await db.destroy();
  });
});

describe('databaseAnswers', () => {
  it('is false for a server that is not there', async () => {
    const nowhere = openDatabase({ url: 'postgresql://nobody@127.0.0.1:1/none', poolSize: 1 });
    expect(await databaseAnswers(nowhere, 1_000)).toBe(false);
    expect(await databaseAnswers(database.db, 1_000)).toBe(true);
    await nowhere.destroy();
  });
});
