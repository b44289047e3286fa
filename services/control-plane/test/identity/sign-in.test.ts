import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ManualClock, PASSWORD, type Person, startTestSite, type TestSite } from '../harness/site.js';
import { uniqueName } from './team.js';

let site: TestSite;
const clock = new ManualClock(new Date('2031-05-05T12:00:00Z'));

beforeAll(async () => {
  site = await startTestSite({ clock, roles: ['api'] });
});
afterAll(() => site?.stop());

const refresh = (token: string, at = site) =>
  at.call({ method: 'POST', path: '/api/v1/auth/token/refresh', body: { refresh_token: token } });
const me = (token: string) => site.call({ path: '/api/v1/users/me', token });
const login = (username: string, password: string) =>
  site.call({ method: 'POST', path: '/api/v1/auth/personal/login', body: { username, password } });

describe('signing up', () => {
  it('makes one account of twenty equal requests at once (check 1)', async () => {
    const username = uniqueName('crowd');
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, index) =>
        site.call({
          method: 'POST',
          path: '/api/v1/auth/personal/signup',
          body: { username: index % 2 === 0 ? username : username.toUpperCase(), password: PASSWORD },
        }),
      ),
    );
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(1);
    const refused = answers.filter(({ status }) => status !== 201);
    expect(refused.map(({ status, body }) => [status, body.code])).toEqual(
      Array.from({ length: 19 }, () => [409, 'user_already_exists']),
    );
  });

  it('gives a tenant, a project, a wallet and a session (checks 1 and 2)', async () => {
    const username = uniqueName('ann');
    const answer = await site.call({
      method: 'POST',
      path: '/api/v1/auth/personal/signup',
      body: { username: `  ${username} `, password: PASSWORD },
    });
    expect(answer.status).toBe(201);
    expect(answer.body).toMatchObject({
      account_type: 'personal',
      expires_in_seconds: 900,
      user: { username, role: 'user', org_id: answer.body.org_id, balance: { amount_minor: 0, currency: 'USD' } },
    });
    const projects = await site.call({ path: '/api/v1/projects', token: answer.body.access_token });
    expect(projects.body.items).toEqual([
      expect.objectContaining({
        id: answer.body.user.project_id,
        org_id: answer.body.org_id,
        slug: 'default',
        role: 'owner',
        is_default: true,
        department_name: 'General',
        department_slug: 'general',
      }),
    ]);
    const profile = await me(answer.body.access_token);
    expect(profile.body).toMatchObject({ platform_roles: [], platform_capabilities: [], project_name: 'Default' });
  });

  it.each([
    ['an empty name', { username: '   ', password: PASSWORD }, 'username_empty'],
    ['a name with a space', { username: 'ann lee', password: PASSWORD }, 'username_characters'],
    ['a name that hides a character', { username: 'ann\u200b', password: PASSWORD }, 'username_characters'],
    ['the name as password', { username: 'longenough', password: 'LongEnough' }, 'password_equals_username'],
    ['a password without end', { username: 'long', password: 'x'.repeat(1025) }, 'password_too_long'],
  ])('refuses %s', async (_name, body, reason) => {
    const answer = await site.call({ method: 'POST', path: '/api/v1/auth/personal/signup', body });
    expect(answer).toMatchObject({ status: 400, body: { code: 'invalid_request', details: { reason } } });
  });
});

describe('signing in', () => {
  it('answers a wrong password and an unknown name alike', async () => {
    const person = await site.signup();
    const wrong = await login(person.username, 'not the password');
    const unknown = await login(uniqueName('nobody'), 'not the password');
    expect(wrong.status).toBe(401);
    const comparable = ({ body: { correlation_id: _own, ...rest } }: typeof wrong) => rest;
    expect(comparable(unknown)).toEqual(comparable(wrong));
  });

  it('finds a person under any spelling of their name', async () => {
    const person = await site.signup();
    expect((await login(` ${person.username.toUpperCase()} `, PASSWORD)).status).toBe(200);
  });

  it('puts a failure on record once a minute, and never as a success (check 16)', async () => {
    const person = await site.signup();
    for (let index = 0; index < 3; index += 1) await login(person.username, 'wrong');
    const rows = await site.db
      .selectFrom('audit_logs')
      .select(['result', 'actor_kind'])
      .where('action', '=', 'auth.login')
      .where('target_user_id', '=', person.userId)
      .execute();
    expect(rows).toEqual([{ result: 'failure', actor_kind: 'anonymous' }]);
  });
});

