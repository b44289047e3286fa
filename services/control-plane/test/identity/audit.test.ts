import { newId } from '@gpuaas/kernel';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Answer, PASSWORD, type Person, startTestSite, type TestSite } from '../harness/site.js';
import { publicKey } from './keys.js';
import { addMember, nobody, uniqueName } from './team.js';

let site: TestSite;
let owner: Person;
beforeAll(async () => {
  site = await startTestSite({ roles: ['api'] });
  owner = await site.signup();
});
afterAll(() => site?.stop());

const get = (path: string, token: string, project?: string) =>
  site.call({ path, token, ...(project !== undefined && { project }) });
const actionsOf = (answer: Answer): string[] => answer.body.items.map((item: { action: string }) => item.action);

async function walk(path: string, token: string): Promise<{ id: string; action: string; occurred_at: string }[]> {
  const seen = [];
  let cursor: string | null = '';
  while (cursor !== null) {
    const page: Answer = await get(
      `${path}${path.includes('?') ? '&' : '?'}page_size=3${cursor && `&cursor=${cursor}`}`,
      token,
    );
    expect(page.status).toBe(200);
    seen.push(...page.body.items);
    cursor = page.body.pagination.next_cursor;
  }
  return seen;
}

describe('each command', () => {
  it('leaves one row under its correlation id, and a refused one none (check 16)', async () => {
    const person = await site.signup();
    const project = { method: 'POST', path: '/api/v1/projects', token: person.token };
    const steps: [string, Parameters<TestSite['call']>[0], number][] = [
      ['project.create', { ...project, body: { name: 'Audited', slug: 'audited' } }, 201],
      ['project.create', { ...project, body: { name: 'Again', slug: 'audited' } }, 409],
      ['ssh_key.create', { ...project, path: '/api/v1/ssh-keys', body: { name: 'k', public_key: publicKey() } }, 201],
      [
        'project.update',
        { ...project, method: 'PATCH', path: `/api/v1/projects/${person.projectId}`, body: { name: 'New' } },
        200,
      ],
      ['project.set_default', { ...project, path: `/api/v1/projects/${person.projectId}/set-default` }, 200],
      ['project.delete', { ...project, method: 'DELETE', path: `/api/v1/projects/${person.projectId}` }, 200],
      ['project.delete', { ...project, method: 'DELETE', path: `/api/v1/projects/${person.projectId}` }, 403],
      ['auth.logout', { ...project, path: '/api/v1/auth/logout' }, 200],
    ];
    for (const [action, request, status] of steps) {
      const correlationId = newId();
      const answer = await site.call({ ...request, headers: { 'x-request-id': correlationId } });
      expect([action, answer.status]).toEqual([action, status]);
      const rows = await site.db
        .selectFrom('audit_logs')
        .select(['action', 'result', 'actor_id'])
        .where('correlation_id', '=', correlationId)
        .execute();
      const expected = status < 300 ? [{ action, result: 'success', actor_id: person.userId }] : [];
      expect(rows.filter((row) => row.result === 'success')).toEqual(expected);
    }
  });
});

