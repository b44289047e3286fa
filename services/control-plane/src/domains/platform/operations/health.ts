import { databaseAnswers } from '../../../spine/database.js';
import type { Migration } from '../../../spine/migrations.js';
import { migrationsAreCurrent } from '../../../spine/migrations.js';
import { exchange, type Reader } from '../../../spine/operation.js';
import { refuse } from '../../../spine/refusal.js';

const PING_MILLISECONDS = 1_000;

/** Ready means: the database answers within a second and has every table that this program works with. */
export const createGetHealth = ({
  db,
  migrations,
}: {
  readonly db: Reader;
  readonly migrations: readonly Migration[];
}) =>
  exchange<'getHealth'>(async ({ ctx }) => {
    if (!(await databaseAnswers(db, PING_MILLISECONDS))) {
      throw refuse('service_unavailable', { reason: 'database_unreachable' });
    }
    const current = await migrationsAreCurrent(db, migrations).catch((error: unknown) => {
      ctx.log.warn({ err: error }, 'the list of migrations cannot be read');
      return false;
    });
    if (!current) throw refuse('service_unavailable', { reason: 'migrations_pending' });
    return { status: 200, body: { ok: true } };
  });