describe('an access token', () => {
  it('names a session and no right', async () => {
    const person = await site.signup();
    const claims = JSON.parse(Buffer.from(person.token.split('.')[1] ?? '', 'base64url').toString());
    expect(Object.keys(claims).sort()).toEqual(
      ['actor_type', 'amr', 'aud', 'auth_time', 'exp', 'iat', 'iss', 'jti', 'org_id', 'sid', 'sub'].sort(),
    );
    expect(claims).toMatchObject({ actor_type: 'user', sub: person.userId, org_id: person.tenantId, amr: ['pwd'] });
    expect(claims.exp - claims.iat).toBe(900);
  });

  it('is refused when any part of it was changed', async () => {
    const person = await site.signup();
    const [header = '', payload = '', signature = ''] = person.token.split('.');
    const claims = JSON.parse(Buffer.from(payload, 'base64url').toString());
    const stranger = await site.signup();
    const forged = Buffer.from(JSON.stringify({ ...claims, sub: stranger.userId })).toString('base64url');
    const unsigned = Buffer.from(JSON.stringify({ alg: 'none', typ: 'at+jwt' })).toString('base64url');
    for (const token of [
      `${header}.${forged}.${signature}`,
      `${unsigned}.${payload}.`,
      `${header}.${payload}.${'A'.repeat(86)}`,
      `${header}.${payload}`,
      'not.a.token',
      stranger.token.split('.').slice(0, 2).concat(signature).join('.'),
    ]) {
      expect(await me(token)).toMatchObject({ status: 401, body: { code: 'token_invalid' } });
    }
    expect((await me(person.token)).status).toBe(200);
  });

  it('expires after its 900 seconds, to the second', async () => {
    const person = await site.signup();
    clock.advance(899_000);
    expect((await me(person.token)).status).toBe(200);
    clock.advance(1_000);
    expect(await me(person.token)).toMatchObject({ status: 401, body: { code: 'token_expired' } });
  });
});

describe('refreshing', () => {
  it('rotates the token, and kills the family when a used one comes back after the grace (check 3)', async () => {
    const person = await site.signup();
    const second = await refresh(person.refreshToken);
    expect(second.status).toBe(200);
    expect(second.body.refresh_token).not.toBe(person.refreshToken);
    clock.advance(10_000);
    expect(await refresh(person.refreshToken)).toMatchObject({ status: 401, body: { code: 'token_invalid' } });
    expect((await refresh(second.body.refresh_token)).status).toBe(401);
    expect((await me(second.body.access_token)).status).toBe(401);
    const record = await site.db
      .selectFrom('audit_logs')
      .select('result')
      .where('action', '=', 'auth.refresh.reuse_detected')
      .where('actor_id', '=', person.userId)
      .execute();
    expect(record).toEqual([{ result: 'failure' }]);
  });

  it('gives racing tabs one and the same successor', async () => {
    const person = await site.signup();
    const answers = await Promise.all(Array.from({ length: 8 }, () => refresh(person.refreshToken)));
    expect(answers.map(({ status }) => status)).toEqual(Array.from({ length: 8 }, () => 200));
    expect(new Set(answers.map(({ body }) => body.refresh_token)).size).toBe(1);
    const next = await refresh(answers[0]?.body.refresh_token);
    expect(next.status).toBe(200);
  });

  it('keeps no token in the clear', async () => {
    const person = await site.signup();
    const next = await refresh(person.refreshToken);
    const rows = await site.db.selectFrom('refresh_tokens').select(['token_hash', 'successor_sealed']).execute();
    const stored = JSON.stringify(rows.map((row) => [row.token_hash.toString('latin1'), row.successor_sealed]));
    expect(stored).not.toContain(person.refreshToken);
    expect(stored).not.toContain(next.body.refresh_token);
  });

  it('ends with the session: idle for a day, or two weeks old', async () => {
    const idle = await site.signup();
    clock.advance(24 * 3600 * 1000);
    expect((await refresh(idle.refreshToken)).status).toBe(401);

    let busy: { refresh_token: string } = { refresh_token: (await site.signup()).refreshToken };
    for (let half = 0; half < 27; half += 1) {
      clock.advance(12 * 3600 * 1000);
      const answer = await refresh(busy.refresh_token);
      expect(answer.status).toBe(200);
      busy = answer.body;
    }
    clock.advance(12 * 3600 * 1000);
    expect((await refresh(busy.refresh_token)).status).toBe(401);
  });
});

