import { sql } from 'kysely';
import { openDatabase } from '../../src/spine/database.js';
import { until } from '../harness/waiting.js';

/** Resolves once some statement of this database waits for a lock that another transaction holds. */
export async function untilSomebodyWaits(ownerUrl: string): Promise<void> {
  // The application's role may not see what other sessions do.
  const owner = openDatabase({ url: ownerUrl, poolSize: 1 });
  try {
    await until(
      async () => {
        const { rows } = await sql`
          SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`.execute(owner);
        return rows.length > 0;
      },
      { what: 'a statement to wait for a lock' },
    );
  } finally {
    await owner.destroy();
  }
}
