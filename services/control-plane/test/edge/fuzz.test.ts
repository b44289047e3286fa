import { Agent, request as httpRequest } from 'node:http';
import { type OperationDefinition, operationTable, validatorsFor } from '@gpuaas/contract';
import { createLogger } from '@gpuaas/kernel';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { boundOperationIds } from '../../src/app/compose.js';
import { createCallers } from '../authorization/site-personas.js';
import { OPERATOR, PASSWORD, type Person, startTestSite, type TestSite } from '../harness/site.js';
import { type HostileRequest, hostileRequests } from './hostile-requests.js';

const SEED = Number(process.env.GPUAAS_FUZZ_SEED ?? 20_260_115);
const CASES = Number(process.env.GPUAAS_FUZZ_CASES ?? 800);
const PARALLEL = 16;
/** A fuzzer that is refused at the door finds nothing: of so many requests at least, by caller. */
const CARRIED_OUT: Readonly<Record<string, number>> = { operator: CASES / 10, tenant: CASES / 25, robot: 1, host: 1 };
const PUBLIC_KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl ann';

/** They end what the other requests stand on. */
const LEFT_OUT = new Set(['logout', 'revokeOtherV3AccountSessions', 'deleteProject']);

interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly text: string;
}

describe('hostile requests', () => {
  const lines: string[] = [];
  const agent = new Agent({ keepAlive: true, maxSockets: PARALLEL });
  let site: TestSite;
  let ann: Person;
  let bob: Person;
  let tokens: Readonly<Record<string, string | null>>;
  let named: Readonly<Record<string, readonly string[]>>;
  let operations: readonly OperationDefinition[];
  let secrets: readonly string[];

  beforeAll(async () => {
    site = await startTestSite({
      domains: { pollHoldMilliseconds: 50 },
      log: createLogger({ program: 'test', level: 'debug', destination: { write: (line) => void lines.push(line) } }),
    });
    ann = await site.signup('ann');
    bob = await site.signup('bob');
    const { callers, named: things } = await createCallers(site);
    const host = callers.find(({ persona }) => persona.name === 'node');
    const robot = await made(`/api/v1/projects/${ann.projectId}/service-accounts`, { name: 'Robot', slug: 'robot' });
    const minted = await site.call({
      method: 'POST',
      path: '/api/v1/auth/service-account/token',
      body: {
        service_account_id: robot.service_account.id,
        key_id: robot.initial_credential.key_id,
        client_secret: robot.initial_credential.client_secret,
      },
    });
    const { key } = await made('/api/v1/ssh-keys', { name: 'laptop', public_key: PUBLIC_KEY });
    const catalogue = await site.call({ path: '/api/v1/admin/skus', token: await site.operator() });
    const skus = catalogue.body.items.map((item: { sku: string }) => item.sku);
    named = {
      node_id: [things.node_id ?? ''],
      key_id: [key.id],
      ssh_key_ids: [key.id],
      service_account_id: [robot.service_account.id],
      sku: skus,
      resource_sku: skus,
    };
    tokens = {
      operator: await site.operator(),
      tenant: ann.token,
      robot: minted.body.access_token,
      host: host?.token ?? null,
      nobody: null,
    };
    secrets = [
      ...[PASSWORD, OPERATOR.password, ann.refreshToken, bob.refreshToken, robot.initial_credential.client_secret],
      ...Object.values(tokens).filter((token) => token !== null),
    ];
    const bound = new Set(boundOperationIds(site.controlPlane.domains));
    operations = operationTable.filter(({ operationId }) => bound.has(operationId) && !LEFT_OUT.has(operationId));
  });
  afterAll(async () => {
    agent.destroy();
    await site?.stop();
  });

  // In this order: who may change much comes after those who live by it.
  it.each(['nobody', 'host', 'robot', 'tenant', 'operator'])(
    'of %s are never answered by a failure of ours, and refusals have the form of the contract',
    async (who) => {
      const token = tokens[who] ?? null;
      expect(token === null).toBe(who === 'nobody');
      const known = {
        // mostly one's own: a fuzzer that is refused at the door finds nothing
        projects: [ann.projectId, ann.projectId, ann.projectId, bob.projectId],
        tenants: [ann.tenantId, bob.tenantId],
        users: [bob.userId],
        named,
      };
      const requests = fc.sample(hostileRequests(operations, known), { numRuns: CASES, seed: SEED });
      const flaws: unknown[] = [];
      const statuses = new Map<number, number>();
      const queue = requests[Symbol.iterator]();
      await Promise.all(
        Array.from({ length: PARALLEL }, async () => {
          for (const request of queue) {
            const answer = await send(request, token);
            statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
            const flaw = flawOf(request, answer);
            if (flaw !== null)
              flaws.push({ ...shown(request), flaw, answered: `${answer.status} ${answer.text}`.slice(0, 600) });
          }
        }),
      );
      expect(flaws.slice(0, 10)).toEqual([]);
      expect(requests.length).toBe(CASES);
      const carriedOut = [...statuses].reduce((sum, [status, times]) => sum + (status < 300 ? times : 0), 0);
      expect(carriedOut).toBeGreaterThanOrEqual(CARRIED_OUT[who] ?? 0);
    },
    180_000,
  );

  it('leave no secret in the log', () => {
    const log = lines.join('');
    expect(lines.length).toBeGreaterThan(0);
    expect(secrets.filter((secret) => log.includes(secret))).toEqual([]);
    expect(log).not.toMatch(/PRIVATE KEY|eyJ[\w-]{20,}\.[\w-]{20,}\./);
  });

  // biome-ignore lint/suspicious/noExplicitAny: a test reads the fields it needs
  async function made(path: string, body: unknown): Promise<any> {
    const answer = await site.call({ method: 'POST', path, token: ann.token, body });
    if (answer.status !== 201)
      throw new Error(`POST ${path} answered ${answer.status}: ${JSON.stringify(answer.body)}`);
    return answer.body;
  }

  function send({ method, path, headers, body }: HostileRequest, token: string | null): Promise<Answer> {
    const { hostname, port } = new URL(site.url);
    return new Promise((resolve, reject) => {
      const outgoing = httpRequest(
        {
          agent,
          hostname,
          port,
          method,
          path,
          headers: {
            ...headers,
            ...(token !== null && { authorization: `Bearer ${token}` }),
            ...(body !== null && { 'content-length': String(body.length) }),
          },
          timeout: 20_000,
        },
        (incoming) => {
          const chunks: Buffer[] = [];
          incoming.on('data', (chunk: Buffer) => chunks.push(chunk));
          incoming.on('error', reject);
          incoming.on('end', () =>
            resolve({
              status: incoming.statusCode ?? 0,
              headers: incoming.headers,
              text: Buffer.concat(chunks).toString('utf8'),
            }),
          );
        },
      );
      outgoing.on('timeout', () => outgoing.destroy(new Error(`${method} ${path} was not answered`)));
      outgoing.on('error', reject);
      outgoing.end(body ?? undefined);
    });
  }

  /** What no answer may be, whoever asks for whatever; null where nothing is wrong. */
  function flawOf({ definition }: HostileRequest, { status, headers, text }: Answer): string | null {
    if (status === 500) return `500: ${causeOf(headers['x-request-id'])}`;
    if (status < 400) return null;
    if (!String(headers['content-type']).startsWith('application/json')) return 'a refusal that is no JSON';
    const body: unknown = JSON.parse(text);
    const verdict = validatorsFor(definition.operationId).response(status, body);
    if (!verdict.ok) return `no well-formed error: ${JSON.stringify(verdict.issues)}`;
    if (!isCorrelated(body, headers['x-request-id'])) return 'a refusal under another id than the request';
    if (/\b(select|insert into|update) .* (from|values|set)\b|node_modules|\.ts:\d+|SQLSTATE/i.test(text))
      return 'a refusal that shows the inside';
    return null;
  }

  function causeOf(requestId: unknown): string {
    return lines.find((line) => line.includes(String(requestId)) && line.includes('"level":"error"')) ?? 'not logged';
  }
});

function isCorrelated(body: unknown, requestId: unknown): boolean {
  return typeof body === 'object' && body !== null && 'correlation_id' in body && body.correlation_id === requestId;
}

function shown({ definition, method, path, headers, body }: HostileRequest): Record<string, unknown> {
  return {
    operation: definition.operationId,
    method,
    path: path.slice(0, 300),
    headers: Object.entries(headers).map(([name, value]) => `${name}: ${value.slice(0, 60)}`),
    body: body?.toString('utf8').slice(0, 600),
  };
}
