import { errorChain } from '@gpuaas/kernel';
import { databaseAnswers } from '../../../spine/database.js';
import type { Migration } from '../../../spine/migrations.js';
import { migrationsAreCurrent } from '../../../spine/migrations.js';
import { exchange, type Reader } from '../../../spine/operation.js';
import { refuse } from '../../../spine/refusal.js';

const PING_MILLISECONDS = 1_000;

/** Ready means: the database answers within a second and has every table that this program works with. */
export function createGetHealth(dependencies: {
  readonly db: Reader;
  readonly migrations: () => Promise<readonly Migration[]>;
}) {
  const { db, migrations } = dependencies;
  // What the program expects does not change while it runs.
  let wanted: Promise<readonly Migration[]> | null = null;
  return exchange<'getHealth'>(async ({ ctx }) => {
    if (!(await databaseAnswers(db, PING_MILLISECONDS))) {
      throw refuse('service_unavailable', { reason: 'database_unreachable' });
    }
    let current = false;
    try {
      wanted ??= migrations();
      current = await migrationsAreCurrent(db, await wanted);
    } catch (error) {
      wanted = null;
      ctx.log.warn({ error: errorChain(error) }, 'it cannot be told whether the database is up to date');
    }
    if (!current) throw refuse('service_unavailable', { reason: 'migrations_pending' });
    return { status: 200, body: { ok: true } };
  });
}
