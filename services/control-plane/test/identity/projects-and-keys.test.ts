import { generateKeyPairSync } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Person, startTestSite, type TestSite } from '../harness/site.js';
import { publicKey } from './keys.js';
import { addMember, nobody } from './team.js';

let site: TestSite;
beforeAll(async () => {
  site = await startTestSite({ roles: ['api'] });
});
afterAll(() => site?.stop());

const createProject = (token: string, body: unknown) =>
  site.call({ method: 'POST', path: '/api/v1/projects', token, body });

describe('projects', () => {
  it('derive a free slug from the name, and refuse a taken one that was asked for', async () => {
    const { token } = await site.signup();
    const slugs: string[] = [];
    for (let index = 0; index < 3; index += 1) {
      slugs.push((await createProject(token, { name: 'Café  Research' })).body.project.slug);
    }
    expect(slugs).toEqual(['cafe-research', 'cafe-research-2', 'cafe-research-3']);
    const taken = await createProject(token, { name: 'Other', slug: 'cafe-research' });
    expect(taken).toMatchObject({ status: 409, body: { details: { reason: 'project_slug_taken' } } });
  });

  it('derive different slugs also when created at the same moment', async () => {
    const { token } = await site.signup();
    const answers = await Promise.all(Array.from({ length: 10 }, () => createProject(token, { name: 'Twin' })));
    expect(answers.map(({ status }) => status)).toEqual(Array.from({ length: 10 }, () => 201));
    expect(new Set(answers.map(({ body }) => body.project.slug)).size).toBe(10);
  });

  it('know departments of their own tenant only', async () => {
    const mine = await site.signup();
    const theirs = await site.signup();
    const [project] = (await site.call({ path: '/api/v1/projects', token: theirs.token })).body.items;
    const foreign = await createProject(mine.token, { name: 'X', department_id: project.department_id });
    expect(foreign).toMatchObject({ status: 404, body: { details: { reason: 'department_not_found' } } });
    expect((await createProject(mine.token, { name: 'X', department_id: nobody() })).status).toBe(404);
    await site.db
      .updateTable('departments')
      .set({ lifecycle_state: 'disabled' })
      .where('tenant_id', '=', mine.tenantId)
      .execute();
    expect(await createProject(mine.token, { name: 'X' })).toMatchObject({
      status: 400,
      body: { details: { reason: 'department_disabled' } },
    });
  });

  it('are created by those who rule the tenant, and seen by members with their role', async () => {
    const owner = await site.signup();
    const viewer = await addMember(site, owner, { project: 'viewer' });
    const admin = await addMember(site, owner, { tenant: 'admin', project: 'viewer' });
    expect((await createProject(viewer.token, { name: 'X' })).status).toBe(403);
    const made = await createProject(admin.token, { name: 'Second' });
    expect(made.body.project).toMatchObject({ role: 'owner', is_default: false });
    const roles = async (token: string) =>
      (await site.call({ path: '/api/v1/projects', token })).body.items.map((item: { slug: string; role: string }) => [
        item.slug,
        item.role,
      ]);
    expect(await roles(viewer.token)).toEqual([['default', 'viewer']]);
    expect(await roles(admin.token)).toEqual([
      ['second', 'owner'],
      ['default', 'admin'],
    ]);
    expect(await roles(owner.token)).toEqual([
      ['second', 'owner'],
      ['default', 'owner'],
    ]);
  });

  it('look inaccessible to everybody else, existing or not', async () => {
    const mine = await site.signup();
    const theirs = await site.signup();
    const answers = await Promise.all(
      [mine.projectId, nobody()].map((id) =>
        site.call({ method: 'PATCH', path: `/api/v1/projects/${id}`, token: theirs.token, body: { name: 'Mine' } }),
      ),
    );
    const [foreign, unknown] = answers.map(({ status, body: { correlation_id: _own, ...rest } }) => ({ status, rest }));
    expect(foreign?.status).toBe(403);
    expect(unknown).toEqual(foreign);
  });

  it('are renamed by their admins, and by nobody below', async () => {
    const owner = await site.signup();
    const member = await addMember(site, owner);
    const path = `/api/v1/projects/${owner.projectId}`;
    expect((await site.call({ method: 'PATCH', path, token: member.token, body: { name: 'No' } })).status).toBe(403);
    const renamed = await site.call({
      method: 'PATCH',
      path,
      token: owner.token,
      body: { name: ' Lab ', slug: 'lab' },
    });
    expect(renamed.body.project).toMatchObject({ name: 'Lab', slug: 'lab' });
  });

  it('become the default of one person', async () => {
    const { token } = await site.signup();
    const { id } = (await createProject(token, { name: 'Next' })).body.project;
    const answer = await site.call({ method: 'POST', path: `/api/v1/projects/${id}/set-default`, token });
    expect(answer.body.project).toMatchObject({ id, is_default: true });
    expect((await site.call({ path: '/api/v1/users/me', token })).body.project_id).toBe(id);
    const items: { is_default: boolean }[] = (await site.call({ path: '/api/v1/projects', token })).body.items;
    expect(items.filter((item) => item.is_default)).toHaveLength(1);
  });

  it('end with their robots and keys, by owners alone, and free their slug', async () => {
    const owner = await site.signup();
    const admin = await addMember(site, owner, { project: 'admin' });
    const tenantAdmin = await addMember(site, owner, { tenant: 'admin' });
    const path = `/api/v1/projects/${owner.projectId}`;
    const robot = await site.call({
      method: 'POST',
      path: `${path}/service-accounts`,
      token: owner.token,
      body: { name: 'CI', slug: 'ci', purpose: 'automation' },
    });
    const credential = {
      service_account_id: robot.body.service_account.id,
      key_id: robot.body.initial_credential.key_id,
      client_secret: robot.body.initial_credential.client_secret,
    };
    const key = await site.call({
      method: 'POST',
      path: '/api/v1/ssh-keys',
      token: owner.token,
      project: owner.projectId,
      body: { name: 'k', public_key: publicKey() },
    });
    for (const { token } of [admin, tenantAdmin]) {
      expect(await site.call({ method: 'DELETE', path, token })).toMatchObject({
        status: 403,
        body: { code: 'ownership_required' },
      });
    }
    const gone = await site.call({ method: 'DELETE', path, token: owner.token });
    expect(gone).toMatchObject({ status: 200, body: { ok: true, project_id: owner.projectId } });
    expect((await site.call({ method: 'DELETE', path, token: owner.token })).status).toBe(403);
    const minted = await site.call({ method: 'POST', path: '/api/v1/auth/service-account/token', body: credential });
    expect(minted.status).toBe(401);
    expect((await site.call({ path: '/api/v1/users/me', token: owner.token })).body.project_id).toBeNull();
    const events = await site.db
      .selectFrom('outbox_events')
      .select(['event_type', 'aggregate_id'])
      .where('event_type', 'like', 'identity.%')
      .where('aggregate_id', 'in', [owner.projectId, credential.service_account_id, key.body.key.id])
      .orderBy('event_type')
      .execute();
    expect(events.map((event) => event.event_type)).toEqual([
      'identity.project.deleted',
      'identity.service_account.disabled',
      'identity.ssh_key.revoked',
    ]);
    expect((await createProject(owner.token, { name: 'Again', slug: 'default' })).status).toBe(201);
  });
});

