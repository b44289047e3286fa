import { randomBytes } from 'node:crypto';
import { mkdir, readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { startEmbeddedPostgres } from '@gpuaas/control-plane/adapters/embedded-postgres/index';
import { migrate } from '@gpuaas/control-plane/spine/migrations';
import { migrateWorkflowEngine } from '@gpuaas/control-plane/spine/workflow-engine';
import pg from 'pg';
import type { BenchmarkRun } from './benchmark.js';
import { controlPlaneProgram, distribution, type Program, startProgram } from './programs.js';

/** What a started control plane says of itself. */
export interface ControlPlaneAddress {
  readonly apiUrl: string;
  readonly nodeUrl: string;
  readonly username: string;
  readonly password: string;
}

export interface ControlPlaneProcess extends ControlPlaneAddress {
  readonly program: Program;
}

export interface BenchmarkSite {
  /** of the owner */
  readonly databaseUrl: string;
  /** of the owner: for fixtures and for looking at the result, never for what is measured */
  readonly database: pg.Pool;
  readonly postgresVersion: string;
  /** of the server, whose connections are its children */
  readonly postgresProcessId: number;
  /** the key that every process of the site keeps secrets with */
  readonly masterKey: string;
  /** Starts the real program of the control plane in a process of its own, on free ports. */
  startControlPlane(options: {
    readonly roles: readonly ('api' | 'worker')[];
    /** loaded with the recording hook: for taking traces, not for measuring */
    readonly records?: boolean;
    readonly profile?: boolean;
    readonly openFiles?: number;
    readonly poolSize?: number;
  }): Promise<ControlPlaneProcess>;
}

/** Pool of a control plane and of everything that is compared with it: the default of the product. */
export const POOL_SIZE = 20;

/** A durable PostgreSQL server with a migrated database, and control planes on it; all of it ends with the run. */
export async function startSite(
  run: BenchmarkRun,
  options: { countStatements?: boolean } = {},
): Promise<BenchmarkSite> {
  const directory = path.join(run.directory, 'database');
  await mkdir(directory, { recursive: true });
  const start = () => startEmbeddedPostgres({ directory, durability: 'durable', maxConnections: MOST_CONNECTIONS });
  let server = await start();
  if (options.countStatements) {
    await onServer(server.url, `ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'`);
    await onServer(server.url, 'ALTER SYSTEM SET pg_stat_statements.track_planning = on');
    await server.stop();
    server = await start();
    await onServer(server.url, 'CREATE EXTENSION pg_stat_statements');
  }
  run.cleanUp(async () => {
    await server.stop();
    await removeElsewhere(directory);
  });
  await migrate(server.url);
  await migrateWorkflowEngine(server.url);
  const database = new pg.Pool({ connectionString: server.url, max: 4, application_name: 'benchmark' });
  database.on('error', () => undefined);
  database.on('connect', (client) => client.on('error', () => undefined));
  run.cleanUp(() => database.end());
  await liftLimits(database);
  const version = await database.query<{ server_version: string }>('SHOW server_version');

  const masterKey = randomBytes(32).toString('hex');
  const dataDirectory = path.join(run.directory, 'control-plane');
  return {
    databaseUrl: server.url,
    database,
    postgresVersion: version.rows[0]?.server_version ?? 'unknown',
    postgresProcessId: server.processId,
    masterKey,
    async startControlPlane({ roles, records = false, profile = false, openFiles, poolSize = POOL_SIZE }) {
      const program = startProgram({
        script: controlPlaneProgram,
        environment: {
          // Development validates every answer against the contract, as well as every request.
          GPUAAS_ENV: 'development',
          GPUAAS_PORT: '0',
          GPUAAS_NODE_PORT: '0',
          GPUAAS_METRICS_PORT: '0',
          GPUAAS_MQTT_PORT: '0',
          GPUAAS_DATA_DIR: dataDirectory,
          GPUAAS_MASTER_KEY: masterKey,
          GPUAAS_ADMIN_PASSWORD: ADMINISTRATOR_PASSWORD,
          GPUAAS_ROLES: roles.join(','),
          GPUAAS_LOG_LEVEL: 'warn',
          GPUAAS_DATABASE_POOL: String(poolSize),
          DATABASE_URL: server.url,
        },
        ...(records && { preload: [new URL('../replay/recording-hook.js', import.meta.url).href] }),
        profileDirectory: profile ? run.profileDirectory : null,
        ...(openFiles !== undefined && { openFiles }),
      });
      run.cleanUp(() => program.stop());
      const address = await program.ready;
      if (!isAddress(address)) throw new Error('the control plane did not say where it is');
      return { ...address, program };
    },
  };
}

const MOST_CONNECTIONS = 300;

async function onServer(url: string, statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await client.query(statement);
  await client.end();
}

/** What cost the server most since the last call, in a site that counts statements; a line each. */
export async function costlyStatements(site: BenchmarkSite, units: number): Promise<string[]> {
  const { rows } = await site.database.query<{ line: string }>(
    `SELECT format('%s ms (%s planned), %s times: %s', round((total_exec_time + total_plan_time)::numeric / $1, 3),
       round(total_plan_time::numeric / $1, 3), round(calls::numeric / $1, 2),
       left(regexp_replace(query, '\\s+', ' ', 'g'), 160)) AS line
     FROM pg_stat_statements ORDER BY total_exec_time + total_plan_time DESC LIMIT 25`,
    [units],
  );
  await site.database.query('SELECT pg_stat_statements_reset()');
  return rows.map(({ line }) => line);
}

const ADMINISTRATOR_PASSWORD = 'a password for benchmarks alone';

/** Every limit a site may tune at its maximum: what is measured is the work, not the refusal of it. */
async function liftLimits(database: pg.Pool): Promise<void> {
  const limits: [string, number, number][] = [
    ['rate_limit.api_requests_per_minute', 1, 1_000_000],
    ['rate_limit.console_reads_per_minute', 1, 1_000_000],
    ['rate_limit.financial_requests_per_minute', 1, 1_000_000],
    ['rate_limit.admin_overview_requests_per_minute', 1, 1_000_000],
    ['allocation.max_concurrent_per_user', 1, 500],
  ];
  for (const [key, minimum, maximum] of limits) {
    await database.query(
      `INSERT INTO policy_definitions (key, value_type, default_value, minimum, maximum, description)
       VALUES ($1, 'integer', $2, $3, $4, '') ON CONFLICT (key) DO NOTHING`,
      [key, String(maximum), minimum, maximum],
    );
    await database.query(`INSERT INTO policy_values (key, scope, value, updated_at) VALUES ($1, 'global', $2, now())`, [
      key,
      String(maximum),
    ]);
  }
}

/** Where the server's account could not reach the run's folder, its data lies elsewhere and is named in a file. */
async function removeElsewhere(directory: string): Promise<void> {
  const elsewhere = await readFile(path.join(directory, 'postgres.location'), 'utf8').catch(() => null);
  if (elsewhere !== null) await rm(elsewhere.trim(), { recursive: true, force: true });
}

function isAddress(value: unknown): value is ControlPlaneAddress {
  return (
    typeof value === 'object' &&
    value !== null &&
    'apiUrl' in value &&
    typeof value.apiUrl === 'string' &&
    'nodeUrl' in value &&
    'username' in value &&
    'password' in value
  );
}

/** Where programs of the suite lie once compiled. */
export const programFile = (name: string): string => path.join(distribution, name);