describe('each command about others', () => {
  it('leaves one row too, and a refused one no success (check 16)', async () => {
    const operator = await site.operator();
    const stranger = await site.signup();
    const member = await addMember(site, owner);
    const robots = `/api/v1/projects/${owner.projectId}/service-accounts`;
    const made = await site.call({
      method: 'POST',
      path: robots,
      token: owner.token,
      body: { name: 'Audited', slug: 'audited-robot', purpose: 'automation' },
    });
    const robot = `${robots}/${made.body.service_account.id}`;
    const roles = `/api/v1/admin/users/${stranger.userId}/platform-roles`;
    const memberships = `/api/v1/v3/access/memberships/users/${member.userId}`;
    const inProject = { project: owner.projectId, token: owner.token };
    const within = { project_id: owner.projectId };
    const login = { username: uniqueName('audited'), password: PASSWORD };
    const steps: [string, Parameters<TestSite['call']>[0]][] = [
      ['POST', { path: roles, token: operator, body: { role: 'platform_ops' } }],
      ['POST', { path: roles, token: stranger.token, body: { role: 'platform_superadmin' } }],
      ['DELETE', { path: `${roles}/platform_ops`, token: operator }],
      ['POST', { path: '/api/v1/admin/users', token: operator, body: { ...login, role: 'user' } }],
      ['POST', { path: '/api/v1/admin/users', token: operator, body: { ...login, role: 'user' } }],
      ['POST', { path: `${memberships}/bind`, token: owner.token, body: { ...within, project_role: 'viewer' } }],
      ['POST', { path: `${memberships}/bind`, token: stranger.token, body: { ...within, project_role: 'viewer' } }],
      ['POST', { path: `${memberships}/remove`, ...inProject, body: { ...within, scope: 'project' } }],
      ['POST', { path: robots, token: owner.token, body: { name: 'B', slug: 'audited-b', purpose: 'automation' } }],
      ['POST', { path: robots, token: stranger.token, body: { name: 'C', slug: 'c-robot', purpose: 'automation' } }],
      ['POST', { path: `${robot}/rotate-key`, token: owner.token }],
      ['POST', { path: `${robot}/disable`, token: owner.token }],
      ['DELETE', { path: robot, token: owner.token }],
    ];
    const outcomes: number[] = [];
    for (const [method, request] of steps) {
      const correlationId = newId();
      const answer = await site.call({ ...request, method, headers: { 'x-request-id': correlationId } });
      outcomes.push(answer.status);
      const rows = await site.db
        .selectFrom('audit_logs')
        .select(['action', 'result'])
        .where('correlation_id', '=', correlationId)
        .where('result', '=', 'success')
        .execute();
      expect([method, request.path, answer.status, rows.length]).toEqual([
        method,
        request.path,
        answer.status,
        answer.status < 300 ? 1 : 0,
      ]);
    }
    expect(outcomes.map((status) => status < 300)).toEqual(
      [1, 0, 1, 1, 0, 1, 0, 1, 1, 0, 1, 1, 1].map((accepted) => accepted === 1),
    );
  });
});

