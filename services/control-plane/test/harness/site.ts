import { randomBytes } from 'node:crypto';
import { type Clock, createLogger, type Logger, ManualClock, systemClock } from '@gpuaas/kernel';
import type { Kysely } from 'kysely';
import { ensureAdministrator } from '../../src/app/administrator.js';
import { type ControlPlane, type ControlPlaneOptions, startControlPlane } from '../../src/app/control-plane.js';
import type { Role } from '../../src/app/settings.js';
import { parseCustodyKeys } from '../../src/spine/custody.js';
import type { Database } from '../../src/spine/database.generated.js';
import { jobContext } from '../../src/spine/periodic-jobs.js';
import { setPolicyValue } from '../../src/spine/policy-registry.js';
import { inTransaction } from '../../src/spine/transaction.js';
import { takeBreaches, watchServers, witness } from './contract-witness.js';
import { cloneDatabase } from './database.js';

export const OPERATOR = { username: 'operator', password: 'correct horse battery staple' } as const;
export const PASSWORD = 'a password of twelve and more';

const CUSTODY_KEY = '0f'.repeat(32);
/** High enough that no test meets a limit it does not look for. */
const UNLIMITED = 1_000_000;

export interface SiteOptions {
  /** control planes on the database, which requests reach in turn; default 2. One where a test counts what is kept per process. */
  readonly planes?: 1 | 2;
  /** what each runs; default: api and worker */
  readonly roles?: readonly Role[];
  /** default: the system's; a ManualClock makes time a matter of the test */
  readonly clock?: Clock;
  readonly nodeAuthentication?: 'mtls' | 'mtls_or_bearer';
  /** keep the platform's own rate limits instead of lifting them */
  readonly rateLimits?: 'platform' | 'lifted';
  readonly servesMetrics?: boolean;
  /** whose X-Forwarded-For counts; default: nobody's */
  readonly trustedProxies?: readonly string[];
  readonly domains?: Partial<ControlPlaneOptions['domains']>;
  /** read-only environment of the log; default: silent, or GPUAAS_TEST_LOG_LEVEL */
  readonly log?: Logger;
}

export interface CallOptions {
  readonly method?: string;
  readonly path: string;
  readonly token?: string | undefined;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  /** sent as X-Project-ID */
  readonly project?: string;
  /** sent as Idempotency-Key */
  readonly key?: string;
}

export interface Answer {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: a test reads the fields it asserts on; the contract has been held against the whole body
  readonly body: any;
  readonly headers: Headers;
}

export interface Person {
  readonly username: string;
  readonly userId: string;
  readonly tenantId: string;
  readonly projectId: string;
  readonly token: string;
  readonly refreshToken: string;
}

export interface TestSite {
  readonly url: string;
  readonly nodeUrl: string;
  readonly db: Kysely<Database>;
  readonly databaseUrl: string;
  readonly controlPlane: ControlPlane;
  /** One request; the answer has been held against the contract. */
  call(options: CallOptions): Promise<Answer>;
  /** Access token of the superadmin. */
  operator(): Promise<string>;
  /** A new person with a tenant, a project and a session of their own. */
  signup(username?: string): Promise<Person>;
  /** Credits a wallet as the operator would. */
  credit(person: Pick<Person, 'userId'>, amountMinor: number, currency?: string): Promise<void>;
  /** A second control plane on the same database, stopped with the site. */
  startAnother(options?: SiteOptions): Promise<ControlPlane>;
  stop(): Promise<void>;
}

/**
 * A control plane of the test's own, on a database of its own, over real HTTP on loopback. Stopping it fails where it
 * answered anybody against the contract.
 */
