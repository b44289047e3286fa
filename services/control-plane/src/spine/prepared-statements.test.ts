import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cloneDatabase, type TestDatabase } from '../../test/harness/database.js';
import { openDatabase } from './database.js';
import { preparedQuery } from './prepared-statements.js';

const twice = preparedQuery<{ doubled: number }>('test.twice', 'SELECT $1::int * 2 AS doubled');

let database: TestDatabase;
beforeAll(async () => {
  database = await cloneDatabase();
});
afterAll(() => database?.drop());

describe('preparedQuery', () => {
  it.each([
    ['of a plain pool', undefined],
    ['of one that defers notifications', () => undefined],
  ])('is planned once a connection %s', async (_name, afterCommit) => {
    const db = openDatabase({ url: database.url, poolSize: 1, ...(afterCommit && { afterCommit }) });
    try {
      for (const value of [1, 2, 3]) {
        const { rows } = await db.executeQuery(twice([value]));
        expect(rows).toEqual([{ doubled: value * 2 }]);
      }
      await db.transaction().execute((tx) => tx.executeQuery(twice([4])));
      const { rows } = await sql<{ calls: bigint }>`
        SELECT generic_plans + custom_plans AS calls FROM pg_prepared_statements WHERE name = 'test.twice'`.execute(db);
      expect(rows).toEqual([{ calls: 4n }]);
    } finally {
      await db.destroy();
    }
  });

  it('refuses a name that another text has', () => {
    expect(() => preparedQuery('test.twice', 'SELECT 1')).toThrow('test.twice');
  });
});
