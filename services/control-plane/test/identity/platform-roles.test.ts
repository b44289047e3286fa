import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PASSWORD, startTestSite, type TestSite } from '../harness/site.js';
import { nobody, signIn, uniqueName } from './team.js';

let site: TestSite;
beforeAll(async () => {
  site = await startTestSite({ roles: ['api'] });
});
afterAll(() => site?.stop());

type Role = 'platform_superadmin' | 'platform_ops' | 'platform_user';

async function createUser(role: 'user' | 'admin' = 'user', at = site) {
  const username = uniqueName('staff');
  const answer = await at.call({
    method: 'POST',
    path: '/api/v1/admin/users',
    token: await at.operator(),
    body: { username, password: PASSWORD, role },
  });
  expect(answer.status).toBe(201);
  return { userId: answer.body.id as string, username, token: await signIn(at, username) };
}
const bind = (token: string, userId: string, role: Role, at = site) =>
  at.call({ method: 'POST', path: `/api/v1/admin/users/${userId}/platform-roles`, token, body: { role } });
const revoke = (token: string, userId: string, role: Role, at = site) =>
  at.call({ method: 'DELETE', path: `/api/v1/admin/users/${userId}/platform-roles/${role}`, token });
const me = async (token: string) => (await site.call({ path: '/api/v1/users/me', token })).body;

describe('platform roles', () => {
  it('show at once in what their holder may do, and so does their end', async () => {
    const operator = await site.operator();
    const person = await createUser();
    expect((await site.call({ path: '/api/v1/admin/users', token: person.token })).status).toBe(403);
    expect((await bind(operator, person.userId, 'platform_ops')).body).toEqual({
      ok: true,
      user_id: person.userId,
      role: 'platform_ops',
    });
    expect((await bind(operator, person.userId, 'platform_ops')).status).toBe(200);
    expect(await me(person.token)).toMatchObject({
      role: 'user',
      platform_roles: ['platform_ops'],
      platform_role_source: 'bindings',
      platform_capabilities: [
        'platform.ops.read',
        'platform.ops.write',
        'platform.ops.runbook.read',
        'platform.node.read',
        'platform.audit.read',
      ],
    });
    expect((await site.call({ path: '/api/v1/admin/users', token: person.token })).status).toBe(200);
    expect(
      (await site.call({ path: `/api/v1/admin/users/${person.userId}/platform-roles`, token: person.token })).status,
    ).toBe(403);
    expect((await bind(person.token, person.userId, 'platform_superadmin')).status).toBe(403);
    expect((await revoke(operator, person.userId, 'platform_ops')).status).toBe(200);
    expect((await revoke(operator, person.userId, 'platform_ops')).status).toBe(200);
    expect((await site.call({ path: '/api/v1/admin/users', token: person.token })).status).toBe(403);
  });

  it('do not bring an old admin back once the last of them is revoked', async () => {
    const operator = await site.operator();
    const admin = await createUser('admin');
    expect(await me(admin.token)).toMatchObject({
      role: 'admin',
      platform_roles: ['platform_superadmin'],
      platform_role_source: 'users_role',
    });
    // a smaller role beside it takes nothing away
    await bind(operator, admin.userId, 'platform_user');
    expect(await me(admin.token)).toMatchObject({ platform_roles: ['platform_superadmin', 'platform_user'] });
    await revoke(operator, admin.userId, 'platform_superadmin');
    await revoke(operator, admin.userId, 'platform_user');
    expect(await me(admin.token)).toMatchObject({
      role: 'user',
      platform_roles: [],
      platform_role_source: 'bindings',
      platform_capabilities: [],
    });
  });

  it('are listed to superadmins, and unknown people are not found', async () => {
    const operator = await site.operator();
    const person = await createUser();
    await bind(operator, person.userId, 'platform_user');
    const path = `/api/v1/admin/users/${person.userId}/platform-roles`;
    expect((await site.call({ path, token: operator })).body).toEqual({
      user_id: person.userId,
      items: ['platform_user'],
    });
    for (const answer of [
      await bind(operator, nobody(), 'platform_ops'),
      await revoke(operator, nobody(), 'platform_ops'),
      await site.call({ path: `/api/v1/admin/users/${nobody()}/platform-roles`, token: operator }),
      await site.call({ path: `/api/v1/admin/users/${nobody()}`, token: operator }),
    ]) {
      expect(answer).toMatchObject({ status: 404, body: { code: 'user_not_found' } });
    }
  });

  it('give no way into a tenant’s project', async () => {
    const person = await site.signup();
    const token = await site.operator();
    expect((await site.call({ path: '/api/v1/ssh-keys', token, project: person.projectId })).status).toBe(403);
  });
});

