import { CompiledQuery, Kysely, PostgresDialect } from 'kysely';
import pg from 'pg';
import { type AfterCommit, deferringPool } from './after-commit.js';
import type { Database } from './database.generated.js';
import type { Reader } from './operation.js';
import { preparingPool } from './prepared-statements.js';

/** The role without rights to change the schema or append-only tables; the first migration makes it. */
export const APPLICATION_ROLE = 'gpuaas_app';

export interface DatabaseOptions {
  readonly url: string;
  /** what the connections act as; without it they keep the rights of the login */
  readonly role?: typeof APPLICATION_ROLE;
  /** connections at most; more callers wait */
  readonly poolSize: number;
  /** every transaction is READ ONLY, also on a primary */
  readonly readOnly?: boolean;
  /** shows in pg_stat_activity */
  readonly applicationName?: string;
  /** a statement that runs longer is cancelled; 0 = never */
  readonly statementTimeoutMilliseconds?: number;
  /** a transaction that stands idle for longer loses its connection, so that its locks cannot stay for ever */
  readonly idleInTransactionTimeoutMilliseconds?: number;
  /** receives what transactions wanted to be told of after their commit; without it NOTIFY runs inside them */
  readonly afterCommit?: AfterCommit;
  /** a connection that broke while nobody used it; the pool replaces it */
  readonly onConnectionError?: (error: Error) => void;
}

const DEFAULT_STATEMENT_TIMEOUT = 30_000;
const DEFAULT_IDLE_IN_TRANSACTION_TIMEOUT = 60_000;

/**
 * A pool of connections with the types of this product: int8 is bigint, numeric and date are text.
 * Connects on first use. `destroy()` waits for running queries and closes it.
 */
export function openDatabase(options: DatabaseOptions): Kysely<Database> {
  const pool = new pg.Pool(connectionConfig(options));
  // Without listeners a server that goes away would end the process: the pool reports for idle connections, a
  // connection in use reports for itself (its query fails as well, which is what the caller sees).
  pool.on('error', (error) => options.onConnectionError?.(error));
  pool.on('connect', (client) => client.on('error', () => undefined));
  return new Kysely<Database>({
    dialect: new PostgresDialect({
      pool: options.afterCommit ? deferringPool(pool, options.afterCommit) : preparingPool(pool),
    }),
  });
}

/** What `pg` needs to connect the way openDatabase does; for the few connections that stay outside the pool. */
export function connectionConfig(options: DatabaseOptions): pg.PoolConfig {
  const settings = {
    ...(options.role && { role: options.role }),
    statement_timeout: options.statementTimeoutMilliseconds ?? DEFAULT_STATEMENT_TIMEOUT,
    idle_in_transaction_session_timeout:
      options.idleInTransactionTimeoutMilliseconds ?? DEFAULT_IDLE_IN_TRANSACTION_TIMEOUT,
    timezone: 'UTC',
    ...(options.readOnly && { default_transaction_read_only: 'on' }),
  };
  return {
    connectionString: options.url,
    max: options.poolSize,
    application_name: options.applicationName ?? 'gpuaas',
    options: Object.entries(settings)
      .map(([name, value]) => `-c ${name}=${value}`)
      .join(' '),
    connectionTimeoutMillis: 10_000,
    idleTimeoutMillis: 60_000,
    keepAlive: true,
    types,
  };
}

const INT8 = 20;
const INT8_ARRAY = 1016;
const DATE = 1082;

// Given to each connection instead of pg's global registry: a library in the same process keeps its own types.
const types: pg.CustomTypesConfig = {
  getTypeParser(oid: number, format?: 'text' | 'binary') {
    if (format !== 'binary') {
      // Money and counters: a number rots above 2^53.
      if (oid === INT8) return BigInt;
      if (oid === INT8_ARRAY) {
        return (value: string) => value.slice(1, -1).split(',').filter(Boolean).map(bigintOrNull);
      }
      // A day has no time zone; as a Date it would shift with the machine's.
      if (oid === DATE) return (value: string) => value;
    }
    return format === 'binary' ? pg.types.getTypeParser(oid, 'binary') : pg.types.getTypeParser(oid, 'text');
  },
};

const bigintOrNull = (text: string): bigint | null => (text === 'NULL' ? null : BigInt(text));

/** Whether the database answers one query within `timeoutMilliseconds`. Never throws. */
export async function databaseAnswers(db: Reader, timeoutMilliseconds: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), timeoutMilliseconds);
  });
  const answer = db.executeQuery(CompiledQuery.raw('select 1')).then(
    () => true,
    () => false,
  );
  try {
    return await Promise.race([answer, late]);
  } finally {
    clearTimeout(timer);
  }
}
