import { randomUUID, webcrypto } from 'node:crypto';
import { NODE_HEADERS } from '@gpuaas/node-protocol';
import { Pkcs10CertificateRequestGenerator } from '@peculiar/x509';
import { scopesOfPurpose } from '../../src/domains/identity/rules/service-accounts.js';
import { type Persona, personas } from '../../src/edge/policy/personas.js';
import { PASSWORD, type TestSite } from '../harness/site.js';

/** A persona of the matrix as a real caller of a site. */
export interface Caller {
  readonly persona: Persona;
  readonly token: string;
}

export interface Callers {
  readonly callers: readonly Caller[];
  /** ids that requests name, by parameter and header */
  readonly named: Readonly<Record<string, string>>;
}

/** Makes each persona by the API itself: signs up, invites, binds, mints tokens. */
export async function createCallers(site: TestSite): Promise<Callers> {
  const owner = await site.signup();
  const outsider = await site.signup();
  const operator = await site.operator();
  const { projectId, tenantId } = owner;
  const made = await succeed(site, {
    method: 'POST',
    path: '/api/v1/projects',
    token: owner.token,
    body: { name: 'Elsewhere' },
  });
  const elsewhere = text(member(made, 'project'), 'id');

  const invite = async (project: string, projectRole: string, tenantRole: string) => {
    const username = `persona-${randomUUID()}`;
    await succeed(site, {
      method: 'POST',
      path: '/api/v1/tenant/users',
      token: owner.token,
      body: { username, password: PASSWORD, project_id: project, project_role: projectRole, tenant_role: tenantRole },
    });
    return login(site, username);
  };
  const platformUser = async () => {
    const username = `persona-${randomUUID()}`;
    const created = await succeed(site, {
      method: 'POST',
      path: '/api/v1/admin/users',
      token: operator,
      body: { username, password: PASSWORD },
    });
    await succeed(site, {
      method: 'POST',
      path: `/api/v1/admin/users/${text(created, 'id')}/platform-roles`,
      token: operator,
      body: { role: 'platform_user' },
    });
    return login(site, username);
  };

  const host = await enrollHost(site, operator);
  const tokens = new Map<string, string>([
    ['tenant member', await invite(elsewhere, 'member', 'member')],
    ['viewer', await invite(projectId, 'viewer', 'member')],
    ['project admin', await invite(projectId, 'admin', 'member')],
    ['tenant admin', await invite(projectId, 'member', 'admin')],
    ['member of another tenant', outsider.token],
    ['service account of another project', await mintRobot(site, outsider.token, outsider.projectId)],
    ['platform_user', await platformUser()],
    ['node', host.token],
  ]);
  return {
    callers: [...tokens].map(([name, token]) => ({ persona: personaNamed(name), token })),
    named: {
      project_id: projectId,
      org_id: tenantId,
      tenant_id: tenantId,
      node_id: host.nodeId,
      'x-project-id': projectId,
      'x-tenant-id': tenantId,
    },
  };
}

function personaNamed(name: string): Persona {
  const persona = personas.find((one) => one.name === name);
  if (persona === undefined) throw new Error(`no persona ${name}`);
  if (persona.principal.kind !== 'service_account') return persona;
  return { ...persona, principal: { ...persona.principal, scopes: new Set(scopesOfPurpose('automation')) } };
}

async function login(site: TestSite, username: string): Promise<string> {
  const session = await succeed(site, {
    method: 'POST',
    path: '/api/v1/auth/personal/login',
    body: { username, password: PASSWORD },
  });
  return text(session, 'access_token');
}

/** A service account of a project, made by its admin, and a token from its first key. */
async function mintRobot(site: TestSite, adminToken: string, projectId: string): Promise<string> {
  const created = await succeed(site, {
    method: 'POST',
    path: `/api/v1/projects/${projectId}/service-accounts`,
    token: adminToken,
    body: { name: 'Robot', slug: `robot-${randomUUID().slice(0, 8)}`, purpose: 'automation' },
  });
  const account = member(created, 'service_account');
  const credential = member(created, 'initial_credential');
  const minted = await succeed(site, {
    method: 'POST',
    path: '/api/v1/auth/service-account/token',
    body: {
      service_account_id: text(account, 'id'),
      key_id: text(credential, 'key_id'),
      client_secret: text(credential, 'client_secret'),
    },
  });
  return text(minted, 'access_token');
}

/** A GPU host of the fleet, known by the internal token that came with its certificate. */
async function enrollHost(site: TestSite, operator: string): Promise<{ nodeId: string; token: string }> {
  const sku = `sweep-${randomUUID().slice(0, 8)}`;
  await succeed(site, {
    method: 'POST',
    path: '/api/v1/admin/skus',
    token: operator,
    body: {
      sku,
      vendor: 'example',
      display_name: 'Eight accelerators',
      resource_class: 'gpu_baremetal',
      billing_unit: 'gpu_hour',
      scheduling_unit: 'node',
      resources: { accelerator_vendor: 'example', accelerator_count: 8, allowed_accelerator_counts: [8] },
      unit_price: { amount_minor: 200, currency: 'USD' },
    },
  });
  const node = await succeed(site, {
    method: 'POST',
    path: '/api/v1/admin/nodes',
    token: operator,
    body: { host: '192.0.2.7', sku, gpus_total: 8, probe: false },
  });
  const nodeId = text(node, 'id');
  const issued = await succeed(site, {
    method: 'POST',
    path: `/api/v1/admin/nodes/${nodeId}/enrollment-token`,
    token: operator,
  });
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const request = await Pkcs10CertificateRequestGenerator.create({
    name: 'CN=host',
    keys,
    signingAlgorithm: algorithm,
  });
  const enrolled = await site.call({
    method: 'POST',
    path: '/internal/v1/nodes/enroll',
    token: text(issued, 'enrollment_token'),
    body: { node_id: nodeId, csr: request.toString('pem') },
  });
  const token = enrolled.headers.get(NODE_HEADERS.internalToken);
  if (token === null) throw new Error(`no internal token: ${enrolled.status} ${JSON.stringify(enrolled.body)}`);
  return { nodeId, token };
}

async function succeed(site: TestSite, request: Parameters<TestSite['call']>[0]): Promise<unknown> {
  const { status, body } = await site.call(request);
  if (status >= 300) throw new Error(`${request.method} ${request.path} answered ${status}: ${JSON.stringify(body)}`);
  return body;
}

function member(body: unknown, key: string): unknown {
  const value = typeof body === 'object' && body !== null ? Reflect.get(body, key) : undefined;
  if (value === undefined) throw new Error(`the answer lacks ${key}: ${JSON.stringify(body)}`);
  return value;
}

function text(body: unknown, key: string): string {
  const value = member(body, key);
  if (typeof value !== 'string') throw new Error(`${key} is no text: ${JSON.stringify(body)}`);
  return value;
}
