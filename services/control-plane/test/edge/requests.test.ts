import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Person, startTestSite, type TestSite } from '../harness/site.js';

let site: TestSite;
let ann: Person;
beforeAll(async () => {
  site = await startTestSite();
  ann = await site.signup('ann');
});
afterAll(() => site?.stop());

describe('a request', () => {
  it('is answered under the request id and the trace that the caller brought', async () => {
    const traceId = 'a'.repeat(32);
    const answer = await site.call({
      path: '/api/v1/users/me',
      token: ann.token,
      headers: { 'x-request-id': 'my-request', traceparent: `00-${traceId}-${'b'.repeat(16)}-01` },
    });
    expect(answer.status).toBe(200);
    expect(answer.headers.get('x-request-id')).toBe('my-request');
    expect(answer.headers.get('traceparent')).toMatch(new RegExp(`^00-${traceId}-(?!b{16})[0-9a-f]{16}-01$`));
  });

  it('gets a request id of its own where the one it brought cannot stand in a log', async () => {
    const answer = await site.call({
      path: '/api/v1/users/me',
      token: ann.token,
      headers: { 'x-request-id': 'two words' },
    });
    expect(answer.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/);
  });

  it('without a token is 401 token_missing, with a foreign one token_invalid', async () => {
    expect((await site.call({ path: '/api/v1/users/me' })).body).toMatchObject({ code: 'token_missing' });
    expect((await site.call({ path: '/api/v1/users/me', token: 'x.y.z' })).body).toMatchObject({
      code: 'token_invalid',
    });
  });

  it('with an operation that has no handler is 501, after the policy has let it through', async () => {
    const answer = await site.call({ path: '/api/v1/regions', token: ann.token, project: ann.projectId });
    expect(answer.status).toBe(501);
    expect(answer.body).toMatchObject({ code: 'service_unavailable', details: { reason: 'not_implemented' } });
    expect((await site.call({ path: '/api/v1/platform/ops', token: ann.token })).status).toBe(403);
  });

  it('outside the contract is 404 in the form of the contract', async () => {
    const answer = await site.call({ path: '/api/v1/no-such-thing', token: ann.token });
    expect(answer.status).toBe(404);
    expect(answer.body).toMatchObject({ code: 'invalid_request', details: { reason: 'route_not_found' } });
  });
});

describe('validation', () => {
  it('names every field that is wrong, by JSON pointer', async () => {
    const answer = await site.call({
      method: 'POST',
      path: '/api/v1/projects',
      token: ann.token,
      body: { name: 7, surprise: true },
    });
    expect(answer.status).toBe(400);
    expect(answer.body.code).toBe('validation_error');
    const pointers = answer.body.details.issues.map((issue: { pointer: string }) => issue.pointer);
    expect(pointers).toContain('/body/name');
    expect(pointers.some((pointer: string) => pointer.includes('surprise') || pointer === '/body')).toBe(true);
  });

  it.each([
    ['{"name": ', 'is not JSON'],
    ['{"name":"a","__proto__":{"x":1}}', ''],
    ['', 'is missing'],
  ])('refuses a body that is %j', async (body, message) => {
    const answer = await site.call({ method: 'POST', path: '/api/v1/projects', token: ann.token, body });
    expect(answer.status).toBe(400);
    expect(answer.body).toMatchObject({ code: 'validation_error' });
    expect(JSON.stringify(answer.body)).toContain(message);
  });

  it('answers 415 to a body of another kind and 413 to one that is too large', async () => {
    const other = await site.call({
      method: 'POST',
      path: '/api/v1/projects',
      token: ann.token,
      body: 'name=a',
      headers: { 'content-type': 'text/plain' },
    });
    expect(other.status).toBe(415);
    const large = await site.call({
      method: 'POST',
      path: '/api/v1/projects',
      token: ann.token,
      body: JSON.stringify({ name: 'a'.repeat(5 * 1024 * 1024) }),
    });
    expect(large.status).toBe(413);
    expect(large.body.details.reason).toBe('body_too_large');
  });

  it('answers 413 to logs of a host that are larger than 4 MiB, whoever sends them (check 20)', async () => {
    const oversize = await site.call({
      method: 'POST',
      path: '/internal/v1/node-logs/loki/api/v1/push',
      body: JSON.stringify({ streams: [{ stream: {}, values: [['1', 'x'.repeat(4 * 1024 * 1024)]] }] }),
    });
    expect(oversize.status).toBe(413);
    expect(oversize.body.details.maximum_bytes).toBe(4 * 1024 * 1024);
  });

  it('refuses a cursor that it did not make, and a page size out of bounds', async () => {
    const forged = await site.call({ path: '/api/v1/audit-logs?cursor=AAAA', token: ann.token });
    expect(forged.status).toBe(400);
    const huge = await site.call({ path: '/api/v1/audit-logs?page_size=201', token: ann.token });
    expect(huge.body).toMatchObject({ code: 'validation_error' });
    expect(huge.body.details.issues[0].pointer).toBe('/query/page_size');
  });
});

