import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Answer, type Person, startTestSite, type TestSite } from '../harness/site.js';
import { addMember, makeEnterprise, nobody, type ProjectRole, type TenantRole, uniqueName } from './team.js';

let site: TestSite;
beforeAll(async () => {
  site = await startTestSite({ roles: ['api'] });
});
afterAll(() => site?.stop());

interface Roles {
  readonly tenant_role?: TenantRole;
  readonly project_role?: ProjectRole;
}

const bind = (token: string, userId: string, projectId: string, roles: Roles = {}) =>
  site.call({
    method: 'POST',
    path: `/api/v1/tenant/users/${userId}/memberships`,
    token,
    body: { project_id: projectId, ...roles },
  });
const remove = (token: string, userId: string, projectId: string, scope: 'project' | 'tenant') =>
  site.call({
    method: 'POST',
    path: `/api/v1/v3/access/memberships/users/${userId}/remove`,
    token,
    project: projectId,
    body: { project_id: projectId, scope },
  });
const adminBind = async (tenantId: string, body: Record<string, unknown>): Promise<Answer> =>
  site.call({
    method: 'POST',
    path: `/api/v1/admin/tenants/${tenantId}/memberships`,
    token: await site.operator(),
    body: { tenant_role: 'member', project_role: 'member', ...body },
  });
const rolesOf = async (owner: Person, userId: string) => {
  const path = `/api/v1/tenant/users?project_id=${owner.projectId}&page_size=200`;
  const { body } = await site.call({ path, token: owner.token });
  const row = body.items.find((item: { user_id: string }) => item.user_id === userId);
  return row && [row.tenant_role, row.project_role];
};

describe('binding', () => {
  it('by a project admin gives project roles below owner and no tenant role (check 10)', async () => {
    const owner = await site.signup();
    const admin = await addMember(site, owner, { project: 'admin' });
    const target = await addMember(site, owner);
    const denied: Roles[] = [{ project_role: 'owner' }, { tenant_role: 'admin' }, { tenant_role: 'billing_viewer' }];
    for (const roles of denied) {
      expect(await bind(admin.token, target.userId, owner.projectId, roles)).toMatchObject({
        status: 403,
        body: { code: 'insufficient_permissions' },
      });
    }
    expect((await bind(admin.token, owner.userId, owner.projectId, { project_role: 'member' })).status).toBe(403);
    expect((await bind(admin.token, target.userId, owner.projectId, { project_role: 'admin' })).status).toBe(200);
    expect(await rolesOf(owner, target.userId)).toEqual(['member', 'admin']);
  });

  it('by a tenant admin makes no owner of tenant or project, and unmakes none', async () => {
    const owner = await site.signup();
    const admin = await addMember(site, owner, { tenant: 'admin', project: 'member' });
    const target = await addMember(site, owner);
    for (const roles of [{ tenant_role: 'owner' }, { project_role: 'owner' }] as const) {
      expect(await bind(admin.token, target.userId, owner.projectId, roles)).toMatchObject({
        status: 403,
        body: { code: 'insufficient_permissions' },
      });
    }
    const demotion = await bind(admin.token, owner.userId, owner.projectId, { tenant_role: 'member' });
    expect(demotion).toMatchObject({ status: 403, body: { code: 'ownership_required' } });
    expect((await bind(admin.token, target.userId, owner.projectId, { tenant_role: 'admin' })).status).toBe(200);
  });

  it('leaves roles alone that it does not name (check 11)', async () => {
    const owner = await site.signup();
    const second = await addMember(site, owner, { tenant: 'owner', project: 'owner' });
    const admin = await addMember(site, owner, { tenant: 'admin' });
    const answer = await bind(admin.token, second.userId, owner.projectId);
    expect(answer.body).toMatchObject({
      mode: 'strict',
      rehomed: false,
      binding: { tenant_role: 'owner', project_role: 'owner' },
    });
    expect(await rolesOf(owner, second.userId)).toEqual(['owner', 'owner']);
  });

  it('by a mere member is refused', async () => {
    const owner = await site.signup();
    const member = await addMember(site, owner);
    const target = await addMember(site, owner);
    expect((await bind(member.token, target.userId, owner.projectId, { project_role: 'viewer' })).status).toBe(403);
  });

  it('never reaches into another tenant: strangers look unknown', async () => {
    const owner = await site.signup();
    const stranger = await site.signup();
    const answers = [
      await bind(owner.token, stranger.userId, owner.projectId),
      await bind(owner.token, nobody(), owner.projectId),
      await remove(owner.token, stranger.userId, owner.projectId, 'tenant'),
    ];
    for (const answer of answers) expect(answer).toMatchObject({ status: 404, body: { code: 'user_not_found' } });
    expect((await bind(owner.token, owner.userId, stranger.projectId)).status).toBe(403);
  });

  it('has one effect under one key, at either spelling of its path (check 18)', async () => {
    const owner = await site.signup();
    const target = await addMember(site, owner, { project: 'viewer' });
    const request = {
      method: 'POST',
      token: owner.token,
      key: uniqueName('key'),
      body: { project_id: owner.projectId, project_role: 'admin' },
    };
    const bare = await site.call({ ...request, path: `/api/v1/access/memberships/users/${target.userId}/bind` });
    const v3 = await site.call({ ...request, path: `/api/v1/v3/access/memberships/users/${target.userId}/bind` });
    expect(v3.status).toBe(200);
    expect(v3.body).toEqual(bare.body);
    expect(v3.headers.get('idempotency-replayed')).toBe('true');
    const rows = await site.db
      .selectFrom('audit_logs')
      .select('id')
      .where('action', '=', 'tenant.user.membership.bind')
      .where('target_user_id', '=', target.userId)
      .execute();
    expect(rows).toHaveLength(1);
    const other = await site.call({
      ...request,
      body: { ...request.body, project_role: 'viewer' },
      path: `/api/v1/access/memberships/users/${target.userId}/bind`,
    });
    expect(other).toMatchObject({ status: 409, body: { details: { reason: 'idempotency_key_reused' } } });
  });
});

