import { fileURLToPath } from 'node:url';
import type { OperationId } from '@gpuaas/contract';
import type { Clock, Logger } from '@gpuaas/kernel';
import { createOidcClient } from '../adapters/oidc/oidc-client.js';
import { dialHost } from '../adapters/tcp/dial.js';
import { createComputeDomain } from '../domains/compute/index.js';
import { createFinanceDomain, openWallet, recordListPrice, walletBalancesOfPage } from '../domains/finance/index.js';
import { createFleetDomain } from '../domains/fleet/index.js';
import {
  createIdentityDomain,
  type IdentitySettings,
  posixIdentityOf,
  projectScopeOf,
  shareProject,
  sshKeysFor,
} from '../domains/identity/index.js';
import { createPlatformDomain } from '../domains/platform/index.js';
import type { CertificateAuthority } from '../spine/certificate-authority.js';
import type { Custody } from '../spine/custody.js';
import type { DomainModule } from '../spine/domain.js';
import type { OperationHandlers, Reader } from '../spine/operation.js';
import type { Policies } from '../spine/policy-registry.js';
import type { Signals } from '../spine/signals.js';

/** What a site may choose about its domains; everything absent has the domain's own default. */
export type DomainSettings = Partial<
  Pick<
    IdentitySettings,
    'passwordHashing' | 'attemptLimits' | 'sessionLifetimes' | 'personalAccounts' | 'signInRedirectUris'
  >
> & {
  /** how long a host's poll without work is held; default 25 s */
  readonly pollHoldMilliseconds?: number;
  /** the package of the node agent that hosts download; default: the one that this repository builds */
  readonly agentPackagePath?: string;
};

export interface DomainParts {
  readonly db: Reader;
  readonly custody: Custody;
  readonly policies: Policies;
  readonly authority: Pick<CertificateAuthority, 'caBundlePem' | 'issueClientCertificate'>;
  readonly signals: Signals;
  readonly clock: Clock;
  readonly log: Logger;
  /** `iss` of access tokens: the same in every process of a site */
  readonly tokenIssuer: string;
  /** where hosts reach the node listener; asked when it is told to one */
  nodeApiUrl(): string;
  /** development: hosts may also show the token that came with their certificate */
  readonly acceptsInternalTokens: boolean;
  /** development: identity providers may be reached over plain HTTP, and on this machine; default: they may not */
  readonly allowsPlainHttpProviders?: boolean;
  readonly settings: DomainSettings;
}

const TOKEN_AUDIENCE = 'gpuaas-api';
const SSH_USERNAME = 'ubuntu';
const POLL_HOLD_MILLISECONDS = 25_000;
const AGENT_PACKAGE = fileURLToPath(
  new URL('../../../node-agent/dist/package/gpuaas-node-agent.tar.gz', import.meta.url),
);

/** The domains of one process, wired to each other: the only place that knows what stands behind which port. */
export type Domains = ReturnType<typeof composeDomains>;

/** Builds the domains. Touches neither the database nor the network: `start` does. */
export function composeDomains(parts: DomainParts) {
  const { db, custody, policies, signals, clock, log, settings } = parts;
  const {
    pollHoldMilliseconds = POLL_HOLD_MILLISECONDS,
    agentPackagePath = AGENT_PACKAGE,
    ...identitySettings
  } = settings;

  const finance = createFinanceDomain({ clock, policies });
  const identity = createIdentityDomain({
    db,
    custody,
    policies,
    clock,
    log,
    wallet: { openWallet, walletBalancesOfPage },
    oidcClient: createOidcClient({ allowsPlainHttp: parts.allowsPlainHttpProviders ?? false }),
    projectUsage: [(tx, projectId) => compute.projectUsage(tx, projectId)],
    settings: {
      ...identitySettings,
      tokenIssuer: parts.tokenIssuer,
      tokenAudience: TOKEN_AUDIENCE,
      allowsPlainHttpProviders: parts.allowsPlainHttpProviders ?? false,
    },
  });
  const fleet = createFleetDomain({
    database: db,
    custody,
    signals,
    certificateAuthority: parts.authority,
    clock,
    log,
    occupancy: { occupancyOf: (reader, nodeIds) => compute.occupancyOf(reader, nodeIds) },
    skuCatalog: { findSku: (reader, code) => compute.findSku(reader, code) },
    dialHost,
    registryCredential: async () => null,
    settings: {
      nodeApiUrl: parts.nodeApiUrl,
      terminalApiUrl: parts.nodeApiUrl,
      get apiCaBundlePem() {
        return parts.authority.caBundlePem();
      },
      nodePackagePath: agentPackagePath,
      sshUsername: SSH_USERNAME,
      acceptsInternalTokens: parts.acceptsInternalTokens,
      pollHoldMilliseconds,
    },
  });

  const compute = createComputeDomain({
    db,
    clock,
    log,
    identity: { shareProject, posixIdentityOf, sshKeysFor },
    funds: finance.fundsGate,
    metering: finance.metering,
    recordListPrice,
    fleet,
    policies,
  });
  fleet.registerTaskResultHandlers(compute.taskResultHandlers);
  fleet.onTasksDispatched((tasks) => compute.tasksDispatched(tasks));

  const platform = createPlatformDomain({
    db,
    consumers: () => modules.flatMap((module) => module.subscribers ?? []),
  });

  const modules: readonly DomainModule[] = [identity, finance, fleet, compute, platform];
  return {
    operations: mergedOperations(modules),
    subscribers: modules.flatMap((module) => module.subscribers ?? []),
    periodicJobs: modules.flatMap((module) => module.periodicJobs ?? []),
    workflows: modules.flatMap((module) => module.workflows ?? []),
    identity,
    finance,
    fleet,
    compute,
    authenticateBearer: identity.authenticateBearer,
    authenticateNode: fleet.authenticateNode,
    projectScopeOf,
    /** Reads what no request should have to wait for. */
    start: () => identity.start(),
    /** Ends held polls, so that a server can close, and writes down what was remembered. */
    async close(): Promise<void> {
      fleet.close();
      await identity.close();
    },
  };
}

/** One handler an operation; two domains that claim the same one are a mistake in the code. */
function mergedOperations(modules: readonly DomainModule[]): OperationHandlers {
  const owners = new Map<string, string>();
  for (const { name, operations } of modules) {
    for (const operationId of Object.keys(operations)) {
      const owner = owners.get(operationId);
      if (owner !== undefined) throw new Error(`${operationId} is bound by ${owner} and by ${name}`);
      owners.set(operationId, name);
    }
  }
  return Object.assign({}, ...modules.map(({ operations }) => operations));
}

/** The operations that have a handler. */
export function boundOperationIds(domains: Pick<Domains, 'operations'>): string[] {
  const bound: { readonly [Id in OperationId]?: unknown } = domains.operations;
  return Object.keys(bound);
}
