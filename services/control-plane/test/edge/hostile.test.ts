import { randomUUID } from 'node:crypto';
import { connect } from 'node:net';
import { operationTable } from '@gpuaas/contract';
import { createLogger } from '@gpuaas/kernel';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { boundOperationIds } from '../../src/app/compose.js';
import { exampleRequest } from '../authorization/example-requests.js';
import { PASSWORD, type Person, startTestSite, type TestSite } from '../harness/site.js';
import { addMember, signIn } from '../identity/team.js';

let site: TestSite;
let ann: Person;
let mallory: Person;
const lines: string[] = [];

beforeAll(async () => {
  site = await startTestSite({
    domains: { pollHoldMilliseconds: 50 },
    log: createLogger({ program: 'test', level: 'debug', destination: { write: (line) => void lines.push(line) } }),
  });
  ann = await site.signup('ann');
  mallory = await site.signup('mallory');
});
afterAll(() => site?.stop());

const correlated = { code: 'invalid_request', correlation_id: expect.stringMatching(/./), message: expect.any(String) };

describe('bytes that are no HTTP request', () => {
  it.each([
    ['a line without sense', 'NONSENSE\r\n\r\n', 400],
    ['a header without end', `GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: ${'a'.repeat(40_000)}\r\n\r\n`, 431],
    [
      'two lengths',
      'POST /api/v1/projects HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc',
      400,
    ],
    [
      'a length and chunks',
      'POST /api/v1/projects HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
      400,
    ],
  ])('with %s are refused in the form of the contract', async (_what, bytes, status) => {
    const answer = await raw(bytes);
    expect(answer.status).toBe(status);
    expect(answer.body).toMatchObject({ ...correlated, details: { reason: 'request_malformed' } });
    expect(answer.head.toLowerCase()).toContain(`x-request-id: ${answer.body.correlation_id}`.toLowerCase());
  });

  it.each(['/api/v1/tasks/%zz', '/api/v1/tasks/%ff', `/api/v1/tasks/${'a'.repeat(3000)}`])(
    'a path like %.40s is refused in the form of the contract',
    async (path) => {
      const answer = await site.call({ path, token: ann.token, project: ann.projectId });
      expect(answer.status).toBe(400);
      expect(answer.body).toMatchObject({ ...correlated, details: { reason: 'request_malformed' } });
      expect(answer.headers.get('x-request-id')).toBe(answer.body.correlation_id);
    },
  );

  it.each(['HEAD', 'OPTIONS', 'TRACE', 'PROPFIND', 'PUT'])('%s where it means nothing is 404', async (method) => {
    const answer = await raw(`${method} /api/v1/projects HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`);
    expect(answer.status).toBe(404);
  });
});

describe('text that no database stores', () => {
  it.each([
    ['half of a surrogate pair', '{"name":"a\\ud800"}'],
    ['half of a surrogate pair in a name', '{"name":"a","\\udc00":1}'],
    ['bytes that are no UTF-8', Buffer.from([...Buffer.from('{"name":"a'), 0xff, 0xfe, ...Buffer.from('"}')])],
  ])('is refused: %s', async (_what, body) => {
    const response = await fetch(`${site.url}/api/v1/projects`, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        authorization: `Bearer ${ann.token}`,
        'idempotency-key': randomUUID(),
      },
      body,
    });
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ code: 'validation_error' });
  });
});

describe('headers', () => {
  it('that name one project in two spellings of its id are no contradiction', async () => {
    const answer = await site.call({
      path: `/api/v1/projects/${ann.projectId.toUpperCase()}/service-accounts`,
      token: ann.token,
      project: ann.projectId.toUpperCase(),
    });
    expect(answer.status).toBe(200);
  });

  it('that come twice never add a right', async () => {
    const twice = await raw(
      [
        'GET /api/v1/users/me HTTP/1.1',
        'Host: x',
        `Authorization: Bearer ${mallory.token}`,
        `Authorization: Bearer ${ann.token}`,
        'Connection: close',
        '\r\n',
      ].join('\r\n'),
    );
    expect(twice.body.id).toBe(mallory.userId);
    const projects = await raw(
      [
        'GET /api/v1/ssh-keys HTTP/1.1',
        'Host: x',
        `Authorization: Bearer ${mallory.token}`,
        `X-Project-ID: ${mallory.projectId}`,
        `x-project-id: ${ann.projectId}`,
        'Connection: close',
        '\r\n',
      ].join('\r\n'),
    );
    expect(projects.status).toBe(400);
  });

  it('of an answer forbid keeping it, tokens above all', async () => {
    const login = await site.call({
      method: 'POST',
      path: '/api/v1/auth/personal/login',
      body: { username: 'ann', password: PASSWORD },
    });
    const me = await site.call({ path: '/api/v1/users/me', token: ann.token });
    const refused = await site.call({ path: '/api/v1/users/me' });
    for (const answer of [login, me, refused]) {
      expect(answer.headers.get('cache-control')).toBe('no-store');
      expect(answer.headers.get('x-content-type-options')).toBe('nosniff');
    }
  });
});

