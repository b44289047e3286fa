import { randomUUID } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import type { Clock, Logger } from '@gpuaas/kernel';
import { DenialJournal } from '../edge/denial-journal.js';
import { registerDocumentation } from '../edge/documentation.js';
import { IdempotencyStore } from '../edge/idempotency.js';
import { EdgeMetrics } from '../edge/metrics.js';
import { RateLimiter } from '../edge/rate-limit.js';
import { type EdgeDependencies, registerOperations } from '../edge/router.js';
import { createHttpServer } from '../edge/server.js';
import { openCertificateAuthority } from '../spine/certificate-authority.js';
import { CursorCodec } from '../spine/cursors.js';
import { type CustodyKey, createCustody } from '../spine/custody.js';
import { APPLICATION_ROLE, openDatabase } from '../spine/database.js';
import { startHeartbeat } from '../spine/heartbeat.js';
import { startPeriodicJobs } from '../spine/periodic-jobs.js';
import { policies } from '../spine/policy-registry.js';
import { startRelay } from '../spine/relay.js';
import { createSignals } from '../spine/signals.js';
import { startWorkflowEngine } from '../spine/workflow-engine.js';
import { APPLICATION_VERSION } from './build.js';
import { composeDomains, type DomainSettings, type Domains } from './compose.js';
import { registerPlaneMetrics } from './plane-metrics.js';
import { rateLimits } from './rate-limits.js';
import type { Role } from './settings.js';

export interface ControlPlaneOptions {
  readonly environment: 'development' | 'test' | 'production';
  readonly roles: ReadonlySet<Role>;
  /** a migrated database; the login must be able to take the application's role */
  readonly databaseUrl: string;
  /** where queries read; null: the primary */
  readonly replicaUrl: string | null;
  readonly databasePoolSize: number;
  readonly custodyKeys: readonly [CustodyKey, ...CustodyKey[]];
  readonly api: { readonly host: string; readonly port: number; readonly publicUrl: string | null };
  readonly nodes: {
    readonly host: string;
    readonly port: number;
    readonly publicUrl: string | null;
    readonly authentication: 'mtls' | 'mtls_or_bearer';
  };
  /** null: no metrics are served */
  readonly metrics: { readonly host: string; readonly port: number } | null;
  readonly trustedProxies: readonly string[];
  readonly clock: Clock;
  readonly log: Logger;
  /** a response that breaks the contract becomes a 500 instead of being sent */
  readonly validatesResponses: boolean;
  readonly domains: DomainSettings;
}

export interface ControlPlane {
  readonly apiUrl: string;
  /** of the TLS listener for hosts; null in a process that serves no API */
  readonly nodeUrl: string | null;
  readonly metricsUrl: string | null;
  readonly domains: Domains;
  /** Takes no new work, finishes what is in flight, and gives back every lease and connection. May be repeated. */
  close(): Promise<void>;
}

/** Of a site that has not said under which address it is known. */
const TOKEN_ISSUER = 'gpuaas';
const SERVER_CERTIFICATE_SECONDS = 365 * 24 * 3600;

