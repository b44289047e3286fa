import { createHash, randomBytes } from 'node:crypto';
import { createLogger, ManualClock } from '@gpuaas/kernel';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ProviderSettings } from '../../src/domains/identity/index.js';
import type { Tx } from '../../src/spine/operation.js';
import { jobContext } from '../../src/spine/periodic-jobs.js';
import { inTransaction } from '../../src/spine/transaction.js';
import { PASSWORD, type Person, startTestSite, type TestSite } from '../harness/site.js';
import {
  type Forgery,
  type ForgingProvider,
  REDIRECT_URI,
  type RealProvider,
  startForgingProvider,
  startRealProvider,
} from './identity-provider.js';
import { makeEnterprise, uniqueName } from './team.js';

let site: TestSite;
let acmeProvider: RealProvider;
let otherProvider: RealProvider;
let forger: ForgingProvider;
let acme: Person & { slug: string };
let other: Person & { slug: string };
const clock = new ManualClock(new Date());
const log = createLogger({ program: 'test', level: 'silent' });

beforeAll(async () => {
  [site, acmeProvider, otherProvider, forger] = await Promise.all([
    startTestSite({ clock, roles: ['api'], domains: { signInRedirectUris: [REDIRECT_URI] } }),
    startRealProvider(),
    startRealProvider(),
    startForgingProvider(),
  ]);
  acme = await organisation();
  other = await organisation();
  await bind(acme.tenantId, await configure(acme.tenantId, acmeProvider), 'acme.example');
  await bind(other.tenantId, await configure(other.tenantId, otherProvider), 'other.example');
  await configure(null, otherProvider, { name: 'google' });
  await change((tx, ctx) =>
    federation().configureProvider(tx, ctx, {
      tenantId: null,
      name: 'github',
      issuer: forger.issuer,
      clientId: 'forged',
      clientSecret: null,
      enabled: true,
    }),
  );
});
afterAll(async () => {
  await site?.stop();
  await Promise.all([acmeProvider?.stop(), otherProvider?.stop(), forger?.stop()]);
});

const federation = () => site.controlPlane.domains.identity.federation;
const change = <Result>(work: (tx: Tx, ctx: ReturnType<typeof jobContext>) => Promise<Result>) =>
  inTransaction(site.db, (tx) => work(tx, jobContext('test', { clock, log })));

async function organisation(): Promise<Person & { slug: string }> {
  const owner = await site.signup();
  await makeEnterprise(site, owner.tenantId);
  const { slug } = await site.db
    .selectFrom('tenants')
    .select('slug')
    .where('id', '=', owner.tenantId)
    .executeTakeFirstOrThrow();
  return { ...owner, slug };
}

const configure = (tenantId: string | null, provider: RealProvider, settings: Partial<ProviderSettings> = {}) =>
  change((tx, ctx) =>
    federation().configureProvider(tx, ctx, {
      tenantId,
      name: 'sso',
      issuer: provider.issuer,
      clientId: provider.clientId,
      clientSecret: provider.clientSecret,
      enabled: true,
      ...settings,
    }),
  );

async function bind(tenantId: string, providerId: string, domain: string): Promise<void> {
  const { bindingId, challenge } = await change((tx, ctx) =>
    federation().bindDomain(tx, ctx, { tenantId, providerId, domain }),
  );
  expect(await change((tx, ctx) => federation().verifyDomain(tx, ctx, { bindingId, txtRecords: [challenge] }))).toBe(
    'verified',
  );
}

interface Begun {
  readonly authorizationUrl: string;
  readonly state: string;
  readonly codeVerifier: string;
}

function authorize(hints: Record<string, string>, codeVerifier = randomBytes(32).toString('base64url')) {
  const query = new URLSearchParams({
    redirect_uri: REDIRECT_URI,
    code_challenge: createHash('sha256').update(codeVerifier).digest('base64url'),
    code_challenge_method: 'S256',
    ...hints,
  });
  return site.call({ path: `/api/v1/auth/oidc/authorize?${query}` });
}

async function begin(hints: Record<string, string>): Promise<Begun> {
  const codeVerifier = randomBytes(32).toString('base64url');
  const answer = await authorize(hints, codeVerifier);
  if (answer.status !== 200) throw new Error(`no sign-in began: ${JSON.stringify(answer.body)}`);
  return { authorizationUrl: answer.body.authorization_url, state: answer.body.state, codeVerifier };
}

const exchange = (begun: Begun, code: string, changed: Record<string, string> = {}) =>
  site.call({
    method: 'POST',
    path: '/api/v1/auth/oidc/exchange',
    body: { code, state: begun.state, code_verifier: begun.codeVerifier, redirect_uri: REDIRECT_URI, ...changed },
  });