describe('the record of refusals', () => {
  it('of one tenant takes nothing from strangers who name it', async () => {
    for (const path of [`/api/v1/orgs/${ann.tenantId}/audit-logs`, `/api/v1/orgs/${ann.tenantId}/allocations`]) {
      const refused = await site.call({ path, token: mallory.token, headers: { 'user-agent': 'planted' } });
      expect(refused.status).toBe(403);
    }
    const seen = await site.call({ path: `/api/v1/orgs/${ann.tenantId}/audit-logs?page_size=200`, token: ann.token });
    expect(seen.body.items.filter((item: { action: string }) => item.action === 'authz.deny')).toEqual([]);
    const rows = await site.db
      .selectFrom('audit_logs')
      .select(['tenant_id', 'action'])
      .where('actor_id', '=', mallory.userId)
      .where('action', '=', 'authz.deny')
      .execute();
    expect(rows.length).toBeGreaterThan(0);
    expect(new Set(rows.map((row) => row.tenant_id))).toEqual(new Set([mallory.tenantId]));
  });

  it('keeps no credential that stands in the name of a client', async () => {
    await site.call({
      method: 'POST',
      path: '/api/v1/projects',
      token: ann.token,
      body: { name: 'Agent' },
      headers: { 'user-agent': `tool Bearer ${ann.token}` },
    });
    const rows = await site.db
      .selectFrom('audit_logs')
      .select('user_agent')
      .where('user_agent', 'like', 'tool %')
      .execute();
    expect(rows).toHaveLength(1);
    expect(rows[0]?.user_agent).not.toContain(ann.token.slice(0, 40));
  });
});

const ENDS_WHAT_OTHERS_NEED = new Set(['signupPersonal', 'logout', 'revokeOtherV3AccountSessions', 'deleteProject']);

describe('the allowance of callers without identity', () => {
  const refusedOf = async (trustedProxies: readonly string[], addressOf: (attempt: number) => string) => {
    const limited = await startTestSite({ rateLimits: 'platform', roles: ['api'], planes: 1, trustedProxies });
    try {
      const answers = await Promise.all(
        Array.from({ length: 160 }, (_, attempt) =>
          limited.call({
            method: 'POST',
            path: '/api/v1/auth/personal/login',
            body: {},
            headers: { 'x-forwarded-for': addressOf(attempt) },
          }),
        ),
      );
      const recorded = await limited.db
        .selectFrom('audit_logs')
        .select('id')
        .where('action', '=', 'rate_limit.block')
        .execute();
      return { refused: answers.filter(({ status }) => status === 429).length, recorded: recorded.length };
    } finally {
      await limited.stop();
    }
  };

  it('is not widened by a header that nobody vouches for', async () => {
    const { refused } = await refusedOf([], (attempt) => `203.0.113.${attempt}`);
    expect(refused).toBeGreaterThan(0);
  });

  it('is that of a network where one customer has a whole network, and so is its record', async () => {
    const { refused, recorded } = await refusedOf(['loopback'], (attempt) => `2001:db8:1:2::${attempt.toString(16)}`);
    expect(refused).toBeGreaterThan(0);
    // A minute may end between two refusals.
    expect(recorded).toBeLessThanOrEqual(2);
  });
});