describe('an idempotency key', () => {
  const create = (key: string, name: string, path = '/api/v1/projects') =>
    site.call({ method: 'POST', path, token: ann.token, key, body: { name } });

  it('gives one effect and one answer, also to requests that come at the same moment', async () => {
    const answers = await Promise.all(Array.from({ length: 10 }, () => create('together', 'Together')));
    expect(new Set(answers.map((answer) => answer.status))).toEqual(new Set([201]));
    expect(new Set(answers.map((answer) => answer.body.project.id)).size).toBe(1);
    expect(answers.filter((answer) => answer.headers.get('idempotency-replayed') === 'true')).toHaveLength(9);
    const rows = await site.db.selectFrom('projects').select('id').where('name', '=', 'Together').execute();
    expect(rows).toHaveLength(1);
  });

  it('with another body is 409 idempotency_key_reused', async () => {
    await create('reused', 'First');
    const answer = await create('reused', 'Second');
    expect(answer.status).toBe(409);
    expect(answer.body.details.reason).toBe('idempotency_key_reused');
  });

  it('is not spent by a refusal', async () => {
    const refused = await site.call({
      method: 'POST',
      path: '/api/v1/projects',
      token: ann.token,
      key: 'again',
      body: { name: 'Again', slug: 'default' },
    });
    expect(refused.status).toBe(409);
    expect((await create('again', 'Again')).status).toBe(201);
  });

  it('of one person means nothing to another', async () => {
    const bob = await site.signup();
    const mine = await create('shared-key', 'Mine');
    const theirs = await site.call({
      method: 'POST',
      path: '/api/v1/projects',
      token: bob.token,
      key: 'shared-key',
      body: { name: 'Theirs' },
    });
    expect(theirs.status).toBe(201);
    expect(theirs.body.project.id).not.toBe(mine.body.project.id);
  });
});

describe('operations that are one command under several names', () => {
  it('share their idempotency keys, and nobody else shares them', async () => {
    const body = { name: 'ci', slug: 'ci', description: 'robot', purpose: 'automation' };
    const inPath = await site.call({
      method: 'POST',
      path: `/api/v1/projects/${ann.projectId}/service-accounts`,
      token: ann.token,
      key: 'robot',
      body,
    });
    const inHeader = await site.call({
      method: 'POST',
      path: '/api/v1/v3/access/service-accounts',
      token: ann.token,
      project: ann.projectId,
      key: 'robot',
      body,
    });
    expect([inPath.status, inHeader.status]).toEqual([201, 201]);
    expect(inHeader.headers.get('idempotency-replayed')).toBe('true');
    expect(inHeader.body).toEqual(inPath.body);
  });
});

describe('a refusal by the policy', () => {
  it('is on record once a minute for its actor, as a failure', async () => {
    const mallory = await site.signup();
    for (let attempt = 0; attempt < 4; attempt += 1) {
      expect((await site.call({ path: '/api/v1/admin/users', token: mallory.token })).status).toBe(403);
    }
    const rows = await site.db
      .selectFrom('audit_logs')
      .select(['action', 'result', 'target_id'])
      .where('actor_id', '=', mallory.userId)
      .where('action', '=', 'authz.deny')
      .execute();
    expect(rows.length).toBeGreaterThanOrEqual(1);
    // A minute may end between two attempts.
    expect(rows.length).toBeLessThanOrEqual(2);
    expect(rows[0]).toEqual({ action: 'authz.deny', result: 'failure', target_id: 'adminListUsers' });
  });
});

describe('the served contract', () => {
  it('is a complete document, with a reference to browse', async () => {
    const document = await site.call({ path: '/openapi.json' });
    expect(document.body.openapi).toMatch(/^3\.1/);
    expect(Object.keys(document.body.paths).length).toBeGreaterThan(600);
    const page = await site.call({ path: '/docs' });
    expect(page.status).toBe(200);
    expect((await site.call({ path: '/docs/assets/swagger-ui-bundle.js' })).status).toBe(200);
  });
});

describe('rate limits', () => {
  it('answer 429 with what is left and when to come back', async () => {
    const limited = await startTestSite({ rateLimits: 'platform', roles: ['api'], planes: 1 });
    try {
      const eve = await limited.signup();
      // The allowance refills while we spend it, so more is asked for at once than a minute gives.
      const answers = await Promise.all(
        Array.from({ length: 200 }, () =>
          limited.call({ method: 'POST', path: '/api/v1/projects', token: eve.token, body: {} }),
        ),
      );
      const last = answers.find((answer) => answer.status === 429);
      expect(last?.status).toBe(429);
      expect(last?.headers.get('x-ratelimit-limit')).toBe('120');
      expect(last?.headers.get('x-ratelimit-remaining')).toBe('0');
      expect(Number(last?.headers.get('retry-after'))).toBeGreaterThan(0);
      expect((await limited.call({ path: '/api/v1/users/me', token: eve.token })).status).toBe(200);
    } finally {
      await limited.stop();
    }
  });
});
