import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmod, chown, mkdir, open, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { type Account, accountFor, canRead } from './account.js';
import { type Binaries, findBinaries } from './binaries.js';
import { type DirectoryLock, lockDirectory } from './directory-lock.js';

export interface EmbeddedPostgresOptions {
  /** everything of the server lies in here: data, password, log */
  readonly directory: string;
  /** a free one is chosen where none is given; it may change from start to start */
  readonly port?: number;
  /** made on first start */
  readonly database?: string;
  /** `disposable` trades durability for speed: for tests whose data nobody needs after a crash */
  readonly durability?: 'durable' | 'disposable';
  readonly maxConnections?: number;
  readonly sharedBuffersMegabytes?: number;
  /** where the server cannot live inside `directory`: for root, whose files its account cannot reach */
  readonly stateRoot?: string;
  /** how long a process that is just giving the directory up is waited for; default 10 s */
  readonly patienceMilliseconds?: number;
}

export interface EmbeddedPostgres {
  /** of the owner; contains the password */
  readonly url: string;
  readonly port: number;
  readonly processId: number;
  /** a server that an earlier process had left running was taken over */
  readonly adopted: boolean;
  /** Ends sessions, writes a checkpoint and waits for the end of the server. May be repeated. */
  stop(): Promise<void>;
}

const USER = 'gpuaas';
const START_TIMEOUT_MILLISECONDS = 60_000;
const STOP_TIMEOUT_MILLISECONDS = 60_000;
const PATIENCE_MILLISECONDS = 10_000;

/**
 * Starts the PostgreSQL server of the npm package on loopback, with the data in `directory`, or takes over one that
 * still runs there after its parent was killed. The first start makes the cluster and a random password (mode 0600).
 * As root the server runs under the account `postgres`, which is made where it is missing.
 * Throws where another process uses the directory: whoever stops first would stop the server of both.
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const directory = path.resolve(options.directory);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const lock = await lockDirectory(directory, options.patienceMilliseconds ?? PATIENCE_MILLISECONDS);
  try {
    return await startLocked(directory, lock, options);
  } catch (error) {
    await lock.release();
    throw error;
  }
}

async function startLocked(
  directory: string,
  lock: DirectoryLock,
  options: EmbeddedPostgresOptions,
): Promise<EmbeddedPostgres> {
  const account = await accountFor();
  const binaries = await findBinaries(account);
  const home = await homeOf(directory, account, options.stateRoot ?? '/var/lib/gpuaas');
  const password = await ensurePassword(path.join(directory, 'postgres.password'));
  const database = options.database ?? 'gpuaas';

  const running = await findRunning(home);
  if (running) {
    const url = urlOf(password, running.port, 'postgres');
    await waitUntilAnswers(url, home, START_TIMEOUT_MILLISECONDS, () => isAlive(running.processId));
    await ensureDatabase(url, database);
    return handle(running, true, urlOf(password, running.port, database));
  }

  await ensureCluster(home, password, binaries, account, options);
  for (let attempt = 1; ; attempt += 1) {
    const port = options.port ?? (await freePort());
    try {
      const processId = await launch(home, port, password, binaries, account, options);
      await ensureDatabase(urlOf(password, port, 'postgres'), database);
      return handle({ processId, port }, false, urlOf(password, port, database));
    } catch (error) {
      // Between choosing a free port and taking it somebody else may have had it.
      const taken = error instanceof StartError && error.portTaken;
      if (!taken || options.port !== undefined || attempt >= 5) throw error;
    }
  }

  function handle(server: RunningServer, adopted: boolean, url: string): EmbeddedPostgres {
    return {
      url,
      port: server.port,
      processId: server.processId,
      adopted,
      stop: async () => {
        await stop(server.processId);
        await lock.release();
      },
    };
  }
}

interface RunningServer {
  readonly processId: number;
  readonly port: number;
}

class StartError extends Error {
  readonly portTaken: boolean;
  constructor(log: string) {
    super(`PostgreSQL did not start:\n${log}`);
    this.name = 'StartError';
    this.portTaken = /could not bind|Address already in use/i.test(log);
  }
}

/** The folder of the cluster: inside `directory`, or, where the server's account cannot go there, under `stateRoot`. */
async function homeOf(directory: string, account: Account | null, stateRoot: string): Promise<string> {
  const inside = path.join(directory, 'postgres');
  if (account === null) {
    await mkdir(inside, { recursive: true, mode: 0o700 });
    return inside;
  }
  const pointer = path.join(directory, 'postgres.location');
  const elsewhere = await readText(pointer);
  if (elsewhere !== null) return elsewhere.trim();
  // The account has to pass through the data directory, not to read it.
  await chmod(directory, ((await stat(directory)).mode & 0o777) | 0o011);
  await mkdir(inside, { recursive: true, mode: 0o700 });
  await chown(inside, account.uid, account.gid);
  if (await canRead(inside, account)) return inside;
  const outside = path.join(stateRoot, `postgres-${randomBytes(6).toString('hex')}`);
  await mkdir(outside, { recursive: true, mode: 0o755 });
  await chmod(outside, 0o700);
  await chown(outside, account.uid, account.gid);
  await writeFile(pointer, `${outside}\n`, { mode: 0o600 });
  await rm(inside, { recursive: true });
  return outside;
}