describe('the record', () => {
  it('takes no change and no deletion, from anyone', async () => {
    for (const statement of [
      sql`UPDATE audit_logs SET action = 'x'`,
      sql`DELETE FROM audit_logs`,
      sql`TRUNCATE audit_logs`,
    ]) {
      await expect(statement.execute(site.db)).rejects.toThrow();
    }
  });

  it('of a person has what they did and what was done to them, and nothing of others', async () => {
    const person = await site.signup();
    const operator = await site.operator();
    await site.call({
      method: 'POST',
      path: `/api/v1/admin/users/${person.userId}/platform-roles`,
      token: operator,
      body: { role: 'platform_user' },
    });
    const mine = await get('/api/v1/audit-logs', person.token);
    expect(actionsOf(mine)).toEqual(['platform.role.bind', 'auth.signup']);
    expect(mine.body.items[0]).toMatchObject({
      result: 'success',
      target_type: 'user',
      presentation: {
        action_category: 'Platform',
        severity: 'warning',
        safe_details: { role: 'platform_user', changed: true },
      },
    });
    for (const item of mine.body.items) expect(item).not.toHaveProperty('metadata');
    expect((await get('/api/v1/account/evidence/audit', person.token)).body.items).toEqual(mine.body.items);
    const asOperator = await get(
      `/api/v1/admin/audit-logs?correlation_id=${mine.body.items[0].correlation_id}`,
      operator,
    );
    expect(asOperator.body.items[0]).toHaveProperty('metadata');
  });

  it('of a project is for its admins, that of a tenant for its admins, that of all for operators', async () => {
    const admin = await addMember(site, owner, { project: 'admin' });
    const member = await addMember(site, owner);
    const stranger = await site.signup();
    const ofProject = `/api/v1/projects/${owner.projectId}/audit-logs`;
    const ofTenant = `/api/v1/orgs/${owner.tenantId}/audit-logs`;
    const expectations: [string, string, number][] = [
      [ofProject, owner.token, 200],
      [ofProject, admin.token, 200],
      [ofProject, member.token, 403],
      [ofProject, stranger.token, 403],
      [ofTenant, owner.token, 200],
      [ofTenant, admin.token, 403],
      [ofTenant, stranger.token, 403],
      [`/api/v1/orgs/${nobody()}/audit-logs`, owner.token, 403],
      [`/api/v1/orgs/${nobody()}/audit-logs`, await site.operator(), 404],
      [ofTenant, await site.operator(), 200],
      ['/api/v1/admin/audit-logs', owner.token, 403],
    ];
    for (const [path, token, status] of expectations)
      expect([path, (await get(path, token)).status]).toEqual([path, status]);
    const ids = (rows: { id: string }[]) => rows.map((row) => row.id);
    const tenantRows = await walk(ofTenant, owner.token);
    const projectRows = await walk(ofProject, owner.token);
    expect(projectRows.length).toBeGreaterThan(0);
    expect(ids(tenantRows)).toEqual(expect.arrayContaining(ids(projectRows)));
    const foreign = await get('/api/v1/project/evidence/audit', owner.token, stranger.projectId);
    expect(foreign.status).toBe(403);
  });

  it('can be walked in every order, each row once, also where many share a sort key', async () => {
    const operator = await site.operator();
    const until = new Date().toISOString();
    const orders = ['occurred_at_desc', 'occurred_at_asc', 'action_asc', 'action_desc', 'result_asc', 'target_desc'];
    const walks = [];
    for (const sort of orders) walks.push(await walk(`/api/v1/admin/audit-logs?sort=${sort}&to=${until}`, operator));
    const [newest = []] = walks;
    for (const rows of walks) {
      expect(new Set(rows.map((row) => row.id)).size).toBe(rows.length);
      expect(rows.map((row) => row.id).sort()).toEqual(newest.map((row) => row.id).sort());
    }
    const actions = walks[2]?.map((row) => row.action) ?? [];
    expect(actions).toEqual([...actions].sort());
    const times = newest.map((row) => row.occurred_at);
    expect(times).toEqual([...times].sort().reverse());
  });

  it('merges a person’s two halves in order and without a gap', async () => {
    const person = await site.signup();
    const operator = await site.operator();
    for (let index = 0; index < 4; index += 1) {
      await site.call({
        method: 'POST',
        path: `/api/v1/admin/users/${person.userId}/platform-roles`,
        token: operator,
        body: { role: 'platform_user' },
      });
      await site.call({
        method: 'POST',
        path: `/api/v1/projects/${person.projectId}/set-default`,
        token: person.token,
      });
    }
    const rows = await walk('/api/v1/audit-logs', person.token);
    expect(rows.map((row) => row.action)).toEqual([
      ...Array.from({ length: 4 }, () => ['project.set_default', 'platform.role.bind']).flat(),
      'auth.signup',
    ]);
  });

  it('is narrowed by exact names, by beginnings of names, and by half-open times', async () => {
    const operator = await site.operator();
    const plain = await get('/api/v1/admin/audit-logs?action=auth&page_size=200', operator);
    expect(plain.body.items).toEqual([]);
    const exact = await get('/api/v1/admin/audit-logs?action=auth.signup&page_size=200', operator);
    expect(new Set(actionsOf(exact))).toEqual(new Set(['auth.signup']));
    for (const query of ['action=auth.&action=platform.role', 'action=auth.,platform.role']) {
      const prefixes = await get(`/api/v1/platform/evidence/audit?${query}&page_size=200`, operator);
      expect(prefixes.status).toBe(200);
      expect(actionsOf(prefixes)).toEqual(expect.arrayContaining(['auth.signup', 'auth.login', 'platform.role.bind']));
      expect(actionsOf(prefixes).filter((action) => !/^(auth\.|platform\.role)/.test(action))).toEqual([]);
    }
    expect((await get('/api/v1/platform/evidence/audit?action=%25', operator)).body.items).toEqual([]);

    const [row] = exact.body.items;
    const after = new Date(new Date(row.occurred_at).getTime() + 1).toISOString();
    const inside = await get(`/api/v1/admin/audit-logs?from=${row.occurred_at}&to=${after}`, operator);
    expect(inside.body.items.map((item: { id: string }) => item.id)).toContain(row.id);
    const before = await get(`/api/v1/admin/audit-logs?to=${row.occurred_at}&page_size=200`, operator);
    expect(before.body.items.map((item: { id: string }) => item.id)).not.toContain(row.id);
    const robots = await get('/api/v1/admin/audit-logs?actor_role=service_account', operator);
    expect(robots.body.items).toEqual([]);
    const byActor = await get(`/api/v1/admin/audit-logs?actor_user_id=${owner.userId}&page_size=200`, operator);
    expect(byActor.body.items.every((item: { actor_user_id: string }) => item.actor_user_id === owner.userId)).toBe(
      true,
    );
  });

  it('refuses a cursor of another order, filter or person (check 15)', async () => {
    const operator = await site.operator();
    const page = await get('/api/v1/admin/audit-logs?page_size=2', operator);
    const cursor = page.body.pagination.next_cursor;
    for (const path of [
      `/api/v1/admin/audit-logs?page_size=2&sort=action_asc&cursor=${cursor}`,
      `/api/v1/admin/audit-logs?page_size=2&action=auth.login&cursor=${cursor}`,
      `/api/v1/audit-logs?page_size=2&cursor=${cursor}`,
      `/api/v1/admin/audit-logs?page_size=2&cursor=${cursor.slice(0, -2)}AA`,
    ]) {
      expect([path, (await get(path, operator)).status]).toEqual([path, 400]);
    }
    for (const pageSize of ['0', '201', 'x']) {
      expect((await get(`/api/v1/admin/audit-logs?page_size=${pageSize}`, operator)).status).toBe(400);
    }
  });
});

