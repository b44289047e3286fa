import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type OperationId, operationTable } from '@gpuaas/contract';
import { describe, expect, it } from 'vitest';
import { policy, policyByDomain, policyFor } from './index.js';
import { renderAuthorizationMatrix } from './matrix.js';
import { decide, type Gate } from './rules.js';

const document = fileURLToPath(new URL('../../../../../docs/authorization-matrix.md', import.meta.url));

/** Each is public by decision; another one is added here first. */
const OPEN: readonly OperationId[] = [
  'getOidcAuthorizeUrl',
  'exchangeOidcCode',
  'getSamlAuthorizeUrl',
  'exchangeSamlAssertion',
  'loginPersonal',
  'signupPersonal',
  'refreshToken',
  'createServiceAccountToken',
  'createSharedRuntimeOperatorToken',
  'nodeBootstrapScript',
  'nodeBootstrapPackage',
  'nodeBootstrapRegistryCredential',
  'nodeBootstrapProgress',
  'internalNodeEnroll',
  'internalAppProxyRouteReport',
  'stripeWebhook',
  'getHealth',
];

const HOSTS: readonly OperationId[] = [
  'internalNodeCertRenew',
  'internalNodeWaitTask',
  'internalNodeTaskResult',
  'internalNodeTerminalStream',
  'internalNodeLogLokiPush',
];

const rowsOf = (wanted: (id: OperationId) => boolean) =>
  operationTable
    .map(({ operationId }) => operationId)
    .filter(wanted)
    .sort();

describe('the policy table', () => {
  it('has one row for each operation of the contract, in the file of its domain', () => {
    for (const [domain, rows] of Object.entries(policyByDomain)) {
      const expected = operationTable
        .filter((definition) => definition.domain === domain)
        .map(({ operationId }) => operationId);
      expect(Object.keys(rows).sort()).toEqual(expected.sort());
    }
    expect(Object.keys(policy)).toHaveLength(operationTable.length);
  });

  it('refuses to name a rule for an operation without a row', () => {
    expect(() => policyFor('toString' as OperationId)).toThrow(/no policy row/);
  });

  it('opens exactly the operations that are public by decision', () => {
    expect(rowsOf((id) => decide(policyFor(id), anonymousFacts).allowed)).toEqual([...OPEN].sort());
  });

  it('asks hosts for their identity on exactly the operations of hosts', () => {
    expect(rowsOf((id) => policyFor(id).authentication === 'node')).toEqual([...HOSTS].sort());
  });

  it('opens nothing that the contract protects with a token', () => {
    for (const { operationId, security } of operationTable) {
      if (security === 'bearer') expect(policyFor(operationId).authentication, operationId).toBe('bearer');
      else expect([...OPEN, ...HOSTS], operationId).toContain(operationId);
    }
  });

  it('asks for a project only where a request can name one', () => {
    for (const definition of operationTable) {
      const names =
        definition.projectHeader !== 'none' ||
        definition.routes.some(({ openapiPath }) => openapiPath.includes('{project_id}'));
      if (!names) expect(needsProject(policyFor(definition.operationId).gate), definition.operationId).toBe(false);
    }
  });

  it('asks for a platform right on every path of operators, but for what everyone may read', () => {
    const everyones: readonly OperationId[] = [
      'getV3PlatformPublicStatus',
      'listPlatformReleases',
      'getPlatformRelease',
      'downloadPlatformReleaseArtifact',
      'createPlatformReleaseArtifactPullIntent',
      'getPlatformDevCA',
      'downloadPlatformDevCA',
    ];
    const lenient = operationTable
      .filter(({ routes }) =>
        routes.some(({ openapiPath }) => /^\/api\/v1\/(v3\/)?(admin|platform)\//.test(openapiPath)),
      )
      .map(({ operationId }) => operationId)
      .filter((id) => !needsPlatformRight(policyFor(id).gate));
    expect(lenient.sort()).toEqual([...everyones].sort());
  });

  it('is what the committed matrix shows (npm run authz:matrix)', () => {
    expect(renderAuthorizationMatrix()).toBe(readFileSync(document, 'utf8'));
  });
});

const anonymousFacts = {
  principal: { kind: 'anonymous' },
  project: null,
  projectId: null,
  tenantId: null,
  definition: { routes: [] },
  path: {},
} as const;

/** Whether there is no way through the gate without a project. */
function needsProject(gate: Gate): boolean {
  if (gate.kind === 'any-of') return gate.gates.every(needsProject);
  if (gate.kind === 'all-of') return gate.gates.some(needsProject);
  return gate.kind === 'project';
}

/** Whether every person who passes holds a right on the platform; robots pass such rows by a scope of the platform. */
function needsPlatformRight(gate: Gate): boolean {
  if (gate.kind === 'any-of') return gate.gates.every(needsPlatformRight);
  if (gate.kind === 'all-of') return gate.gates.some(needsPlatformRight);
  if (gate.kind === 'service-account')
    return gate.scopes !== 'any' && gate.scopes.every((scope) => scope.startsWith('platform.'));
  return gate.kind === 'capability' || gate.kind === 'superadmin';
}