async function ensurePassword(file: string): Promise<string> {
  const known = await readText(file);
  if (known !== null && known.trim() !== '') return known.trim();
  const password = randomBytes(24).toString('base64url');
  const temporary = `${file}.${process.pid}`;
  await writeFile(temporary, `${password}\n`, { mode: 0o600 });
  await rename(temporary, file);
  return password;
}

/** Makes the cluster beside its place and moves it there when it is whole: a crash half-way leaves nothing usable. */
async function ensureCluster(
  home: string,
  password: string,
  binaries: Binaries,
  account: Account | null,
  options: EmbeddedPostgresOptions,
): Promise<void> {
  const data = dataOf(home);
  if ((await readText(path.join(data, 'PG_VERSION'))) !== null) return;
  const unfinished = path.join(home, 'unfinished');
  // Whatever this is, it did not come from a start that was cut off: nothing of it is touched.
  if (await exists(data)) throw new Error(`${data} is not a PostgreSQL cluster: PG_VERSION is missing`);
  await rm(unfinished, { recursive: true, force: true });
  const passwordFile = path.join(home, 'initial-password');
  await writeFile(passwordFile, `${password}\n`, { mode: 0o600 });
  if (account) await chown(passwordFile, account.uid, account.gid);
  try {
    await run(
      binaries.initdb,
      [
        `--pgdata=${unfinished}`,
        `--username=${USER}`,
        `--pwfile=${passwordFile}`,
        '--auth=scram-sha-256',
        '--encoding=UTF8',
        // Byte order: the same on every machine, and what keyset pages and prefix indexes are made for.
        '--locale-provider=builtin',
        '--builtin-locale=C.UTF-8',
        '--locale=C',
        '--no-instructions',
        ...(options.durability === 'disposable' ? ['--no-sync'] : []),
      ],
      account,
    );
  } finally {
    await rm(passwordFile, { force: true });
  }
  await rename(unfinished, data);
}

const dataOf = (home: string): string => path.join(home, 'data');

async function launch(
  home: string,
  port: number,
  password: string,
  binaries: Binaries,
  account: Account | null,
  options: EmbeddedPostgresOptions,
): Promise<number> {
  const data = dataOf(home);
  const settings: Record<string, string> = {
    port: String(port),
    listen_addresses: '127.0.0.1',
    // Paths of sockets are limited to about a hundred bytes and data directories are not.
    unix_socket_directories: '',
    max_connections: String(options.maxConnections ?? 200),
    shared_buffers: `${options.sharedBuffersMegabytes ?? 256}MB`,
    max_wal_size: '2GB',
    checkpoint_timeout: '15min',
    wal_compression: 'on',
    random_page_cost: '1.1',
    // Our statements are short; compiling them costs more than running them.
    jit: 'off',
    autovacuum_naptime: '15s',
    log_min_messages: 'warning',
    ...(options.durability === 'disposable'
      ? { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off', autovacuum: 'on' }
      : { fsync: 'on', synchronous_commit: 'on' }),
  };
  const logFile = path.join(home, 'server.log');
  const log = await open(logFile, 'w', 0o600);
  if (account) await chown(logFile, account.uid, account.gid);
  const child = spawn(
    binaries.postgres,
    ['-D', data, ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])],
    {
      ...(account && { uid: account.uid, gid: account.gid }),
      cwd: home,
      // A session of its own: Ctrl-C in a terminal must reach us, who then stop the server when its users are done.
      detached: true,
      stdio: ['ignore', log.fd, log.fd],
      env: { PATH: process.env.PATH, LC_ALL: 'C', ...(account === null && { HOME: process.env.HOME }) },
    },
  );
  await log.close();
  let ended = false;
  child.once('exit', () => {
    ended = true;
  });
  const failed = new Promise<never>((_resolve, reject) => child.once('error', reject));
  child.unref();
  const url = urlOf(password, port, 'postgres');
  try {
    await Promise.race([failed, waitUntilAnswers(url, home, START_TIMEOUT_MILLISECONDS, () => !ended)]);
  } catch (error) {
    if (!ended && child.pid !== undefined) await stop(child.pid);
    if (!ended) throw error;
    throw new StartError((await readText(logFile)) ?? '');
  }
  if (child.pid === undefined) throw new StartError('');
  return child.pid;
}