/** Starts the parts of the control plane that `roles` name, in this process, on a migrated database. */
export async function startControlPlane(options: ControlPlaneOptions): Promise<ControlPlane> {
  const { clock, log, roles } = options;
  const closing = new AbortController();
  // One listener for each poll that is held at the moment.
  setMaxListeners(0, closing.signal);
  const undo: (() => Promise<unknown> | unknown)[] = [];
  const instanceId = randomUUID();

  try {
    const signals = createSignals({ url: options.databaseUrl, log });
    undo.unshift(() => signals.close());
    const connection = {
      role: APPLICATION_ROLE,
      poolSize: options.databasePoolSize,
      onConnectionError: (error: Error) => log.warn({ err: error }, 'an idle database connection broke'),
    } as const;
    const primary = openDatabase({ ...connection, url: options.databaseUrl, afterCommit: signals.afterCommit });
    undo.unshift(() => primary.destroy());
    const replica = openDatabase({ ...connection, url: options.replicaUrl ?? options.databaseUrl, readOnly: true });
    undo.unshift(() => replica.destroy());
    await signals.ready();

    const custody = createCustody(options.custodyKeys);
    const authority = await openCertificateAuthority({ db: primary, custody, clock, environment: options.environment });
    const metrics = new EdgeMetrics([...roles].join('+'));

    const api = createHttpServer({ log, trustedProxies: options.trustedProxies });
    const nodePublicUrl = new URL(
      options.nodes.publicUrl ?? `https://${urlHost(options.nodes.host)}:${options.nodes.port}`,
    );
    const serverIdentity = await authority.issueServerCertificate({
      hosts: [...new Set([nodePublicUrl.hostname, 'localhost', '127.0.0.1'])],
      lifetimeSeconds: SERVER_CERTIFICATE_SECONDS,
      now: clock.now(),
    });
    const nodeListener = createHttpServer({
      log,
      trustedProxies: [],
      tls: { key: serverIdentity.privateKeyPem, cert: serverIdentity.chainPem, ca: authority.caBundlePem() },
    });
    // The address is part of what domains tell others, and with port 0 it is known only once the listener stands.
    const nodeAddress = { url: nodePublicUrl.origin };

    const domains = composeDomains({
      db: primary,
      custody,
      policies,
      authority,
      signals,
      clock,
      log,
      tokenIssuer: options.api.publicUrl ?? TOKEN_ISSUER,
      nodeApiUrl: () => nodeAddress.url,
      acceptsInternalTokens: options.nodes.authentication === 'mtls_or_bearer',
      allowsPlainHttpProviders: options.environment !== 'production',
      settings: options.domains,
    });
    await domains.start();
    undo.unshift(() => domains.close());

    const observed = registerPlaneMetrics(metrics, { db: primary, domains });

    if (roles.has('worker')) {
      const engine = await startWorkflowEngine({
        databaseUrl: options.databaseUrl,
        registrations: domains.workflows,
        executorId: instanceId,
        applicationVersion: APPLICATION_VERSION,
        log,
      });
      undo.unshift(() => engine.stop());
      const relay = startRelay({
        db: primary,
        subscribers: [...domains.subscribers, ...engine.subscribers],
        signals,
        clock,
        log,
        observe: observed.relayed,
      });
      undo.unshift(() => relay.stop());
      const jobs = startPeriodicJobs({ db: primary, jobs: domains.periodicJobs, clock, log, observe: observed.jobRan });
      undo.unshift(() => jobs.stop());
    }
    for (const component of componentsOf(roles)) {
      const heartbeat = startHeartbeat({
        db: primary,
        component,
        instanceId,
        applicationVersion: APPLICATION_VERSION,
        log,
      });
      undo.unshift(() => heartbeat.stop());
    }

    let apiUrl = '';
    let nodeUrl: string | null = null;
    if (roles.has('api')) {
      const edge: EdgeDependencies = {
        primary,
        replica,
        operations: domains.operations,
        clock,
        log,
        cursors: new CursorCodec(custody.deriveKey('cursors')),
        idempotency: new IdempotencyStore(custody),
        denials: new DenialJournal(domains.identity.recordDenial),
        metrics,
        rateLimiter: new RateLimiter(),
        rateLimitOf: rateLimits({ db: primary, policies, clock }),
        authenticateBearer: domains.authenticateBearer,
        authenticateNode: domains.authenticateNode,
        projectScopeOf: domains.projectScopeOf,
        validatesResponses: options.validatesResponses,
        closing: closing.signal,
      };
      registerOperations(api, 'api', edge);
      await registerDocumentation(api);
      registerOperations(nodeListener, 'node', edge);
      undo.unshift(() => nodeListener.close());
      nodeUrl = portOf(await nodeListener.listen({ host: options.nodes.host, port: options.nodes.port }), 'https');
      if (options.nodes.publicUrl === null) nodeAddress.url = nodeUrl;
      undo.unshift(() => api.close());
      apiUrl = portOf(await api.listen({ host: options.api.host, port: options.api.port }), 'http');
    }

    let metricsUrl: string | null = null;
    if (options.metrics) {
      const server = createHttpServer({ log, trustedProxies: [] });
      server.get('/metrics', async (_request, reply) =>
        reply.type(metrics.registry.contentType).send(await metrics.registry.metrics()),
      );
      undo.unshift(() => server.close());
      metricsUrl = portOf(await server.listen(options.metrics), 'http');
    }

    let closed: Promise<void> | null = null;
    return {
      apiUrl,
      nodeUrl,
      metricsUrl,
      domains,
      close() {
        closed ??= (async () => {
          closing.abort();
          await unwind(undo, log);
        })();
        return closed;
      },
    };
  } catch (error) {
    closing.abort();
    await unwind(undo, log);
    throw error;
  }
}

/** Which components a role stands for in health pages; each reports for itself. */
function componentsOf(roles: ReadonlySet<Role>): string[] {
  return [
    ...(roles.has('api') ? ['api'] : []),
    ...(roles.has('worker') ? ['provisioning-worker', 'billing-worker', 'outbox-relay'] : []),
    ...(roles.has('power') ? ['power-agent'] : []),
    ...(roles.has('infra') ? ['infrastructure-agent'] : []),
  ];
}

async function unwind(undo: (() => Promise<unknown> | unknown)[], log: Logger): Promise<void> {
  for (const step of undo) {
    try {
      await step();
    } catch (error) {
      log.error({ err: error }, 'a part did not stop cleanly');
    }
  }
}

/** Where a listener can be reached from this machine: wildcard addresses answer on loopback. */
function portOf(address: string, scheme: 'http' | 'https'): string {
  const { hostname, port } = new URL(address);
  const host = hostname === '0.0.0.0' || hostname === '[::]' ? '127.0.0.1' : hostname;
  return `${scheme}://${host}:${port}`;
}

function urlHost(host: string): string {
  if (host === '0.0.0.0' || host === '::') return '127.0.0.1';
  return host.includes(':') ? `[${host}]` : host;
}