/** Someone's way through their provider and back. */
async function arrive(
  provider: RealProvider,
  hints: Record<string, string>,
  person: { subject: string; email: string | undefined; verified?: boolean | undefined },
) {
  provider.accounts.set(person.subject, {
    email: person.email,
    verified: 'verified' in person ? person.verified : true,
  });
  const begun = await begin(hints);
  const back = await provider.signIn(begun.authorizationUrl, person.subject);
  expect(back.state).toBe(begun.state);
  return { begun, code: back.code };
}

async function signIn(...way: Parameters<typeof arrive>) {
  const { begun, code } = await arrive(...way);
  return exchange(begun, code);
}

const AT_ACME = { identity_hint: 'someone@acme.example' };
const person = (domain = 'acme.example') => {
  const subject = uniqueName('subject');
  return { subject, email: `${subject}@${domain}` };
};

describe('signing in at an organisation’s provider', () => {
  it('exchanges a state once and never again (check 5)', async () => {
    const ann = person();
    const { begun, code } = await arrive(acmeProvider, AT_ACME, ann);
    const first = await exchange(begun, code);
    expect(first.status).toBe(200);
    expect(first.body).toMatchObject({ org_id: acme.tenantId, account_type: 'enterprise' });
    const second = await exchange(begun, code);
    expect([second.status, second.body.code, second.body.details.reason]).toEqual([
      400,
      'invalid_request',
      'state_invalid',
    ]);
    const me = await site.call({ path: '/api/v1/users/me', token: first.body.access_token });
    expect(me.body).toMatchObject({ id: first.body.user.id, username: ann.email });
  });

  it('lets one of many exchanges of one state through', async () => {
    const { begun, code } = await arrive(acmeProvider, AT_ACME, person());
    const answers = await Promise.all(Array.from({ length: 12 }, () => exchange(begun, code)));
    expect(answers.map(({ status }) => status).sort()).toEqual([200, ...Array.from({ length: 11 }, () => 400)]);
  });

  it('finds the same person again, and makes one of two first sign-ins at once', async () => {
    const ann = person();
    const ways = [await arrive(acmeProvider, AT_ACME, ann), await arrive(acmeProvider, AT_ACME, ann)];
    const answers = await Promise.all(ways.map(({ begun, code }) => exchange(begun, code)));
    expect(answers.map(({ status }) => status)).toEqual([200, 200]);
    const again = await signIn(acmeProvider, { tenant_hint: acme.slug }, ann);
    expect(new Set([...answers, again].map(({ body }) => body.user.id)).size).toBe(1);
    const links = await site.db
      .selectFrom('identity_links')
      .select(['state', 'issuer'])
      .where('subject', '=', ann.subject)
      .execute();
    expect(links).toEqual([{ state: 'active', issuer: acmeProvider.issuer }]);
  });

  it('takes someone whose provider says nothing of a proven domain’s address', async () => {
    expect((await signIn(acmeProvider, AT_ACME, { ...person(), verified: undefined })).status).toBe(200);
  });

  it('leaves an audit row of the person, and a session that can be refreshed and ended', async () => {
    const ann = await signIn(acmeProvider, AT_ACME, person());
    const rows = await site.db
      .selectFrom('audit_logs')
      .select(['action', 'result', 'tenant_id'])
      .where('actor_id', '=', ann.body.user.id)
      .execute();
    expect(rows).toEqual([{ action: 'auth.signup', result: 'success', tenant_id: acme.tenantId }]);
    const session = await site.db
      .selectFrom('sessions')
      .select('auth_provider')
      .where('user_id', '=', ann.body.user.id)
      .executeTakeFirstOrThrow();
    expect(session.auth_provider).toBe('oidc');
    const refreshed = await site.call({
      method: 'POST',
      path: '/api/v1/auth/token/refresh',
      body: { refresh_token: ann.body.refresh_token },
    });
    expect(refreshed.status).toBe(200);
    const out = await site.call({ method: 'POST', path: '/api/v1/auth/logout', token: refreshed.body.access_token });
    expect(out.status).toBeLessThan(300);
    expect((await site.call({ path: '/api/v1/users/me', token: refreshed.body.access_token })).status).toBe(401);
  });
});