describe('removing', () => {
  it('from the tenant ends projects, sessions and the home, and can be undone', async () => {
    const owner = await site.signup();
    const member = await addMember(site, owner);
    const answer = await remove(owner.token, member.userId, owner.projectId, 'tenant');
    expect(answer.body).toMatchObject({
      removed: true,
      removed_project_memberships: 1,
      removed_tenant_membership: 1,
      evidence: { audit_action: 'tenant.user.membership.remove', target_user_id: member.userId },
    });
    expect((await site.call({ path: '/api/v1/users/me', token: member.token })).status).toBe(401);
    const again = await site.call({
      method: 'POST',
      path: '/api/v1/auth/personal/login',
      body: { username: member.username, password: 'a password of twelve and more' },
    });
    expect(again.body).toMatchObject({ org_id: null, user: { project_id: null } });
    const token = again.body.access_token;
    expect((await site.call({ path: '/api/v1/ssh-keys', token, project: owner.projectId })).status).toBe(403);
    expect((await remove(owner.token, member.userId, owner.projectId, 'tenant')).body).toMatchObject({
      removed: false,
    });

    expect((await bind(owner.token, member.userId, owner.projectId, { project_role: 'viewer' })).status).toBe(200);
    expect((await site.call({ path: '/api/v1/projects', token })).body.items).toMatchObject([{ role: 'viewer' }]);
  });

  it('from the project leaves the home and the session', async () => {
    const owner = await site.signup();
    const member = await addMember(site, owner);
    const answer = await remove(owner.token, member.userId, owner.projectId, 'project');
    expect(answer.body).toMatchObject({ removed: true, removed_project_memberships: 1, removed_tenant_membership: 0 });
    expect((await site.call({ path: '/api/v1/users/me', token: member.token })).body).toMatchObject({
      org_id: owner.tenantId,
      project_id: null,
    });
    expect((await site.call({ path: '/api/v1/ssh-keys', token: member.token, project: owner.projectId })).status).toBe(
      403,
    );
  });

  it('keeps the last owner', async () => {
    const owner = await site.signup();
    expect(await remove(owner.token, owner.userId, owner.projectId, 'tenant')).toMatchObject({
      status: 409,
      body: { details: { reason: 'last_owner' } },
    });
    const demotion = await bind(owner.token, owner.userId, owner.projectId, { tenant_role: 'member' });
    expect(demotion).toMatchObject({ status: 409, body: { details: { reason: 'last_owner' } } });
    const second = await addMember(site, owner, { tenant: 'owner' });
    expect((await remove(second.token, owner.userId, owner.projectId, 'tenant')).status).toBe(200);
  });

  it('keeps one of two owners who remove each other at the same moment', async () => {
    for (let round = 0; round < 5; round += 1) {
      const first = await site.signup();
      const second = await addMember(site, first, { tenant: 'owner', project: 'owner' });
      const answers = await Promise.all([
        remove(first.token, second.userId, first.projectId, 'tenant'),
        remove(second.token, first.userId, first.projectId, 'tenant'),
      ]);
      expect(answers.filter(({ status }) => status === 200)).toHaveLength(1);
    }
  });

  it('takes the project from header and body, which must agree', async () => {
    const owner = await site.signup();
    const member = await addMember(site, owner);
    const answer = await site.call({
      method: 'POST',
      path: `/api/v1/access/memberships/users/${member.userId}/remove`,
      token: owner.token,
      project: owner.projectId,
      body: { project_id: nobody() },
    });
    expect(answer.status).toBe(400);
  });
});

