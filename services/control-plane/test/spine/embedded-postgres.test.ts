import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../src/adapters/embedded-postgres/index.js';
import { startProgram } from '../harness/program.js';
import { until } from '../harness/waiting.js';

let directory: string;
let servers: EmbeddedPostgres[] = [];
beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'gpuaas-embedded-'));
});
afterEach(async () => {
  await Promise.all(servers.map((server) => server.stop()));
  servers = [];
  await rm(directory, { recursive: true, force: true });
});

async function start(options: { durability?: 'durable' | 'disposable' } = {}): Promise<EmbeddedPostgres> {
  const server = await startEmbeddedPostgres({ directory, sharedBuffersMegabytes: 16, ...options });
  servers.push(server);
  return server;
}

async function ask(url: string, sql: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    const { rows } = await client.query<Record<string, unknown>>(sql);
    return rows;
  } finally {
    await client.end();
  }
}

describe('the embedded server', () => {
  it('starts on loopback with a password of its own and finds its data again', async () => {
    const first = await start();
    expect(new URL(first.url).hostname).toBe('127.0.0.1');
    await ask(first.url, 'CREATE TABLE kept AS SELECT 42 AS answer');
    const password = path.join(directory, 'postgres.password');
    expect((await stat(password)).mode & 0o777).toBe(0o600);
    const wrong = new URL(first.url);
    wrong.password = 'guess';
    await expect(ask(wrong.href, 'SELECT 1')).rejects.toThrow(/password/);
    await first.stop();
    const second = await start();
    expect(await ask(second.url, 'SELECT answer FROM kept')).toEqual([{ answer: 42 }]);
    expect(second.adopted).toBe(false);
  });

  it('keeps every commit on disk unless it was told that nobody needs that', async () => {
    const settings = `SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes') ORDER BY name`;
    const server = await start();
    expect((await ask(server.url, settings)).map((row) => row.setting)).toEqual(['on', 'on', 'on']);
  });

  it('is taken over, with its open data, by the next process after its parent was killed', async () => {
    const program = startProgram(new URL('embedded-postgres-program.ts', import.meta.url), {
      TEST_DIRECTORY: directory,
    });
    const line = await until(() => /server (\d+) (\S+)/.exec(program.output()), { what: 'the server of the program' });
    await program.kill();
    const adopted = await start();
    expect(adopted.adopted).toBe(true);
    expect(adopted.processId).toBe(Number(line[1]));
    expect(adopted.url).toBe(line[2]);
    expect(await ask(adopted.url, 'SELECT answer FROM committed')).toEqual([{ answer: 42 }]);
    await adopted.stop();
    expect(
      existsSync(`/proc/${adopted.processId}/cmdline`) &&
        (await readFile(`/proc/${adopted.processId}/cmdline`, 'utf8')) !== '',
    ).toBe(false);
  });

  it('is left alone by a process that comes while its own is still there', async () => {
    const program = startProgram(new URL('embedded-postgres-program.ts', import.meta.url), {
      TEST_DIRECTORY: directory,
    });
    const line = await until(() => /server (\d+) (\S+)/.exec(program.output()), { what: 'the server of the program' });
    const intruder = startEmbeddedPostgres({ directory, patienceMilliseconds: 100 });
    await expect(intruder).rejects.toThrow(/in use by another process/);
    expect(await ask(line[2] ?? '', 'SELECT answer FROM committed')).toEqual([{ answer: 42 }]);
    // One that is about to end is waited for.
    const [successor] = await Promise.all([start(), program.kill()]);
    expect(await ask(successor.url, 'SELECT answer FROM committed')).toEqual([{ answer: 42 }]);
  });

  it('starts over the lock file of a server that was killed, also when its number belongs to another process now', async () => {
    const first = await start();
    await ask(first.url, 'CREATE TABLE committed AS SELECT 42 AS answer');
    process.kill(first.processId, 'SIGKILL');
    await first.stop();
    const lockFile = path.join(directory, 'postgres', 'data', 'postmaster.pid');
    await until(() => !existsSync(`/proc/${first.processId}`));
    const lines = (await readFile(lockFile, 'utf8')).split('\n');
    await writeFile(lockFile, [String(process.pid), ...lines.slice(1)].join('\n'));
    const second = await start();
    expect(second.adopted).toBe(false);
    expect(await ask(second.url, 'SELECT answer FROM committed')).toEqual([{ answer: 42 }]);
  });

  it('begins again when the first start was cut off half-way, and never over data that it does not know', async () => {
    const home = path.join(directory, 'postgres');
    await mkdir(path.join(home, 'unfinished', 'base'), { recursive: true });
    const server = await start();
    expect(await ask(server.url, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
    await server.stop();
    await rm(path.join(home, 'data', 'PG_VERSION'));
    await expect(start()).rejects.toThrow(/PG_VERSION is missing/);
    expect(existsSync(path.join(home, 'data', 'base'))).toBe(true);
  });

  it('says what is wrong when it cannot start', async () => {
    const first = await start();
    const elsewhere = await mkdtemp(path.join(tmpdir(), 'gpuaas-embedded-'));
    await expect(
      startEmbeddedPostgres({ directory: elsewhere, port: first.port, sharedBuffersMegabytes: 16 }),
    ).rejects.toThrow(/did not start|another PostgreSQL|does not answer|password authentication/);
    await rm(elsewhere, { recursive: true, force: true });
  });
});
