import { readdir, readFile } from 'node:fs/promises';
import { sha256Hex } from '@gpuaas/kernel';
import pg from 'pg';
import type { Reader } from './operation.js';

/** The order in which the domains' tables are made: a foreign key may point only to an earlier domain. */
export const MIGRATION_ORDER = [
  'spine',
  'identity',
  'finance',
  'fleet',
  'compute',
  'apps',
  'storage',
  'platform',
  'power',
] as const;

export interface Migration {
  /** `spine/0001_spine` */
  readonly name: string;
  readonly sql: string;
  /** SHA-256 of the file, in hex */
  readonly checksum: string;
}

// The .sql files stay beside their domains' sources, which the package ships; the compiler does not copy them.
// Both src/spine and dist/spine lie two folders below the package.
const SOURCES = new URL('../../src/', import.meta.url);

/** All migrations on disk, in the order in which they are applied. Throws for a badly named file. */
export async function readMigrations(): Promise<readonly Migration[]> {
  const perDomain = await Promise.all(
    MIGRATION_ORDER.map(async (domain) => {
      const folder = new URL(domain === 'spine' ? 'spine/migrations/' : `domains/${domain}/migrations/`, SOURCES);
      const files = (await namesIn(folder)).filter((file) => file.endsWith('.sql')).sort();
      return Promise.all(
        files.map(async (file): Promise<Migration> => {
          if (!/^\d{4}_[a-z0-9_]+\.sql$/.test(file))
            throw new Error(`migration ${domain}/${file} is not named NNNN_name.sql`);
          const sql = await readFile(new URL(file, folder), 'utf8');
          return { name: `${domain}/${file.slice(0, -'.sql'.length)}`, sql, checksum: sha256Hex(sql) };
        }),
      );
    }),
  );
  return perDomain.flat();
}

async function namesIn(folder: URL): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return [];
    throw error;
  }
}

// Any fixed number will do; it only has to differ from other locks on the same database.
const MIGRATION_LOCK = '7236150017732581';

/**
 * Brings the database at `url` up to date and returns the names of what it applied. `url` must be the owner's login.
 * Each file is one transaction; processes that start together wait for each other. Throws, with nothing of the failing
 * file applied, when a file fails, and when a file was altered after it had been applied.
 */
export async function migrate(url: string, migrations?: readonly Migration[]): Promise<readonly string[]> {
  const wanted = migrations ?? (await readMigrations());
  const client = new pg.Client({ connectionString: url, application_name: 'gpuaas-migrations' });
  await client.connect();
  try {
    await client.query('SELECT pg_advisory_lock($1)', [MIGRATION_LOCK]);
    await client.query(`
      CREATE TABLE IF NOT EXISTS schema_migrations (
        name text PRIMARY KEY,
        checksum text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
      )`);
    const applied = await client.query<{ name: string; checksum: string }>(
      'SELECT name, checksum FROM schema_migrations',
    );
    const checksums = new Map(applied.rows.map((row) => [row.name, row.checksum]));
    const altered = wanted.filter((migration) => {
      const checksum = checksums.get(migration.name);
      return checksum !== undefined && checksum !== migration.checksum;
    });
    if (altered.length > 0) {
      throw new Error(
        `migrations were altered after they had been applied: ${altered.map(({ name }) => name).join(', ')}`,
      );
    }
    const pending = wanted.filter((migration) => !checksums.has(migration.name));
    for (const migration of pending) await apply(client, migration);
    return pending.map((migration) => migration.name);
  } finally {
    // Closing the connection gives the lock back.
    await client.end();
  }
}

async function apply(client: pg.Client, migration: Migration): Promise<void> {
  try {
    await client.query('BEGIN');
    await client.query(migration.sql);
    await client.query('INSERT INTO schema_migrations (name, checksum) VALUES ($1, $2)', [
      migration.name,
      migration.checksum,
    ]);
    await client.query('COMMIT');
  } catch (error) {
    await client.query('ROLLBACK');
    throw new Error(`migration ${migration.name} failed${placeOf(error, migration.sql)}`, { cause: error });
  }
}

function placeOf(error: unknown, sql: string): string {
  if (!(error instanceof pg.DatabaseError)) return '';
  const offset = Number(error.position);
  const line = Number.isInteger(offset) && offset > 0 ? ` in line ${sql.slice(0, offset).split('\n').length}` : '';
  return `${line}: ${error.message}`;
}

/**
 * Whether every migration of this program has been applied, in this very form. A database that is ahead of the
 * program counts as current: during a rolling update the old program still serves.
 */
export async function migrationsAreCurrent(db: Reader, wanted: readonly Migration[]): Promise<boolean> {
  const rows = await db.selectFrom('schema_migrations').select(['name', 'checksum']).execute();
  const checksums = new Map(rows.map((row) => [row.name, row.checksum]));
  return wanted.every((migration) => checksums.get(migration.name) === migration.checksum);
}