describe('someone whom an operator has made for an identity', () => {
  it('joins the organisation at the first sign-in, under the name that was given', async () => {
    const { subject, email } = person();
    const username = uniqueName('prepared');
    const made = await site.call({
      method: 'POST',
      path: '/api/v1/admin/users',
      token: await site.operator(),
      body: { username, role: 'user', oidc_issuer: acmeProvider.issuer, oidc_subject: subject },
    });
    expect(made.status).toBe(201);
    const ways = [
      await arrive(acmeProvider, AT_ACME, { subject, email }),
      await arrive(acmeProvider, AT_ACME, { subject, email }),
    ];
    const answers = await Promise.all(ways.map(({ begun, code }) => exchange(begun, code)));
    for (const { status, body } of answers) {
      expect([status, body.org_id, body.user.id, body.user.username]).toEqual([
        200,
        acme.tenantId,
        made.body.id,
        username,
      ]);
    }
  });
});

describe('what does not belong together', () => {
  it('is a state that nobody began, and one that is ten minutes old', async () => {
    const { begun, code } = await arrive(acmeProvider, AT_ACME, person());
    const unknown = await exchange({ ...begun, state: randomBytes(32).toString('base64url') }, code);
    expect([unknown.status, unknown.body.details.reason]).toEqual([400, 'state_invalid']);
    clock.advance(10 * 60_000);
    const late = await exchange(begun, code);
    expect([late.status, late.body.details.reason]).toEqual([400, 'state_invalid']);
  });

  it.each([
    ['verifier', { code_verifier: 'w'.repeat(43) }],
    ['redirect address', { redirect_uri: `${REDIRECT_URI}/` }],
  ])('is another %s, which burns the state', async (_what, changed) => {
    const { begun, code } = await arrive(acmeProvider, AT_ACME, person());
    const wrong = await exchange(begun, code, changed);
    expect([wrong.status, wrong.body.details.reason]).toEqual([400, 'state_invalid']);
    expect((await exchange(begun, code)).status).toBe(400);
  });

  it('is a code of another provider, and one that was used before', async () => {
    const elsewhere = await arrive(otherProvider, { tenant_hint: other.slug }, person('other.example'));
    const here = await begin(AT_ACME);
    const foreign = await exchange(here, elsewhere.code);
    expect([foreign.status, foreign.body.details.reason]).toEqual([400, 'code_invalid']);

    const used = await arrive(acmeProvider, AT_ACME, person());
    expect((await exchange(used.begun, used.code)).status).toBe(200);
    const replayed = await exchange({ ...(await begin(AT_ACME)) }, used.code);
    expect([replayed.status, replayed.body.details.reason]).toEqual([400, 'code_invalid']);
  });

  it('is a code that another browser began, even with its own fresh state', async () => {
    const victim = await arrive(acmeProvider, AT_ACME, person());
    const attacker = await begin(AT_ACME);
    expect((await exchange(attacker, victim.code)).body.details.reason).toBe('code_invalid');
  });

  const throughForger = async (forgery: Forgery, subject = uniqueName('forged')) => {
    const begun = await begin({ provider_hint: 'github' });
    forger.forge({
      forgery,
      subject,
      email: `${subject}@elsewhere.example`,
      authorizationUrl: begun.authorizationUrl,
    });
    return exchange(begun, 'any code');
  };

  it.each<Forgery>(['nonce', 'issuer', 'audience', 'signature', 'expired', 'unsigned', 'nobody'])(
    'is an ID token with a wrong %s',
    async (forgery) => {
      const subject = uniqueName('forged');
      const answer = await throughForger(forgery, subject);
      expect([answer.status, answer.body.code, answer.body.details.reason]).toEqual([
        401,
        'token_invalid',
        'identity_invalid',
      ]);
      expect((await throughForger('none', subject)).status).toBe(200);
    },
  );

  it('never reaches the provider with a wrong verifier', async () => {
    const begun = await begin({ provider_hint: 'github' });
    const before = forger.redemptions();
    expect((await exchange(begun, 'any code', { code_verifier: 'w'.repeat(43) })).status).toBe(400);
    expect(forger.redemptions()).toBe(before);
  });
});

