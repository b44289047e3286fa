import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { Kysely } from 'kysely';
import pg from 'pg';
import { inject } from 'vitest';
import type { Database } from '../../src/spine/database.generated.js';
import { APPLICATION_ROLE, openDatabase } from '../../src/spine/database.js';
import { TEMPLATE_DATABASE } from './global-setup.js';

export interface TestDatabase {
  /** of the owner; processes that a test starts connect by it */
  readonly url: string;
  /** as the application connects: without the owner's rights */
  readonly db: Kysely<Database>;
  drop(): Promise<void>;
}

const BEING_ACCESSED = '55006';

/** A database of the test's own, migrated and otherwise empty. */
export async function cloneDatabase(options: { poolSize?: number } = {}): Promise<TestDatabase> {
  const name = `test_${randomBytes(8).toString('hex')}`;
  await onServer((client) => client.query(`CREATE DATABASE ${name} TEMPLATE ${TEMPLATE_DATABASE} STRATEGY WAL_LOG`));
  const url = new URL(inject('testServerUrl'));
  url.pathname = `/${name}`;
  const db = openDatabase({
    url: url.href,
    role: APPLICATION_ROLE,
    poolSize: options.poolSize ?? 10,
    applicationName: name,
  });
  return {
    url: url.href,
    db,
    drop: async () => {
      await db.destroy();
      await onServer((client) => client.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`));
    },
  };
}

async function onServer(work: (client: pg.Client) => Promise<unknown>): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    const client = new pg.Client({ connectionString: inject('testServerUrl') });
    await client.connect();
    try {
      await work(client);
      return;
    } catch (error) {
      // Autovacuum may be looking at the template at this very moment.
      const busy = error instanceof pg.DatabaseError && error.code === BEING_ACCESSED;
      if (!busy || attempt >= 50) throw error;
      await delay(20 * attempt);
    } finally {
      await client.end();
    }
  }
}