describe('what belongs to others', () => {
  it('is answered like what nobody has, whatever the operation', async () => {
    const robot = await site.call({
      method: 'POST',
      path: `/api/v1/projects/${ann.projectId}/service-accounts`,
      token: ann.token,
      body: { name: 'robot', slug: 'robot' },
    });
    const key = await site.call({
      method: 'POST',
      path: '/api/v1/ssh-keys',
      token: ann.token,
      body: {
        name: 'laptop',
        public_key: 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl ann',
      },
    });
    expect([robot.status, key.status]).toEqual([201, 201]);
    const foreign: Record<string, string> = {
      project_id: ann.projectId,
      org_id: ann.tenantId,
      tenant_id: ann.tenantId,
      user_id: ann.userId,
      service_account_id: robot.body.service_account.id,
      key_id: key.body.key.id,
      'x-project-id': ann.projectId,
      'x-tenant-id': ann.tenantId,
    };
    const mine = {
      project_id: mallory.projectId,
      org_id: mallory.tenantId,
      tenant_id: mallory.tenantId,
      'x-project-id': mallory.projectId,
    };
    const bound = new Set(boundOperationIds(site.controlPlane.domains));
    const differences: unknown[] = [];
    let compared = 0;
    for (const definition of operationTable) {
      if (!bound.has(definition.operationId) || ENDS_WHAT_OTHERS_NEED.has(definition.operationId)) continue;
      for (const route of definition.routes) {
        const example = exampleRequest(definition, route, mine);
        const fields = isPlainObject(example.body) ? Object.keys(example.body) : [];
        const places = [
          ...Object.keys(example.pathParameters),
          ...fields,
          ...(definition.projectHeader === 'none' ? [] : ['x-project-id']),
          ...(definition.tenantHeader === 'none' ? [] : ['x-tenant-id']),
        ];
        for (const place of new Set(places)) {
          const theirs = foreign[place];
          if (theirs === undefined) continue;
          const visit = async (id: string) => {
            const request = exampleRequest(definition, route, { ...mine, [place]: id });
            const body =
              isPlainObject(example.body) && fields.includes(place) ? { ...example.body, [place]: id } : example.body;
            const { status, body: answered } = await site.call({
              method: request.method,
              path: request.path,
              token: mallory.token,
              headers: request.headers,
              ...(!Buffer.isBuffer(body) && { body }),
            });
            return { status, code: answered?.code, message: answered?.message, details: answered?.details };
          };
          const [known, unknown] = [await visit(theirs), await visit(randomUUID())];
          compared += 1;
          if (JSON.stringify(known) !== JSON.stringify(unknown) || known.status < 400) {
            differences.push({ operation: definition.operationId, route: route.path, place, known, unknown });
          }
        }
      }
    }
    expect(compared).toBeGreaterThan(90);
    expect(differences).toEqual([]);
  });

  it('is not replayed to someone who has moved to another tenant', async () => {
    const eve = await addMember(site, ann, { tenant: 'admin', project: 'admin' });
    const create = (token: string) =>
      site.call({ method: 'POST', path: '/api/v1/projects', token, key: 'moved', body: { name: 'Moved' } });
    const before = await create(eve.token);
    expect(before.status).toBe(201);
    const moved = await site.call({
      method: 'POST',
      path: `/api/v1/admin/tenants/${mallory.tenantId}/memberships`,
      token: await site.operator(),
      body: {
        user_id: eve.userId,
        project_id: mallory.projectId,
        tenant_role: 'admin',
        project_role: 'admin',
        mode: 'rehome',
      },
    });
    expect(moved.status).toBe(200);
    const after = await create(await signIn(site, eve.username));
    expect(after.status).toBe(201);
    expect(after.headers.get('idempotency-replayed')).toBeNull();
    expect(after.body.project.id).not.toBe(before.body.project.id);
  });
});

describe('an administrator of a tenant', () => {
  it('unmakes no owner of a project by removing them from the tenant', async () => {
    const admin = await addMember(site, ann, { tenant: 'admin', project: 'admin' });
    const owner = await addMember(site, ann, { tenant: 'member', project: 'owner' });
    const remove = (token: string) =>
      site.call({
        method: 'POST',
        path: `/api/v1/v3/access/memberships/users/${owner.userId}/remove`,
        token,
        project: ann.projectId,
        body: { project_id: ann.projectId, scope: 'tenant' },
      });
    const refused = await remove(admin.token);
    expect(refused.status).toBe(403);
    expect(refused.body).toMatchObject({ code: 'ownership_required' });
    expect((await remove(ann.token)).status).toBe(200);
  });
});

async function raw(
  bytes: string,
): Promise<{ status: number; head: string; body: Record<string, unknown> & { correlation_id?: string } }> {
  const { hostname, port } = new URL(site.url);
  const text = await new Promise<string>((resolve, reject) => {
    const socket = connect(Number(port), hostname);
    const chunks: Buffer[] = [];
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    socket.on('error', reject);
    socket.on('close', () => resolve(Buffer.concat(chunks).toString('utf8')));
    socket.write(bytes);
  });
  const [head = '', content = ''] = text.split('\r\n\r\n');
  const json = content.slice(content.indexOf('{'), content.lastIndexOf('}') + 1);
  return { status: Number(head.split(' ')[1]), head, body: json === '' ? {} : JSON.parse(json) };
}

function isPlainObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !Buffer.isBuffer(value);
}