describe('whom a provider cannot speak for', () => {
  it('is somebody whose address is taken: one conflict is kept, and nobody comes in', async () => {
    const bob = await site.signup(`${uniqueName('bob')}@contractor.example`);
    const stranger = { subject: uniqueName('stranger'), email: bob.username.toUpperCase() };
    for (let attempt = 0; attempt < 2; attempt += 1) {
      const answer = await signIn(acmeProvider, { tenant_hint: acme.slug }, stranger);
      expect([answer.status, answer.body.code, answer.body.details.reason]).toEqual([
        401,
        'token_invalid',
        'identity_conflict',
      ]);
    }
    const links = await site.db
      .selectFrom('identity_links')
      .select(['user_id', 'state'])
      .where('subject', '=', stranger.subject)
      .execute();
    expect(links).toEqual([{ user_id: bob.userId, state: 'pending_conflict' }]);
  });

  it.each<[string, object, string]>([
    ['an unverified address', { verified: false }, 'email_unverified'],
    [
      'an unproven domain of which nothing is said',
      { verified: undefined, email: 'x@contractor.example' },
      'email_unverified',
    ],
    ['no address', { email: undefined }, 'email_missing'],
    ['an address of another organisation', { email: 'eve@other.example' }, 'organisation_mismatch'],
  ])('is a stranger with %s', async (_what, changed, reason) => {
    const answer = await signIn(acmeProvider, AT_ACME, { ...person(), ...changed });
    expect([answer.status, answer.body.code, answer.body.details.reason]).toEqual([401, 'token_invalid', reason]);
  });

  it('is a member of another organisation', async () => {
    const ann = person('other.example');
    expect((await signIn(otherProvider, { tenant_hint: other.slug }, ann)).status).toBe(200);
    const third = await organisation();
    await configure(third.tenantId, otherProvider);
    const answer = await signIn(otherProvider, { tenant_hint: third.slug }, ann);
    expect([answer.status, answer.body.details.reason]).toEqual([401, 'organisation_mismatch']);
  });

  it('is somebody who was removed from the organisation', async () => {
    const ann = person();
    const { body } = await signIn(acmeProvider, AT_ACME, ann);
    await site.db
      .updateTable('tenant_memberships')
      .set({ ended_at: clock.now(), end_reason: 'removed' })
      .where('user_id', '=', body.user.id)
      .execute();
    const answer = await signIn(acmeProvider, AT_ACME, ann);
    expect([answer.status, answer.body.details.reason]).toEqual([401, 'membership_ended']);
  });
});

describe('the platform’s own provider', () => {
  it('gives a new person a tenant and a project of their own', async () => {
    const answer = await signIn(otherProvider, { provider_hint: 'google' }, person('home.example'));
    expect([answer.status, answer.body.account_type]).toEqual([200, 'personal']);
    const projects = await site.call({ path: '/api/v1/projects', token: answer.body.access_token });
    expect(projects.body.items).toHaveLength(1);
  });

  it('sends people of a bound domain to their organisation', async () => {
    const answer = await signIn(otherProvider, { provider_hint: 'google' }, person('acme.example'));
    expect([answer.status, answer.body.code]).toEqual([401, 'auth_enterprise_required']);
  });
});

describe('beginning a sign-in', () => {
  it('answers every hint that leads nowhere alike', async () => {
    const gone = await organisation();
    await configure(gone.tenantId, acmeProvider, { enabled: false });
    const unproven = await organisation();
    const providerId = await configure(unproven.tenantId, acmeProvider);
    await change((tx, ctx) =>
      federation().bindDomain(tx, ctx, { tenantId: unproven.tenantId, providerId, domain: 'unproven.example' }),
    );
    const answers = await Promise.all(
      [
        { identity_hint: 'a@unknown.example' },
        { identity_hint: 'a@unproven.example' },
        { tenant_hint: 'no-such-tenant' },
        { tenant_hint: gone.slug },
        { tenant_hint: other.slug, identity_hint: 'a@acme.example' },
        { provider_hint: 'huggingface' },
      ].map((hints) => authorize(hints)),
    );
    const alike = answers.map(({ status, body }) => [status, body.code, body.message, body.details]);
    expect(new Set(alike.map((each) => JSON.stringify(each))).size).toBe(1);
    expect(alike[0]?.slice(0, 2)).toEqual([400, 'invalid_request']);
  });

  it('asks people with a public mail address for a personal account', async () => {
    const answer = await authorize({ identity_hint: 'ann@gmail.com' });
    expect([answer.status, answer.body.code]).toEqual([400, 'auth_personal_required']);
  });

  it('sends nobody back to an address that is not on the list', async () => {
    for (const redirect_uri of [`${REDIRECT_URI}?next=x`, 'https://evil.example/', `${REDIRECT_URI}.evil.example`]) {
      const answer = await authorize({ ...AT_ACME, redirect_uri });
      expect([answer.status, answer.body.details.reason]).toEqual([400, 'redirect_uri_not_allowed']);
    }
  });

  it('asks the provider for a code with PKCE, a nonce and the state, and keeps neither state nor secret in the open', async () => {
    const begun = await begin(AT_ACME);
    const url = new URL(begun.authorizationUrl);
    expect(url.origin).toBe(acmeProvider.issuer);
    expect(Object.fromEntries(url.searchParams)).toMatchObject({
      response_type: 'code',
      client_id: acmeProvider.clientId,
      redirect_uri: REDIRECT_URI,
      code_challenge_method: 'S256',
      state: begun.state,
      nonce: expect.stringMatching(/^.{43}$/),
    });
    const kept = JSON.stringify([
      await site.db.selectFrom('auth_states').selectAll().execute(),
      await site.db.selectFrom('federation_providers').selectAll().execute(),
      await site.db.selectFrom('audit_logs').select(['metadata']).execute(),
    ]);
    expect(kept).not.toContain(begun.state);
    expect(kept).not.toContain(acmeProvider.clientSecret);
  });

  it('is forgotten a day after it could have been finished', async () => {
    await begin(AT_ACME);
    const job = site.controlPlane.domains.periodicJobs.find(({ name }) => name === 'identity.sweep-credentials');
    if (!job) throw new Error('nobody sweeps');
    clock.advance(24 * 3_600_000 + 600_001);
    const fresh = await begin(AT_ACME);
    await job.run(site.db, jobContext('test', { clock, log }), new AbortController().signal);
    const rows = await site.db.selectFrom('auth_states').select('state_hash').execute();
    expect(rows.map(({ state_hash: hash }) => hash.toString('hex'))).toEqual([
      createHash('sha256').update(fresh.state).digest('hex'),
    ]);
  });

  it('says so where the provider does not answer', async () => {
    const lost = await organisation();
    await configure(lost.tenantId, acmeProvider, { issuer: 'http://127.0.0.1:9' });
    const answer = await authorize({ tenant_hint: lost.slug });
    expect([answer.status, answer.body.code]).toEqual([503, 'upstream_error']);
  });
});

