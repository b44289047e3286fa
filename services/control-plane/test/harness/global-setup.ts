import { readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import pg from 'pg';
import type { TestProject } from 'vitest/node';
import { startEmbeddedPostgres } from '../../src/adapters/embedded-postgres/index.js';
import { migrate } from '../../src/spine/migrations.js';
import { migrateWorkflowEngine } from '../../src/spine/workflow-engine.js';

declare module 'vitest' {
  interface ProvidedContext {
    /** of the owner, naming the server's maintenance database */
    testServerUrl: string;
  }
}

/** The migrated database that every test database is a copy of. */
export const TEMPLATE_DATABASE = 'gpuaas_template';
const PREFIX = 'gpuaas-test-postgres-';

/** One server a run, without fsync, and one migrated template in it; a test file clones what it needs. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  await removeAbandoned();
  const directory = path.join(tmpdir(), `${PREFIX}${process.pid}`);
  const server = await startEmbeddedPostgres({
    directory,
    database: TEMPLATE_DATABASE,
    durability: 'disposable',
    maxConnections: 400,
    sharedBuffersMegabytes: 64,
  });
  try {
    await migrate(server.url);
    await migrateWorkflowEngine(server.url);
    const maintenance = new URL(server.url);
    maintenance.pathname = '/postgres';
    // A template is copied only while nobody is connected to it: from now on nobody can be.
    const client = new pg.Client({ connectionString: maintenance.href });
    await client.connect();
    await client.query(`ALTER DATABASE ${TEMPLATE_DATABASE} WITH IS_TEMPLATE true ALLOW_CONNECTIONS false`);
    await client.end();
    project.provide('testServerUrl', maintenance.href);
  } catch (error) {
    await server.stop();
    throw error;
  }
  return async () => {
    await server.stop();
    await rm(directory, { recursive: true, force: true });
  };
}

/** Ends the servers of runs that were killed before they could: theirs is a folder named after a dead process. */
async function removeAbandoned(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    const owner = name.startsWith(PREFIX) ? Number(name.slice(PREFIX.length)) : Number.NaN;
    if (!Number.isInteger(owner) || isAlive(owner)) continue;
    const directory = path.join(tmpdir(), name);
    try {
      // Taking the server over is how to find it; a cluster that no longer runs only needs its folder removed.
      const server = await startEmbeddedPostgres({ directory, durability: 'disposable', sharedBuffersMegabytes: 16 });
      await server.stop();
    } catch {
      // It never got as far as a cluster.
    }
    await rm(directory, { recursive: true, force: true });
  }
}

function isAlive(processId: number): boolean {
  try {
    process.kill(processId, 0);
    return true;
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}