describe('SSH keys', () => {
  const add = (person: Pick<Person, 'token'>, body: Record<string, unknown> = {}, project?: string) =>
    site.call({
      method: 'POST',
      path: '/api/v1/ssh-keys',
      token: person.token,
      body: { name: 'laptop', public_key: publicKey(), ...body },
      ...(project !== undefined && { project }),
    });
  const list = async (person: Pick<Person, 'token'>, project?: string) =>
    (await site.call({ path: '/api/v1/ssh-keys', token: person.token, ...(project !== undefined && { project }) })).body
      .items;

  it('are the caller’s own without a project and the project’s with one (check 6)', async () => {
    const person = await site.signup();
    const personal = (await add(person)).body.key;
    const shared = (await add(person, {}, person.projectId)).body.key;
    expect(personal).toMatchObject({ owner_scope: 'user', user_id: person.userId, project_id: null });
    expect(shared).toMatchObject({ owner_scope: 'project', user_id: null, project_id: person.projectId });
    expect(await list(person)).toEqual([personal]);
    expect(await list(person, person.projectId)).toEqual([shared]);
    const colleague = await addMember(site, person);
    expect(await list(colleague)).toEqual([]);
    expect(await list(colleague, person.projectId)).toEqual([shared]);
    const stranger = await site.signup();
    const denied = await site.call({ path: '/api/v1/ssh-keys', token: stranger.token, project: person.projectId });
    expect(denied.status).toBe(403);
  });

  const rsa1024 = () => {
    const { e, n } = generateKeyPairSync('rsa', { modulusLength: 1024 }).publicKey.export({ format: 'jwk' });
    const field = (bytes: Buffer) => Buffer.concat([Buffer.of(0, 0, 0, bytes.length), bytes]);
    const positive = (text = '') => Buffer.concat([Buffer.of(0), Buffer.from(text, 'base64url')]);
    const blob = [field(Buffer.from('ssh-rsa')), field(Buffer.from(e ?? '', 'base64url')), field(positive(n))];
    return `ssh-rsa ${Buffer.concat(blob).toString('base64')}`;
  };
  it.each([
    ['a second line', () => `${publicKey()}\n${publicKey()}`, 'ssh_key_not_one_line'],
    ['a command', () => `command="/bin/sh" ${publicKey()}`, 'ssh_key_options_refused'],
    ['a weak RSA key', rsa1024, 'ssh_key_too_weak'],
    ['a private key', () => '-----BEGIN OPENSSH PRIVATE KEY-----xxxxxxxx', 'ssh_key_private'],
    ['something else', () => 'x'.repeat(64), 'ssh_key_type_unsupported'],
  ])('are refused with %s (check 7)', async (_name, text, reason) => {
    const person = await site.signup();
    expect(await add(person, { public_key: text() })).toMatchObject({
      status: 400,
      body: { code: 'invalid_request', details: { reason } },
    });
  });

  it('are held once an owner, and again once revoked', async () => {
    const person = await site.signup();
    const text = publicKey('one');
    const first = await add(person, { public_key: text });
    const comment = text.replace(/ one$/, ' two');
    expect(await add(person, { public_key: comment })).toMatchObject({
      status: 409,
      body: { details: { reason: 'ssh_key_exists' } },
    });
    expect((await add(await site.signup(), { public_key: text })).status).toBe(201);
    const path = `/api/v1/ssh-keys/${first.body.key.id}`;
    expect((await site.call({ method: 'DELETE', path, token: person.token })).status).toBe(200);
    expect((await site.call({ method: 'DELETE', path, token: person.token })).status).toBe(404);
    expect((await add(person, { public_key: text })).status).toBe(201);
    const account = '/api/v1/account/security/ssh-keys';
    const revoked = await site.call({ path: `${account}?status=revoked`, token: person.token });
    expect(revoked.body.items.map((key: { id: string }) => key.id)).toEqual([first.body.key.id]);
    expect((await site.call({ path: account, token: person.token })).body.items).toHaveLength(2);
  });

  it('have one default a person, whoever sets it when', async () => {
    const person = await site.signup();
    const made = await Promise.all(Array.from({ length: 6 }, () => add(person, { set_as_default: true })));
    expect(made.map(({ status }) => status)).toEqual(Array.from({ length: 6 }, () => 201));
    const ids: string[] = made.map(({ body }) => body.key.id);
    await Promise.all(
      ids.map((id) => site.call({ method: 'PUT', path: `/api/v1/ssh-keys/${id}/default`, token: person.token })),
    );
    const marked = (await list(person)).filter((key: { is_default: boolean }) => key.is_default);
    expect(marked).toHaveLength(1);
    // deleting the default promotes no other
    await site.call({ method: 'DELETE', path: `/api/v1/ssh-keys/${marked[0].id}`, token: person.token });
    expect((await list(person)).some((key: { is_default: boolean }) => key.is_default)).toBe(false);
  });

  it('of a project are nobody’s default', async () => {
    const person = await site.signup();
    expect((await add(person, { set_as_default: true }, person.projectId)).status).toBe(400);
    const shared = (await add(person, {}, person.projectId)).body.key;
    const path = `/api/v1/ssh-keys/${shared.id}/default`;
    expect((await site.call({ method: 'PUT', path, token: person.token })).status).toBe(409);
    const stranger = await site.signup();
    expect((await site.call({ method: 'PUT', path, token: stranger.token })).status).toBe(404);
    expect(
      (await site.call({ method: 'PUT', path: `/api/v1/ssh-keys/${nobody()}/default`, token: person.token })).status,
    ).toBe(404);
  });

  it('are paged under every order, each once (check 15)', async () => {
    const person = await site.signup();
    const names = ['b', 'a', 'C', 'a', 'd'];
    for (const name of names) await add(person, { name });
    for (const sort of [
      'created_at_desc',
      'created_at_asc',
      'name_asc',
      'name_desc',
      'last_used_at_asc',
      'status_asc',
    ]) {
      const seen: { id: string; name: string }[] = [];
      let cursor = '';
      do {
        const path = `/api/v1/account/security/ssh-keys?page_size=2&sort=${sort}${cursor && `&cursor=${cursor}`}`;
        const page = await site.call({ path, token: person.token });
        expect(page.status).toBe(200);
        seen.push(...page.body.items);
        cursor = page.body.pagination.next_cursor ?? '';
      } while (cursor !== '');
      expect(new Set(seen.map((key) => key.id)).size).toBe(names.length);
      if (sort === 'name_asc') expect(seen.map((key) => key.name)).toEqual(['C', 'a', 'a', 'b', 'd']);
    }
    const first = await site.call({
      path: '/api/v1/account/security/ssh-keys?page_size=2&sort=name_asc',
      token: person.token,
    });
    const { next_cursor: cursor } = first.body.pagination;
    for (const query of ['sort=name_desc', 'sort=name_asc&status=active']) {
      const path = `/api/v1/account/security/ssh-keys?page_size=2&${query}&cursor=${cursor}`;
      expect(await site.call({ path, token: person.token })).toMatchObject({
        status: 400,
        body: { details: { reason: 'cursor_invalid' } },
      });
    }
    const path = `/api/v1/account/security/ssh-keys?page_size=2&sort=name_asc&cursor=${cursor}`;
    expect((await site.call({ path, token: (await site.signup()).token })).status).toBe(400);
  });

  it('are found by a part of their name, whatever characters it has', async () => {
    const person = await site.signup();
    await add(person, { name: '100%_sure' });
    await add(person, { name: 'laptop' });
    const search = async (text: string) =>
      (
        await site.call({
          path: `/api/v1/account/security/ssh-keys?search=${encodeURIComponent(text)}`,
          token: person.token,
        })
      ).body.items.map((key: { name: string }) => key.name);
    expect(await search('0%_S')).toEqual(['100%_sure']);
    expect(await search('%')).toEqual(['100%_sure']);
    expect(await search('LAP')).toEqual(['laptop']);
  });
});