describe('a password', () => {
  it('opens nothing under a domain that an organisation has proven, known or not', async () => {
    for (const path of ['login', 'signup']) {
      const answer = await site.call({
        method: 'POST',
        path: `/api/v1/auth/personal/${path}`,
        body: { username: `${uniqueName('ann')}@Acme.Example`, password: PASSWORD },
      });
      expect([answer.status, answer.body.code]).toEqual([401, 'auth_enterprise_required']);
    }
  });
});

describe('configuring providers', () => {
  it('lets one organisation prove a domain', async () => {
    const rival = await organisation();
    const providerId = await configure(rival.tenantId, acmeProvider);
    const { bindingId, challenge } = await change((tx, ctx) =>
      federation().bindDomain(tx, ctx, { tenantId: rival.tenantId, providerId, domain: 'Acme.Example' }),
    );
    const verify = (txtRecords: string[]) =>
      change((tx, ctx) => federation().verifyDomain(tx, ctx, { bindingId, txtRecords }));
    expect(await verify(['something else'])).toBe('failed');
    await expect(verify([challenge])).rejects.toMatchObject({ status: 409 });
  });

  it('refuses public mail services, foreign providers, and issuers that may not be asked', async () => {
    const providerId = await configure(acme.tenantId, acmeProvider);
    const bindTo = (tenantId: string, domain: string) =>
      change((tx, ctx) => federation().bindDomain(tx, ctx, { tenantId, providerId, domain }));
    await expect(bindTo(acme.tenantId, 'gmail.com')).rejects.toMatchObject({ status: 400 });
    await expect(bindTo(other.tenantId, 'fresh.example')).rejects.toMatchObject({ status: 404 });
    await expect(configure(acme.tenantId, acmeProvider, { issuer: 'ldap://acme' })).rejects.toMatchObject({
      status: 400,
    });
    const person_ = await site.signup();
    await expect(configure(person_.tenantId, acmeProvider)).rejects.toMatchObject({ status: 409 });
  });

  it('destroys a secret that was replaced', async () => {
    const tenant = await organisation();
    await configure(tenant.tenantId, acmeProvider, { clientSecret: 'before' });
    const secretOf = async () =>
      await site.db
        .selectFrom('federation_providers')
        .innerJoin('custody_secrets', 'custody_secrets.id', 'client_secret_ref')
        .select(['custody_secrets.id', 'destroyed_at'])
        .where('tenant_id', '=', tenant.tenantId)
        .executeTakeFirstOrThrow();
    const before = await secretOf();
    await configure(tenant.tenantId, acmeProvider);
    const after = await secretOf();
    expect(after.id).not.toBe(before.id);
    const old = await site.db
      .selectFrom('custody_secrets')
      .select('sealed')
      .where('id', '=', before.id)
      .executeTakeFirstOrThrow();
    expect(old.sealed).toBeNull();
  });
});