describe('an export', () => {
  it('has every row of its list, cells that no spreadsheet runs, and a row of its own in the record', async () => {
    const operator = await site.operator();
    const evil = await site.signup('=cmd|calc!A1');
    const path = `/api/v1/admin/audit-logs/export?actor_user_id=${evil.userId}`;
    const csv = await get(path, operator);
    expect(csv.status).toBe(200);
    expect(csv.headers.get('content-type')).toContain('text/csv');
    const lines = csv.body.trimEnd().split('\r\n');
    expect(lines).toHaveLength(2);
    expect(lines[1]).toContain("'=cmd|calc!A1");
    expect(lines[1]).not.toMatch(/(^|,)"?=cmd/);
    const json = await get(`${path}&format=json`, operator);
    expect(json.body).toMatchObject({
      items: [{ action: 'auth.signup', actor_user_id: evil.userId }],
      export: { format: 'json', count: 1, sort: 'occurred_at_desc' },
    });
    const own = await get('/api/v1/admin/audit-logs?action=audit.export', operator);
    expect(own.body.items).toHaveLength(2);
    expect((await get('/api/v1/admin/audit-logs/export', owner.token)).status).toBe(403);
  });

  it('of more rows than it may have is refused, not cut', async () => {
    await sql`
      INSERT INTO audit_logs (id, actor_kind, actor_name, actor_role, action, target_type, result, request_id, correlation_id, trace_id)
      SELECT gen_random_uuid(), 'system', 'system:bulk', 'system', 'bulk.row', 'row', 'success', 'r', 'c', 't'
      FROM generate_series(1, 100001)`.execute(site.db);
    const operator = await site.operator();
    const path = '/api/v1/admin/audit-logs/export?action=bulk.row';
    expect(await get(path, operator)).toMatchObject({
      status: 400,
      body: { details: { reason: 'export_too_large' } },
    });
    const refused = await get('/api/v1/admin/audit-logs?action=audit.export&page_size=200', operator);
    expect(refused.body.items.length).toBe(2);
    // one row fewer fits, and streams whole
    const [first] = (await get('/api/v1/admin/audit-logs?action=bulk.row&sort=occurred_at_asc&page_size=1', operator))
      .body.items;
    const after = new Date(new Date(first.occurred_at).getTime() + 1).toISOString();
    const whole = await get(`${path}&from=${after}`, operator);
    expect(whole.status).toBe(200);
    const count = await site.db
      .selectFrom('audit_logs')
      .select((eb) => eb.fn.countAll<bigint>().as('count'))
      .where('action', '=', 'bulk.row')
      .where('occurred_at', '>=', new Date(after))
      .executeTakeFirstOrThrow();
    expect(BigInt(whole.body.trimEnd().split('\r\n').length - 1)).toBe(count.count);
  });
});