describe('signing out', () => {
  const logout = (person: Pick<Person, 'token'>, body?: unknown) =>
    site.call({
      method: 'POST',
      path: '/api/v1/auth/logout',
      token: person.token,
      ...(body !== undefined && { body }),
    });

  it('ends the access and the refresh token at once (check 4)', async () => {
    const person = await site.signup();
    expect(await logout(person)).toMatchObject({ status: 200, body: { ok: true } });
    expect(await me(person.token)).toMatchObject({ status: 401, body: { code: 'token_invalid' } });
    expect((await refresh(person.refreshToken)).status).toBe(401);
  });

  it('ends no session of another person whose refresh token was sent along', async () => {
    const person = await site.signup();
    const other = await site.signup();
    expect((await logout(person, { refresh_token: other.refreshToken })).status).toBe(200);
    expect((await me(other.token)).status).toBe(200);
    const twice = (await login(other.username, PASSWORD)).body;
    expect((await logout({ token: twice.access_token }, { refresh_token: other.refreshToken })).status).toBe(200);
    expect((await me(other.token)).status).toBe(401);
  });
});

describe('guessing', () => {
  it('is stopped by name and by address, over all processes, until the window ends', async () => {
    const attemptLimits = {
      perUsername: 3,
      perAddress: 8,
      windowSeconds: 900,
      signupsPerAddress: 3,
      signupWindowSeconds: 3600,
    };
    const guarded = await startTestSite({ clock, roles: ['api'], domains: { attemptLimits } });
    try {
      const other = await guarded.startAnother();
      const tryAt = (url: string, username: string, password: string) =>
        fetch(`${url}/api/v1/auth/personal/login`, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify({ username, password }),
        });
      const person = await guarded.signup();
      // whoever knows the password is never counted
      for (let index = 0; index < 5; index += 1) {
        expect((await tryAt(guarded.url, person.username, PASSWORD)).status).toBe(200);
      }
      const statuses: number[] = [];
      for (const url of [guarded.url, other.apiUrl, guarded.url, other.apiUrl]) {
        statuses.push((await tryAt(url, person.username, 'wrong')).status);
      }
      expect(statuses).toEqual([401, 401, 401, 429]);
      const blocked = await tryAt(guarded.url, person.username, PASSWORD);
      expect(blocked.status).toBe(429);
      expect(Number(blocked.headers.get('retry-after'))).toBeGreaterThan(0);

      const names = Array.from({ length: 8 }, (_, index) => `nobody-${index}`);
      const sprayed = [];
      for (const name of names) sprayed.push((await tryAt(guarded.url, name, 'wrong')).status);
      expect(sprayed).toContain(429);

      clock.advance(900_000);
      expect((await tryAt(guarded.url, person.username, PASSWORD)).status).toBe(200);

      await guarded.signup();
      await guarded.signup();
      await expect(guarded.signup()).rejects.toThrow('rate_limit_exceeded');
    } finally {
      await guarded.stop();
    }
  });
});