describe('an operator', () => {
  it('binds nobody who has another home, but may move them (check 12)', async () => {
    const person = await site.signup();
    const target = await site.signup();
    const body = { user_id: person.userId, project_id: target.projectId };
    expect(await adminBind(target.tenantId, body)).toMatchObject({
      status: 409,
      body: { details: { reason: 'home_tenant_conflict' } },
    });
    const moved = await adminBind(target.tenantId, { ...body, mode: 'rehome', reason: 'joined the company' });
    expect(moved.body).toMatchObject({ mode: 'rehome', rehomed: true, binding: { tenant_id: target.tenantId } });
    expect((await site.call({ path: '/api/v1/users/me', token: person.token })).status).toBe(401);
    const { access_token: token, org_id: home } = (
      await site.call({
        method: 'POST',
        path: '/api/v1/auth/personal/login',
        body: { username: person.username, password: 'a password of twelve and more' },
      })
    ).body;
    expect(home).toBe(target.tenantId);
    expect((await site.call({ path: '/api/v1/ssh-keys', token, project: person.projectId })).status).toBe(403);
    expect((await site.call({ path: '/api/v1/ssh-keys', token, project: target.projectId })).status).toBe(200);
  });

  it('leaves no organisation without an owner', async () => {
    const boss = await site.signup();
    await makeEnterprise(site, boss.tenantId);
    const target = await site.signup();
    const move = { user_id: boss.userId, project_id: target.projectId, mode: 'rehome' };
    expect(await adminBind(target.tenantId, move)).toMatchObject({
      status: 409,
      body: { details: { reason: 'last_owner' } },
    });
    const demotion = { user_id: boss.userId, project_id: boss.projectId };
    expect((await adminBind(boss.tenantId, demotion)).status).toBe(409);
  });

  it('gives a home to somebody who has none', async () => {
    const owner = await site.signup();
    const username = uniqueName('homeless');
    const created = await site.call({
      method: 'POST',
      path: '/api/v1/admin/users',
      token: await site.operator(),
      body: { username, password: 'a password of twelve and more' },
    });
    const bound = await adminBind(owner.tenantId, { user_id: created.body.id, project_id: owner.projectId });
    expect(bound.body).toMatchObject({ mode: 'strict', rehomed: false });
    expect(await rolesOf(owner, created.body.id)).toEqual(['member', 'member']);
  });

  it('is told what does not exist', async () => {
    const owner = await site.signup();
    const other = await site.signup();
    expect((await adminBind(nobody(), { user_id: owner.userId, project_id: owner.projectId })).status).toBe(404);
    expect((await adminBind(owner.tenantId, { user_id: owner.userId, project_id: other.projectId })).status).toBe(404);
    expect((await adminBind(owner.tenantId, { user_id: nobody(), project_id: owner.projectId })).status).toBe(404);
  });
});

describe('members of a tenant', () => {
  it('are listed once each, to tenant admins, and to project admins with their project', async () => {
    const owner = await site.signup();
    const members = [];
    for (let index = 0; index < 4; index += 1) members.push(await addMember(site, owner));
    const projectAdmin = await addMember(site, owner, { project: 'admin' });
    const seen: string[] = [];
    let cursor: string | null = '';
    while (cursor !== null) {
      const path = `/api/v1/tenant/users?page_size=2${cursor && `&cursor=${cursor}`}`;
      const page: Answer = await site.call({ path, token: owner.token });
      seen.push(...page.body.items.map((item: { user_id: string }) => item.user_id));
      cursor = page.body.pagination.next_cursor;
    }
    expect(seen.sort()).toEqual([owner, projectAdmin, ...members].map((each) => each.userId).sort());
    expect((await site.call({ path: '/api/v1/tenant/users', token: projectAdmin.token })).status).toBe(403);
    const path = `/api/v1/tenant/users?project_id=${owner.projectId}`;
    expect((await site.call({ path, token: projectAdmin.token })).body.items).toHaveLength(6);
    expect((await site.call({ path, token: members[0]?.token })).status).toBe(403);
    expect((await site.call({ path, token: (await site.signup()).token })).status).toBe(403);
  });

  it('are taken in by tenant admins under a new name only', async () => {
    const owner = await site.signup();
    const member = await addMember(site, owner);
    const body = { username: member.username, password: 'a password of twelve and more', project_id: owner.projectId };
    const create = (token: string, extra: Record<string, unknown> = {}) =>
      site.call({ method: 'POST', path: '/api/v1/tenant/users', token, body: { ...body, ...extra } });
    expect(await create(owner.token)).toMatchObject({ status: 409, body: { code: 'user_already_exists' } });
    expect((await create(member.token, { username: uniqueName('x') })).status).toBe(403);
    const foreign = await site.signup();
    expect((await create(owner.token, { username: uniqueName('x'), project_id: foreign.projectId })).status).toBe(403);
  });
});
