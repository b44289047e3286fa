import { randomBytes, randomInt } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { createLogger, errorChain, systemClock } from '@gpuaas/kernel';
import type { Kysely } from 'kysely';
import type { Database } from '../../src/spine/database.generated.js';
import { APPLICATION_ROLE, openDatabase } from '../../src/spine/database.js';
import { jobContext } from '../../src/spine/periodic-jobs.js';
import { setPolicyValue } from '../../src/spine/policy-registry.js';
import { inTransaction } from '../../src/spine/transaction.js';
import { type Answer, type CallOptions, callOver, OPERATOR } from '../harness/site.js';
import { until } from '../harness/waiting.js';
import { type Gateway, openGateway } from './gateway.js';
import { type KillableDatabase, startKillableDatabase, stopAbandonedDatabase } from './killable-database.js';
import { Supervised } from './supervised.js';

export const CUSTODY_KEY = '0f'.repeat(32);
export const SKU = 'h200-sxm-baremetal-8g';
const SERVICES = join(import.meta.dirname, '..', '..', '..');
const CONTROL_PLANE = join(SERVICES, 'control-plane', 'dist', 'main.js');
const NODE_AGENT = join(SERVICES, 'node-agent', 'dist', 'main.js');

const READY_MILLISECONDS = 90_000;
/** A call that nobody has answered for so long will not be answered. */
const ANSWER_MILLISECONDS = 90_000;
const RETRY_PAUSE_MILLISECONDS = 50;

export interface ProcessHost {
  readonly nodeId: string;
  readonly agent: Supervised;
  readonly stateDirectory: string;
  /** Makes the host's next tasks slow or fail, as its simulation understands it. */
  setFaults(faults: readonly Record<string, unknown>[]): Promise<void>;
}

/** Calls that came to nothing and were made again. */
export interface Retries {
  connections: number;
  unavailable: number;
  replays: number;
  /** answers that no caller should ever get */
  readonly internalErrors: string[];
}

/** A site as it stands in a data centre: each part a process of its own, which may be killed at any moment. */
export interface ProcessSite {
  readonly database: KillableDatabase;
  /** control planes, api and worker in each */
  readonly planes: readonly Supervised[];
  readonly planeUrls: readonly string[];
  readonly hosts: readonly ProcessHost[];
  /** between the hosts and the planes' listeners for them */
  readonly gateway: Gateway;
  readonly db: Kysely<Database>;
  readonly retries: Retries;
  /** Asks the planes in turn until one gives a definite answer: what broke off or was answered 5xx is sent again. */
  call(options: CallOptions): Promise<Answer>;
  /** As the operator; refused sessions are not expected. */
  asOperator(options: Omit<CallOptions, 'token'>): Promise<Answer>;
  addHost(): Promise<ProcessHost>;
  untilReady(): Promise<void>;
  stop(): Promise<void>;
}

export interface ProcessSiteOptions {
  readonly planes?: number;
  readonly hosts?: number;
}