export async function startTestSite(options: SiteOptions = {}): Promise<TestSite> {
  watchServers();
  const database = await cloneDatabase();
  const log =
    options.log ??
    createLogger({ program: 'test', level: process.env.GPUAAS_TEST_LOG_LEVEL === 'debug' ? 'debug' : 'silent' });
  const running: ControlPlane[] = [];
  const stop = async () => {
    for (const plane of running.reverse()) await plane.close();
    await database.drop();
    const breaches = takeBreaches();
    if (breaches.length > 0) throw new Error(`the contract was broken:\n${breaches.join('\n')}`);
  };

  try {
    if (options.rateLimits !== 'platform') await liftRateLimits(database.db, options.clock ?? systemClock, log);
    const controlPlane = await start(options);
    // Requests take turns between two control planes: what holds must hold wherever the next call lands.
    const planes = [controlPlane, ...(options.planes === 1 ? [] : [await start(options)])];
    let turn = 0;
    await ensureAdministrator(controlPlane, OPERATOR);
    let operatorToken: Promise<string> | null = null;
    const site: TestSite = {
      url: controlPlane.apiUrl,
      nodeUrl: controlPlane.nodeUrl ?? '',
      db: database.db,
      databaseUrl: database.url,
      controlPlane,
      call: (call) => {
        turn += 1;
        return callOver(planes[turn % planes.length]?.apiUrl ?? controlPlane.apiUrl, call);
      },
      operator: () => {
        operatorToken ??= signIn(site, OPERATOR.username, OPERATOR.password);
        return operatorToken;
      },
      signup: (username) => signUp(site, username),
      credit: async (person, amountMinor, currency = 'USD') => {
        const answer = await site.call({
          method: 'POST',
          path: `/api/v1/admin/users/${person.userId}/balance`,
          token: await site.operator(),
          body: { direction: 'credit', amount_minor: amountMinor, currency, reason: 'test' },
        });
        if (answer.status !== 200) throw new Error(`crediting failed: ${JSON.stringify(answer.body)}`);
      },
      startAnother: (other = {}) => start({ ...options, ...other }),
      stop,
    };
    return site;
  } catch (error) {
    await stop();
    throw error;
  }

  async function start(with_: SiteOptions): Promise<ControlPlane> {
    const plane = await startControlPlane({
      environment: 'test',
      roles: new Set(with_.roles ?? ['api', 'worker']),
      databaseUrl: database.url,
      replicaUrl: null,
      databasePoolSize: 10,
      custodyKeys: parseCustodyKeys(CUSTODY_KEY),
      api: { host: '127.0.0.1', port: 0, publicUrl: null },
      nodes: {
        host: '127.0.0.1',
        port: 0,
        publicUrl: null,
        authentication: with_.nodeAuthentication ?? 'mtls_or_bearer',
      },
      metrics: with_.servesMetrics ? { host: '127.0.0.1', port: 0 } : null,
      trustedProxies: with_.trustedProxies ?? [],
      clock: with_.clock ?? systemClock,
      log,
      validatesResponses: true,
      domains: {
        // Passwords are hashed as cheaply as the algorithm allows: what is tested is that they are, not how slowly.
        passwordHashing: { memoryKibibytes: 1024, iterations: 1, concurrency: 2, queueLimit: 256 },
        ...(options.rateLimits !== 'platform' && { attemptLimits: LIFTED_ATTEMPTS }),
        ...with_.domains,
      },
    });
    running.push(plane);
    return plane;
  }
}

const LIFTED_ATTEMPTS = {
  perUsername: UNLIMITED,
  perAddress: UNLIMITED,
  windowSeconds: 900,
  signupsPerAddress: UNLIMITED,
  signupWindowSeconds: 3600,
};

/** One request to a control plane, held against the contract. */
export async function callOver(url: string, options: CallOptions): Promise<Answer> {
  const method = options.method ?? 'GET';
  const headers: Record<string, string> = { ...options.headers };
  if (options.token !== undefined) headers.authorization = `Bearer ${options.token}`;
  if (options.project !== undefined) headers['x-project-id'] = options.project;
  if (options.key !== undefined) headers['idempotency-key'] = options.key;
  let payload: string | null = null;
  if (options.body !== undefined) {
    headers['content-type'] ??= 'application/json';
    payload = typeof options.body === 'string' ? options.body : JSON.stringify(options.body);
  }
  const response = await fetch(`${url}${options.path}`, { method, headers, body: payload, redirect: 'manual' });
  const text = await response.text();
  const isJson = response.headers.get('content-type')?.startsWith('application/json') ?? false;
  const body: unknown = text === '' ? undefined : isJson ? JSON.parse(text) : text;
  witness(method, options.path, response.status, body, isJson);
  return { status: response.status, body, headers: response.headers };
}

async function signIn(site: TestSite, username: string, password: string): Promise<string> {
  const answer = await site.call({ method: 'POST', path: '/api/v1/auth/personal/login', body: { username, password } });
  if (answer.status !== 200) throw new Error(`sign-in failed: ${JSON.stringify(answer.body)}`);
  return answer.body.access_token;
}

async function signUp(site: TestSite, username = `person-${randomBytes(6).toString('hex')}`): Promise<Person> {
  const answer = await site.call({
    method: 'POST',
    path: '/api/v1/auth/personal/signup',
    body: { username, password: PASSWORD },
  });
  if (answer.status !== 201) throw new Error(`sign-up failed: ${JSON.stringify(answer.body)}`);
  const { access_token: token, refresh_token: refreshToken, org_id: tenantId, user } = answer.body;
  return { username, userId: user.id, tenantId, projectId: user.project_id, token, refreshToken };
}

const LIFTED_POLICIES = [
  'rate_limit.api_requests_per_minute',
  'rate_limit.console_reads_per_minute',
  'rate_limit.financial_requests_per_minute',
  'rate_limit.admin_overview_requests_per_minute',
] as const;

async function liftRateLimits(db: Kysely<Database>, clock: Clock, log: Logger): Promise<void> {
  const ctx = jobContext('test-harness', { clock, log });
  await inTransaction(db, async (tx) => {
    for (const key of LIFTED_POLICIES) {
      await setPolicyValue(tx, ctx, { key, scope: 'global', scopeId: '', value: UNLIMITED });
    }
  });
}

export { ManualClock };
