import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Person, startTestSite, type TestSite } from '../harness/site.js';
import { publicKey } from './keys.js';
import { addMember, nobody } from './team.js';

let site: TestSite;
let owner: Person;
beforeAll(async () => {
  site = await startTestSite({ roles: ['api'] });
  owner = await site.signup();
});
afterAll(() => site?.stop());

interface Credential {
  readonly service_account_id: string;
  readonly key_id: string;
  readonly client_secret: string;
}

const base = (person: Pick<Person, 'projectId'> = owner) => `/api/v1/projects/${person.projectId}/service-accounts`;
let counter = 0;

async function create(body: Record<string, unknown> = {}, token = owner.token): Promise<Credential> {
  counter += 1;
  const answer = await site.call({
    method: 'POST',
    path: base(),
    token,
    body: { name: `Robot ${counter}`, slug: `robot-${counter}`, purpose: 'automation', ...body },
  });
  expect(answer.status).toBe(201);
  const { service_account: account, initial_credential: key } = answer.body;
  return { service_account_id: account.id, key_id: key.key_id, client_secret: key.client_secret };
}
const mint = (credential: Credential, extra: Record<string, unknown> = {}) =>
  site.call({ method: 'POST', path: '/api/v1/auth/service-account/token', body: { ...credential, ...extra } });
const act = (credential: Credential, verb: string) =>
  site.call({ method: 'POST', path: `${base()}/${credential.service_account_id}/${verb}`, token: owner.token });