export async function startProcessSite(options: ProcessSiteOptions = {}): Promise<ProcessSite> {
  const planeCount = options.planes ?? 2;
  await removeAbandoned();
  const directory = await mkdtemp(join(tmpdir(), `${PREFIX}${process.pid}-`));
  // As root the server runs under another account, which has to get through to its data.
  await chmod(directory, 0o711);
  const undo: (() => Promise<unknown>)[] = [() => rm(directory, { recursive: true, force: true })];
  let stopped = false;
  const stop = async (): Promise<void> => {
    stopped = true;
    for (const step of undo.splice(0).reverse()) await step();
  };

  try {
    const [databasePort = 0, gatewayPort = 0, ...planePorts] = await freePorts(2 + 2 * planeCount);
    const apiPorts = planePorts.slice(0, planeCount);
    const nodePorts = planePorts.slice(planeCount);
    const database = await startKillableDatabase(join(directory, 'database'), databasePort);
    undo.push(() => database.stop());
    const gateway = await openGateway(gatewayPort, nodePorts);
    undo.push(() => gateway.close());

    const planes = apiPorts.map(
      (apiPort, index) =>
        new Supervised({
          name: `control plane ${index + 1}`,
          script: CONTROL_PLANE,
          announcesItself: true,
          environment: {
            DATABASE_URL: database.url,
            GPUAAS_ENV: 'test',
            GPUAAS_DATA_DIR: join(directory, `plane-${index + 1}`),
            GPUAAS_ROLES: 'api,worker',
            GPUAAS_PORT: String(apiPort),
            GPUAAS_NODE_PORT: String(nodePorts[index]),
            GPUAAS_NODE_PUBLIC_URL: `https://127.0.0.1:${gatewayPort}`,
            GPUAAS_NODE_AUTH_MODE: 'mtls',
            GPUAAS_METRICS_PORT: '0',
            GPUAAS_MQTT_PORT: '0',
            GPUAAS_MASTER_KEY: CUSTODY_KEY,
            GPUAAS_ADMIN_USERNAME: OPERATOR.username,
            GPUAAS_ADMIN_PASSWORD: OPERATOR.password,
            GPUAAS_DATABASE_POOL: '10',
            GPUAAS_LOG_LEVEL: 'warn',
          },
        }),
    );
    undo.push(() => Promise.all(planes.map((plane) => plane.stop())));
    for (const plane of planes) plane.start();

    const db = openDatabase({ url: database.url, role: APPLICATION_ROLE, poolSize: 6, applicationName: 'faults' });
    undo.push(() => db.destroy());

    const planeUrls = apiPorts.map((port) => `http://127.0.0.1:${port}`);
    const retries: Retries = { connections: 0, unavailable: 0, replays: 0, internalErrors: [] };
    let turn = 0;
    const call = async (wish: CallOptions): Promise<Answer> => {
      const deadline = performance.now() + ANSWER_MILLISECONDS;
      const name = `${wish.method ?? 'GET'} ${wish.path}`;
      let trouble = '';
      for (;;) {
        turn += 1;
        try {
          const answer = await callOver(planeUrls[turn % planeUrls.length] ?? '', wish);
          if (answer.headers.get('idempotency-replayed') === 'true') retries.replays += 1;
          if (answer.status < 500) return answer;
          trouble = `${answer.status} ${JSON.stringify(answer.body)}`;
          if (answer.status === 503) retries.unavailable += 1;
          else retries.internalErrors.push(`${name}: ${trouble}`);
        } catch (error) {
          // What fetch says of connections that were refused or broke off; everything else is a finding.
          if (!(error instanceof TypeError)) throw error;
          trouble = errorChain(error);
          retries.connections += 1;
        }
        if (stopped) throw new Error(`${name} was not answered before the site was stopped`);
        if (performance.now() > deadline) throw new Error(`${name} was never answered; at last ${trouble}`);
        await delay(RETRY_PAUSE_MILLISECONDS);
      }
    };

    let operatorToken: Promise<string> | null = null;
    const asOperator = async (wish: Omit<CallOptions, 'token'>): Promise<Answer> => {
      operatorToken ??= signIn(call, OPERATOR);
      return call({ ...wish, token: await operatorToken });
    };

    const untilReady = async (): Promise<void> => {
      await untilSaid(() => database.ready && planes.every((plane) => plane.ready), planes);
    };
    await untilReady();
    await prepare(db);

    const hosts: ProcessHost[] = [];
    undo.push(() => Promise.all(hosts.map((host) => host.agent.stop())));
    const addHost = async (): Promise<ProcessHost> => {
      const host = await enrolledHost(asOperator, directory, hosts.length + 1);
      hosts.push(host);
      host.agent.start();
      await untilSaid(async () => (await statusOf(db, host.nodeId)) === 'active', [host.agent]);
      return host;
    };
    await Promise.all(Array.from({ length: options.hosts ?? 1 }, addHost));

    return { database, planes, planeUrls, hosts, gateway, db, retries, call, asOperator, addHost, untilReady, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

const PREFIX = 'gpuaas-faults-';

/**
 * Ends the servers of tests that were killed before they could; every other program ends with its test. Theirs is a
 * folder that is named after a dead process.
 */
async function removeAbandoned(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    const owner = Number(/^gpuaas-faults-(\d+)-/.exec(name)?.[1]);
    if (!Number.isInteger(owner) || existsSync(`/proc/${owner}`)) continue;
    const directory = join(tmpdir(), name);
    await stopAbandonedDatabase(join(directory, 'database'));
    await rm(directory, { recursive: true, force: true });
  }
}

const signIn = async (
  call: (wish: CallOptions) => Promise<Answer>,
  person: { readonly username: string; readonly password: string },
): Promise<string> => {
  const answer = await call({
    method: 'POST',
    path: '/api/v1/auth/personal/login',
    body: { username: person.username, password: person.password },
  });
  if (answer.status !== 200) throw new Error(`sign-in failed: ${JSON.stringify(answer.body)}`);
  return answer.body.access_token;
};

export interface Tenant {
  readonly username: string;
  readonly userId: string;
  readonly tenantId: string;
  readonly projectId: string;
  readonly token: string;
}

/** A new person. A sign-up whose answer was lost cannot be repeated, but the person can sign in. */
export async function signUp(site: ProcessSite): Promise<Tenant> {
  const person = { username: `person-${randomBytes(6).toString('hex')}`, password: 'a password of twelve and more' };
  const answer = await site.call({ method: 'POST', path: '/api/v1/auth/personal/signup', body: person });
  const signedIn = answer.status === 409 ? await site.call({ ...LOGIN, body: person }) : answer;
  if (signedIn.status !== 201 && signedIn.status !== 200) {
    throw new Error(`sign-up failed: ${JSON.stringify(signedIn.body)}`);
  }
  const { access_token: token, org_id: tenantId, user } = signedIn.body;
  return { username: person.username, userId: user.id, tenantId, projectId: user.project_id, token };
}

const LOGIN = { method: 'POST', path: '/api/v1/auth/personal/login' } as const;

/** The shortest there is: usage is charged while it runs, not only when it ends. */
export const WINDOW_SECONDS = 10;
const HIGHEST_LIMIT = 1_000_000;
const POLICIES = [
  ['rate_limit.api_requests_per_minute', HIGHEST_LIMIT],
  ['rate_limit.console_reads_per_minute', HIGHEST_LIMIT],
  ['rate_limit.financial_requests_per_minute', HIGHEST_LIMIT],
  ['rate_limit.admin_overview_requests_per_minute', HIGHEST_LIMIT],
  ['billing.window_seconds', WINDOW_SECONDS],
] as const;

async function prepare(db: Kysely<Database>): Promise<void> {
  const log = createLogger({ program: 'test', level: 'silent' });
  const ctx = jobContext('test', { clock: systemClock, log });
  await inTransaction(db, async (tx) => {
    for (const [key, value] of POLICIES) await setPolicyValue(tx, ctx, { key, scope: 'global', scopeId: '', value });
  });
}

/** Waits for programs to serve; where they do not, tells what they have said. */
async function untilSaid(condition: () => Promise<boolean> | boolean, programs: readonly Supervised[]): Promise<void> {
  await until(condition, { timeoutMilliseconds: READY_MILLISECONDS }).catch((cause: unknown) => {
    const said = programs.map((program) => `${program.name}: ${program.output}`);
    throw new Error(`not in service:\n${said.join('\n')}`, { cause });
  });
}

async function statusOf(db: Kysely<Database>, nodeId: string): Promise<string | undefined> {
  const row = await db.selectFrom('nodes').select('status').where('id', '=', nodeId).executeTakeFirst();
  return row?.status;
}

/** Registers a host and gives it what its agent needs to enrol, as the staff of a site would. */
async function enrolledHost(
  asOperator: ProcessSite['asOperator'],
  directory: string,
  number: number,
): Promise<ProcessHost> {
  const hostname = `host-${number}-${randomBytes(3).toString('hex')}`;
  const created = await asOperator({
    method: 'POST',
    path: '/api/v1/admin/nodes',
    body: { host: `${hostname}.test`, hostname, sku: SKU, gpus_total: 8, region_code: 'region-1', probe: false },
  });
  if (created.status !== 201) throw new Error(`registering failed: ${JSON.stringify(created.body)}`);
  const nodeId: string = created.body.id;
  const issued = await asOperator({ method: 'POST', path: `/api/v1/admin/nodes/${nodeId}/enrollment-token` });
  if (issued.status !== 201) throw new Error(`no enrolment token: ${JSON.stringify(issued.body)}`);
  const bundle = issued.body.bootstrap_bundle;

  const home = join(directory, hostname);
  const stateDirectory = join(home, 'state');
  await mkdir(stateDirectory, { recursive: true, mode: 0o700 });
  const anchors = join(home, 'ca.pem');
  await writeFile(anchors, bundle.ca_bundle_pem);
  const faults = join(home, 'faults.json');
  const agent = new Supervised({
    name: `agent of ${hostname}`,
    script: NODE_AGENT,
    parameters: ['--host', 'simulated'],
    environment: {
      GPUAAS_API_URL: bundle.api_url,
      GPUAAS_NODE_ID: nodeId,
      GPUAAS_ENROLLMENT_TOKEN: issued.body.enrollment_token,
      GPUAAS_STATE_DIR: stateDirectory,
      GPUAAS_CA_BUNDLE_PATH: anchors,
      GPUAAS_NODE_CERT_CA_BUNDLE_PATH: anchors,
      GPUAAS_TASK_SIGNING_PUBKEYS: bundle.task_signing_pubkeys,
      GPUAAS_SIMULATED_FAULTS_FILE: faults,
      GPUAAS_SHUTDOWN_GRACE_SECONDS: '2',
      GPUAAS_LOG_LEVEL: 'info',
    },
  });
  return {
    nodeId,
    agent,
    stateDirectory,
    setFaults: (wanted) => writeFile(faults, JSON.stringify({ faults: wanted })),
  };
}

/** What an agent has written into its state, parsed by nobody yet; null where the file is missing. */
export async function stateText(host: ProcessHost, name: string): Promise<string | null> {
  return readFile(join(host.stateDirectory, name), 'utf8').catch(() => null);
}

/**
 * Ports that nobody listens on now, below those that the system gives to outgoing connections: a program that was
 * killed has to get its own back.
 */
async function freePorts(count: number): Promise<number[]> {
  const held: { port: number; release: () => Promise<unknown> }[] = [];
  while (held.length < count) {
    const port = randomInt(15_000, 32_000);
    const server = createServer();
    const free = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false));
      server.listen(port, '127.0.0.1', () => resolve(true));
    });
    if (free) held.push({ port, release: () => new Promise((done) => server.close(done)) });
  }
  await Promise.all(held.map(({ release }) => release()));
  return held.map(({ port }) => port);
}
