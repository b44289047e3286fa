import 'reflect-metadata';
import { webcrypto } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { request } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Pkcs10CertificateRequestGenerator } from '@peculiar/x509';
import { type Answer, callOver, OPERATOR, type SiteOptions, startTestSite, type TestSite } from '../harness/site.js';

export const SKU = 'h200-sxm-baremetal-8g';

let hosts = 0;

/** A site with an agent package to hand out, and short polls. */
export interface FleetSite extends TestSite {
  readonly packagePath: string;
  asOperator(method: string, path: string, body?: unknown, key?: string): Promise<Answer>;
  /** Registers a host; returns the node's id. */
  register(body?: Record<string, unknown>): Promise<string>;
  /** A node whose host has a certificate and has not polled yet. */
  enrolled(body?: Record<string, unknown>): Promise<TestHost>;
  /** A node in service. */
  active(body?: Record<string, unknown>): Promise<TestHost>;
  statusOf(nodeId: string): Promise<string>;
}

/** A host as the node protocol sees it, played by the test. */
export interface TestHost {
  readonly nodeId: string;
  readonly internalToken: string;
  readonly certificate: string;
  readonly privateKey: string;
  wait(headers?: Record<string, string>): Promise<Answer>;
  /** Polls until there is a task of this type. */
  task(type: string): Promise<Answer['body']>;
  result(taskId: string, body?: Record<string, unknown>): Promise<Answer>;
}

export async function startFleetSite(options: SiteOptions = {}): Promise<FleetSite> {
  const directory = await mkdtemp(join(tmpdir(), 'gpuaas-fleet-'));
  const packagePath = join(directory, 'gpuaas-node-agent.tar.gz');
  await writeFile(packagePath, 'the bytes of a package');
  const site = await startTestSite({
    ...options,
    domains: { pollHoldMilliseconds: 200, agentPackagePath: packagePath, ...options.domains },
  });

  // Tests move the clock past the life of an access token.
  let token: string | null = null;
  const signIn = async (): Promise<string> => {
    const { username, password } = OPERATOR;
    const answer = await site.call({
      method: 'POST',
      path: '/api/v1/auth/personal/login',
      body: { username, password },
    });
    if (answer.status !== 200) throw new Error(`sign-in failed: ${JSON.stringify(answer.body)}`);
    return answer.body.access_token;
  };
  const asOperator = async (method: string, path: string, body?: unknown, key?: string) => {
    const send = (bearer: string) =>
      site.call({
        method,
        path,
        token: bearer,
        ...(body !== undefined && { body }),
        ...(key !== undefined && { key }),
      });
    token ??= await signIn();
    const answer = await send(token);
    if (answer.status !== 401) return answer;
    token = await signIn();
    return send(token);
  };

  const register = async (body: Record<string, unknown> = {}): Promise<string> => {
    hosts += 1;
    const answer = await asOperator('POST', '/api/v1/admin/nodes', {
      host: `fleet-host-${hosts}.test`,
      sku: SKU,
      gpus_total: 8,
      probe: false,
      ...body,
    });
    if (answer.status !== 201) throw new Error(`registering failed: ${JSON.stringify(answer.body)}`);
    return answer.body.id;
  };

  const enrolled = async (body?: Record<string, unknown>): Promise<TestHost> => {
    const nodeId = await register(body);
    const issued = await asOperator('POST', `/api/v1/admin/nodes/${nodeId}/enrollment-token`);
    const keys = await hostKeys(nodeId);
    const answer = await enroll(site, nodeId, keys.csr, issued.body.enrollment_token);
    if (answer.status !== 200) throw new Error(`enrolling failed: ${JSON.stringify(answer.body)}`);
    return hostOf(site, nodeId, answer, keys.privateKey);
  };

  return {
    ...site,
    packagePath,
    asOperator,
    register,
    enrolled,
    active: async (body) => {
      const host = await enrolled(body);
      await host.wait();
      return host;
    },
    statusOf: async (nodeId) => {
      const row = await site.db
        .selectFrom('nodes')
        .select(['status', 'removed_at'])
        .where('id', '=', nodeId)
        .executeTakeFirstOrThrow();
      return row.removed_at === null ? row.status : 'gone';
    },
    stop: async () => {
      await site.stop();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

export async function hostKeys(commonName = 'host'): Promise<{ csr: string; privateKey: string }> {
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256' };
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const request = await Pkcs10CertificateRequestGenerator.create({
    name: `CN=${commonName}`,
    keys,
    signingAlgorithm: { name: 'ECDSA', hash: 'SHA-256' },
  });
  const der = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey)).toString('base64');
  return {
    csr: request.toString('pem'),
    privateKey: `-----BEGIN PRIVATE KEY-----\n${der.match(/.{1,64}/g)?.join('\n')}\n-----END PRIVATE KEY-----\n`,
  };
}

export const enroll = (site: TestSite, nodeId: string, csr: string, token: string | undefined) =>
  site.call({ method: 'POST', path: '/internal/v1/nodes/enroll', token, body: { node_id: nodeId, csr } });

export function hostOf(site: TestSite, nodeId: string, enrolled: Answer, privateKey: string): TestHost {
  const internalToken = enrolled.headers.get('x-node-internal-token') ?? '';
  const wait = (headers: Record<string, string> = {}) =>
    site.call({ path: `/internal/v1/nodes/${nodeId}/tasks/wait`, token: internalToken, headers });
  return {
    nodeId,
    internalToken,
    certificate: enrolled.body.certificate,
    privateKey,
    wait,
    task: async (type) => {
      for (let attempt = 0; attempt < 50; attempt += 1) {
        const answer = await wait();
        if (answer.status === 204) continue;
        if (answer.status !== 200) throw new Error(`polling failed: ${JSON.stringify(answer.body)}`);
        if (answer.body.task_type !== type) throw new Error(`expected ${type}, got ${answer.body.task_type}`);
        return answer.body;
      }
      throw new Error(`no ${type} came`);
    },
    result: (taskId, body = {}) =>
      site.call({
        method: 'POST',
        path: `/internal/v1/nodes/${nodeId}/tasks/${taskId}/result`,
        token: internalToken,
        body: { status: 'success', completed_at: '2026-11-20T12:00:00Z', output: {}, ...body },
      }),
  };
}

/** One request over TLS with the host's certificate, or with none. */
export function callWithCertificate(
  site: TestSite,
  identity: Pick<TestHost, 'certificate' | 'privateKey'> | null,
  method: string,
  path: string,
): Promise<{ status: number; body: unknown }> {
  return new Promise((resolve, reject) => {
    const sent = request(
      `${site.nodeUrl}${path}`,
      {
        method,
        rejectUnauthorized: false,
        agent: false,
        ...(identity && { cert: identity.certificate, key: identity.privateKey }),
      },
      (response) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (chunk: string) => {
          text += chunk;
        });
        response.on('end', () =>
          resolve({ status: response.statusCode ?? 0, body: text === '' ? undefined : JSON.parse(text) }),
        );
      },
    );
    sent.on('error', reject);
    sent.end();
  });
}

export { callOver };