describe('the last superadmin', () => {
  it('stays (check 13)', async () => {
    const own = await startTestSite({ roles: ['api'] });
    try {
      const token = await own.operator();
      const { id } = (await own.call({ path: '/api/v1/users/me', token })).body;
      expect(await revoke(token, id, 'platform_superadmin', own)).toMatchObject({
        status: 409,
        body: { details: { reason: 'last_superadmin' } },
      });
      // two who take it from each other at once: one of them keeps it
      for (let round = 0; round < 5; round += 1) {
        const second = await createUser('admin', own);
        const answers = await Promise.all([
          revoke(token, second.userId, 'platform_superadmin', own),
          revoke(second.token, id, 'platform_superadmin', own),
        ]);
        const done = answers.filter(({ status }) => status === 200);
        expect(done).toHaveLength(1);
        if (answers[1]?.status === 200) await bind(second.token, id, 'platform_superadmin', own);
        if (answers[1]?.status === 200) await revoke(token, second.userId, 'platform_superadmin', own);
      }
    } finally {
      await own.stop();
    }
  });

  it('is made at the first start, once, and keeps the password', async () => {
    const { identity } = site.controlPlane.domains;
    const outcomes = await Promise.all(
      Array.from({ length: 4 }, () => identity.ensureOperator({ username: 'second-operator', password: PASSWORD })),
    );
    expect(outcomes.sort()).toEqual(['created', 'kept', 'kept', 'kept']);
    expect(await identity.ensureOperator({ username: 'second-operator', password: 'another one entirely' })).toBe(
      'kept',
    );
    const token = await signIn(site, 'second-operator');
    expect(await me(token)).toMatchObject({ org_id: null, platform_roles: ['platform_superadmin'] });
    const reset = { username: 'second-operator', password: 'another one entirely', resetPassword: true };
    expect(await identity.ensureOperator(reset)).toBe('password_reset');
    expect((await site.call({ path: '/api/v1/users/me', token })).status).toBe(401);
    await signIn(site, 'second-operator', 'another one entirely');
  });

  it('is never made of somebody who merely took the name', async () => {
    const person = await site.signup();
    await expect(
      site.controlPlane.domains.identity.ensureOperator({ username: person.username, password: PASSWORD }),
    ).rejects.toThrow(person.username);
    expect((await me(person.token)).platform_roles).toEqual([]);
  });
});

describe('people as operators see them', () => {
  it('are listed newest first, each once, with their money', async () => {
    const people = [await site.signup(), await site.signup(), await site.signup()];
    const token = await site.operator();
    const seen: { id: string; balance: unknown }[] = [];
    let cursor: string | null = '';
    while (cursor !== null) {
      const page = await site.call({ path: `/api/v1/admin/users?page_size=3${cursor && `&cursor=${cursor}`}`, token });
      expect(page.status).toBe(200);
      seen.push(...page.body.items);
      cursor = page.body.pagination.next_cursor;
    }
    const ids = seen.map((user) => user.id);
    expect(new Set(ids).size).toBe(ids.length);
    expect(ids.slice(0, 3)).toEqual(people.map((person) => person.userId).reverse());
    const one = await site.call({ path: `/api/v1/admin/users/${people[0]?.userId}`, token });
    expect(one.body).toEqual(seen.find((user) => user.id === people[0]?.userId));
    expect(one.body.balance).toEqual({ amount_minor: 0, currency: 'USD' });
  });

  it.each([
    ['nothing to prove who they are by', {}, 'credential_required'],
    ['nulls in place of a proof', { password: null, oidc_issuer: null, oidc_subject: null }, 'credential_required'],
    ['half an identity', { oidc_issuer: 'https://idp.example' }, undefined],
    ['a short password', { password: 'short' }, 'password_too_short'],
  ])('are not made with %s', async (_name, body, reason) => {
    const answer = await site.call({
      method: 'POST',
      path: '/api/v1/admin/users',
      token: await site.operator(),
      body: { username: uniqueName('x'), ...body },
    });
    expect(answer.status).toBe(400);
    if (reason !== undefined && answer.body.code === 'invalid_request') expect(answer.body.details.reason).toBe(reason);
  });

  it('may prove who they are elsewhere, each identity once', async () => {
    const identity = { oidc_issuer: 'https://idp.example', oidc_subject: uniqueName('sub') };
    const create = async () =>
      site.call({
        method: 'POST',
        path: '/api/v1/admin/users',
        token: await site.operator(),
        body: { username: uniqueName('federated'), ...identity },
      });
    expect((await create()).status).toBe(201);
    expect(await create()).toMatchObject({ status: 409, body: { code: 'user_already_exists' } });
  });
});