/** Waits until the server answers and is the one of `home`; somebody else's server on the port is refused. */
async function waitUntilAnswers(
  url: string,
  home: string,
  timeoutMilliseconds: number,
  alive: () => boolean | Promise<boolean>,
): Promise<void> {
  const deadline = Date.now() + timeoutMilliseconds;
  for (;;) {
    const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 2_000 });
    client.on('error', () => undefined);
    try {
      await client.connect();
      const answer = await client.query<{ data: string }>(`SELECT current_setting('data_directory') AS data`);
      if (answer.rows[0]?.data !== dataOf(home)) throw new Error('another PostgreSQL server answers on this port');
      return;
    } catch (error) {
      if (!(await alive())) throw new Error('PostgreSQL ended while it started', { cause: error });
      if (Date.now() >= deadline) throw new Error('PostgreSQL does not answer', { cause: error });
    } finally {
      await client.end().catch(() => undefined);
    }
    await delay(20);
  }
}

async function ensureDatabase(url: string, name: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    const found = await client.query('SELECT FROM pg_database WHERE datname = $1', [name]);
    if (found.rowCount === 0) await client.query(`CREATE DATABASE ${client.escapeIdentifier(name)}`);
  } finally {
    await client.end();
  }
}

/**
 * The live server of this cluster, by the file that it keeps while it runs. A file whose process is gone, or is not
 * PostgreSQL any more (numbers of processes come back after a restart of the machine), is removed.
 */
async function findRunning(home: string): Promise<RunningServer | null> {
  const file = path.join(dataOf(home), 'postmaster.pid');
  const text = await readText(file);
  if (text === null) return null;
  const lines = text.split('\n');
  const processId = Number(lines[0]);
  const port = Number(lines[3]);
  if (Number.isInteger(processId) && processId > 0 && (await servesCluster(processId, dataOf(home)))) {
    if (!Number.isInteger(port) || port <= 0) throw new Error(`PostgreSQL runs in ${home}, but names no port`);
    return { processId, port };
  }
  await rm(file, { force: true });
  return null;
}

async function servesCluster(processId: number, data: string): Promise<boolean> {
  if (!(await isAlive(processId))) return false;
  const commandLine = await readText(`/proc/${processId}/cmdline`);
  if (commandLine !== null) {
    const words = commandLine.split('\0');
    return path.basename(words[0] ?? '').startsWith('postgres') && words.includes(data);
  }
  // No /proc on this system: `ps` tells the same.
  const listed = await run('ps', ['-p', String(processId), '-o', 'command='], null).catch(() => '');
  return listed.includes('postgres') && listed.includes(data);
}

async function isAlive(processId: number): Promise<boolean> {
  try {
    process.kill(processId, 0);
  } catch (error) {
    // EPERM: it lives and belongs to somebody else.
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
  // An orphan whose new parent does not collect it stays visible as a zombie for ever.
  const state = await readText(`/proc/${processId}/stat`);
  return state === null || !/\) Z /.test(state);
}

async function stop(processId: number): Promise<void> {
  const deadline = Date.now() + STOP_TIMEOUT_MILLISECONDS;
  try {
    // SIGINT is "fast shutdown": sessions are ended, what was committed is checkpointed.
    process.kill(processId, 'SIGINT');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ESRCH') return;
    throw error;
  }
  while (await isAlive(processId)) {
    if (Date.now() >= deadline) throw new Error(`PostgreSQL (process ${processId}) does not stop`);
    await delay(10);
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no free port');
  return address.port;
}

function urlOf(password: string, port: number, database: string): string {
  return `postgresql://${USER}:${encodeURIComponent(password)}@127.0.0.1:${port}/${database}`;
}

/** Runs a program to its end and returns its output; throws with that output when it fails. */
async function run(program: string, parameters: readonly string[], account: Account | null): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, parameters, {
      ...(account && { uid: account.uid, gid: account.gid }),
      cwd: '/',
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { PATH: process.env.PATH, LC_ALL: 'C' },
    });
    let output = '';
    child.stdout.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
    child.stderr.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
    child.once('error', reject);
    child.once('close', (code) => {
      if (code === 0) resolve(output);
      else reject(new Error(`${path.basename(program)} failed:\n${output}`));
    });
  });
}

async function exists(file: string): Promise<boolean> {
  return stat(file).then(
    () => true,
    () => false,
  );
}

async function readText(file: string): Promise<string | null> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ESRCH')) return null;
    throw error;
  }
}