describe('service accounts', () => {
  it('show their secret once, and lose it with every token by rotation (check 8)', async () => {
    const credential = await create();
    const minted = await mint(credential);
    expect(minted).toMatchObject({ status: 200, body: { token_type: 'Bearer', expires_in_seconds: 900 } });
    const keys = () =>
      site.call({ path: '/api/v1/ssh-keys', token: minted.body.access_token, project: owner.projectId });
    expect((await keys()).status).toBe(200);

    const shown = [
      await site.call({ path: base(), token: owner.token }),
      await site.call({ path: `${base()}/${credential.service_account_id}`, token: owner.token }),
    ];
    for (const answer of shown) expect(JSON.stringify(answer.body)).not.toContain(credential.client_secret);

    const rotated = await act(credential, 'rotate-key');
    expect(rotated.status).toBe(200);
    expect(await keys()).toMatchObject({ status: 401, body: { code: 'token_invalid' } });
    expect((await mint(credential)).status).toBe(401);
    const next: Credential = {
      service_account_id: credential.service_account_id,
      key_id: rotated.body.credential.key_id,
      client_secret: rotated.body.credential.client_secret,
    };
    expect((await mint(next)).status).toBe(200);
    const { rows } = await storedText();
    expect(rows).not.toContain(credential.client_secret);
    expect(rows).not.toContain(next.client_secret);
  });

  it('replay their secret for a quarter of an hour under one key, sealed meanwhile', async () => {
    const request = {
      method: 'POST',
      path: base(),
      token: owner.token,
      key: 'create-once',
      body: { name: 'Once', slug: 'once' },
    };
    const first = await site.call(request);
    const again = await site.call(request);
    expect(again.body).toEqual(first.body);
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect((await storedText()).rows).not.toContain(first.body.initial_credential.client_secret);
  });

  it('work in their own project and in no other (checks 6 and 9)', async () => {
    const { access_token: token } = (await mint(await create())).body;
    const other = await site.signup();
    const elsewhere = await site.call({ path: '/api/v1/ssh-keys', token, project: other.projectId });
    expect([elsewhere.status, elsewhere.body.code]).toEqual([401, 'token_scope_invalid']);
    expect((await site.call({ path: '/api/v1/ssh-keys', token })).status).toBe(403);
    const key = await site.call({
      method: 'POST',
      path: '/api/v1/ssh-keys',
      token,
      project: owner.projectId,
      body: { name: 'robot key', public_key: publicKey() },
    });
    expect(key.body.key).toMatchObject({ owner_scope: 'project', project_id: owner.projectId });
    expect(key.body.key.created_by_service_account_id).not.toBeNull();
  });

  it.each([
    '/api/v1/users/me',
    '/api/v1/projects',
    '/api/v1/audit-logs',
    '/api/v1/tenant/users',
    '/api/v1/admin/users',
  ])('are no person at %s', async (path) => {
    const { access_token: token } = (await mint(await create())).body;
    expect((await site.call({ path, token })).status).toBe(403);
  });

  it('are told one and the same for an unknown account, key or secret', async () => {
    const credential = await create();
    const stranger = await create();
    const wrong = [
      { ...credential, service_account_id: nobody() },
      { ...credential, service_account_id: stranger.service_account_id },
      { ...credential, key_id: stranger.key_id },
      { ...credential, client_secret: stranger.client_secret },
    ];
    const answers = await Promise.all(wrong.map((each) => mint(each)));
    const bodies = answers.map(({ status, body: { correlation_id: _own, ...rest } }) => ({ status, rest }));
    expect(bodies.every((body) => body.status === 401)).toBe(true);
    for (const body of bodies) expect(body).toEqual(bodies[0]);
  });

  it('learn that they are disabled only after they have shown the secret', async () => {
    const credential = await create();
    const { access_token: token } = (await mint(credential)).body;
    expect((await act(credential, 'disable')).body).toMatchObject({ state: 'disabled' });
    expect((await act(credential, 'disable')).body).toMatchObject({ state: 'disabled' });
    expect((await mint(credential)).status).toBe(403);
    expect((await mint({ ...credential, client_secret: 'x'.repeat(48) })).status).toBe(401);
    expect((await site.call({ path: '/api/v1/ssh-keys', token, project: owner.projectId })).status).toBe(401);
    expect(await act(credential, 'rotate-key')).toMatchObject({
      status: 409,
      body: { details: { reason: 'service_account_not_active' } },
    });
  });

  it('are deleted for good, repeatably, and free their slug', async () => {
    const credential = await create({ slug: 'phoenix' });
    const path = `${base()}/${credential.service_account_id}`;
    const first = await site.call({ method: 'DELETE', path, token: owner.token });
    expect(first.body).toMatchObject({ state: 'deleted' });
    expect((await site.call({ method: 'DELETE', path, token: owner.token })).body).toEqual(first.body);
    expect((await mint(credential)).status).toBe(401);
    const listed = (await site.call({ path: base(), token: owner.token })).body.items;
    expect(listed.map((item: { id: string }) => item.id)).not.toContain(credential.service_account_id);
    await create({ slug: 'phoenix' });
    const clash = await site.call({
      method: 'POST',
      path: base(),
      token: owner.token,
      body: { name: 'Clash', slug: 'phoenix' },
    });
    expect(clash).toMatchObject({ status: 409, body: { details: { reason: 'service_account_slug_taken' } } });
  });

  it('get no scope beyond their purpose, and no foreign audience', async () => {
    const credential = await create({ purpose: 'operator' });
    expect(await mint(credential, { scope: ['compute.read', 'billing.read'] })).toMatchObject({
      status: 401,
      body: { code: 'token_scope_invalid' },
    });
    expect((await mint(credential, { audience: 'https://elsewhere.example' })).status).toBe(400);
    const narrow = (await mint(credential, { scope: ['compute.read'] })).body.access_token;
    const add = await site.call({
      method: 'POST',
      path: '/api/v1/ssh-keys',
      token: narrow,
      project: owner.projectId,
      body: { name: 'k', public_key: publicKey() },
    });
    expect(add.status).toBe(403);
    expect((await site.call({ path: '/api/v1/ssh-keys', token: narrow, project: owner.projectId })).status).toBe(200);
  });

  it('of the purpose controller are made by the platform alone', async () => {
    const answer = await site.call({
      method: 'POST',
      path: base(),
      token: owner.token,
      body: { name: 'C', slug: 'controller', purpose: 'controller' },
    });
    expect(answer).toMatchObject({ status: 403, body: { code: 'insufficient_permissions' } });
  });

  it('are the business of project admins; members see none', async () => {
    const member = await addMember(site, owner);
    const admin = await addMember(site, owner, { project: 'admin' });
    expect((await site.call({ path: base(), token: member.token })).status).toBe(403);
    expect((await site.call({ path: base(), token: admin.token })).status).toBe(200);
    await create({}, admin.token);
    const foreign = `${base(await site.signup())}`;
    expect((await site.call({ path: foreign, token: owner.token })).status).toBe(403);
    const unknown = await site.call({ path: `${base()}/${nobody()}`, token: owner.token });
    expect(unknown).toMatchObject({ status: 404, body: { details: { reason: 'service_account_not_found' } } });
  });

  it('rotate to exactly one live key, however many ask at once', async () => {
    const credential = await create();
    const answers = await Promise.all(Array.from({ length: 5 }, () => act(credential, 'rotate-key')));
    expect(answers.every(({ status }) => status === 200)).toBe(true);
    const statuses = await Promise.all(
      answers.map(({ body }) =>
        mint({
          service_account_id: credential.service_account_id,
          key_id: body.credential.key_id,
          client_secret: body.credential.client_secret,
        }),
      ),
    );
    expect(statuses.filter(({ status }) => status === 200)).toHaveLength(1);
  });
});

/** Everything that is stored as text about requests, events and the record. */
async function storedText(): Promise<{ rows: string }> {
  const tables = [
    await site.db.selectFrom('audit_logs').selectAll().execute(),
    await site.db.selectFrom('outbox_events').select('payload').execute(),
    await site.db.selectFrom('idempotency_keys').selectAll().execute(),
    await site.db.selectFrom('service_account_keys').selectAll().execute(),
  ];
  return { rows: JSON.stringify(tables, (_key, value) => (typeof value === 'bigint' ? String(value) : value)) };
}
