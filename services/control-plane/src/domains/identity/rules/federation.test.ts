import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  belongsToBeginning,
  chooseProvider,
  decideIssuer,
  decideSignIn,
  domainOf,
  methodsOf,
  type ProviderFacts,
  type ProviderHints,
  provesDomain,
  type SignInFacts,
} from './federation.js';

const ACME = { providerId: 'acme-idp', tenantId: 'acme' };
const OTHER = { providerId: 'other-idp', tenantId: 'other' };
const PLATFORM = { providerId: 'broker', tenantId: null };
const NO_HINTS: ProviderHints = {
  mailDomain: null,
  hasIdentityHint: false,
  hasTenantHint: false,
  hasProviderHint: false,
};
const NOTHING: ProviderFacts = { byDomain: null, ofTenant: [], byName: null, ofPlatform: [] };
const atAcme = { mailDomain: 'acme.com', hasIdentityHint: true };

describe('the choice of a provider', () => {
  it('follows a proven domain, a tenant, a name, or the only one of the platform', () => {
    const chosen = (provider: object) => ({ kind: 'provider', provider });
    expect(chooseProvider({ ...NO_HINTS, ...atAcme }, { ...NOTHING, byDomain: ACME })).toEqual(chosen(ACME));
    expect(chooseProvider({ ...NO_HINTS, hasTenantHint: true }, { ...NOTHING, ofTenant: [ACME] })).toEqual(
      chosen(ACME),
    );
    expect(chooseProvider({ ...NO_HINTS, hasProviderHint: true }, { ...NOTHING, byName: PLATFORM })).toEqual(
      chosen(PLATFORM),
    );
    expect(chooseProvider(NO_HINTS, { ...NOTHING, ofPlatform: [PLATFORM] })).toEqual(chosen(PLATFORM));
  });

  it.each<[string, Partial<ProviderHints>, Partial<ProviderFacts>]>([
    ['nothing is configured', {}, {}],
    ['the platform has two', {}, { ofPlatform: [PLATFORM, { providerId: 'b', tenantId: null }] }],
    ['the domain is unknown', atAcme, { ofPlatform: [PLATFORM] }],
    ['the address is none', { hasIdentityHint: true }, { ofPlatform: [PLATFORM] }],
    ['tenant and domain contradict', { ...atAcme, hasTenantHint: true }, { byDomain: ACME, ofTenant: [OTHER] }],
    ['name and domain contradict', { ...atAcme, hasProviderHint: true }, { byDomain: ACME, byName: PLATFORM }],
    ['the tenant is unknown', { hasTenantHint: true }, { ofPlatform: [PLATFORM] }],
  ])('is none where %s', (_case, hints, facts) => {
    expect(chooseProvider({ ...NO_HINTS, ...hints }, { ...NOTHING, ...facts })).toEqual({ kind: 'unresolved' });
  });

  it('asks for a personal account where the address is at a public mail service', () => {
    const hints = { ...NO_HINTS, mailDomain: 'gmail.com', hasIdentityHint: true };
    expect(chooseProvider(hints, { ...NOTHING, ofPlatform: [PLATFORM] })).toEqual({ kind: 'personal_required' });
  });
});

const STRANGER: SignInFacts = {
  providerTenantId: 'acme',
  linked: null,
  wasRevoked: false,
  email: 'ann@acme.com',
  emailVerified: true,
  domainTenantId: 'acme',
  emailOwnerId: null,
};

describe('who comes in', () => {
  it('is a new member of the organisation, or a new person of their own at the platform', () => {
    expect(decideSignIn(STRANGER)).toMatchObject({
      kind: 'provision',
      emailVerified: true,
      joins: { kind: 'organisation', tenantId: 'acme' },
    });
    expect(decideSignIn({ ...STRANGER, providerTenantId: null, domainTenantId: null })).toMatchObject({
      kind: 'provision',
      joins: { kind: 'personal' },
    });
  });

  it('has a verified address only under a domain that the organisation has proven', () => {
    expect(decideSignIn({ ...STRANGER, domainTenantId: null })).toMatchObject({ emailVerified: false });
  });

  it.each<[string, Partial<SignInFacts>, object]>([
    ['an address that is taken', { emailOwnerId: 'ann' }, { kind: 'conflict', userId: 'ann' }],
    ['a domain of another', { domainTenantId: 'other' }, { kind: 'refuse', reason: 'organisation_mismatch' }],
    ['the platform and a bound domain', { providerTenantId: null }, { kind: 'enterprise_required' }],
    ['an unverified address', { emailVerified: false }, { kind: 'refuse', reason: 'email_unverified' }],
    [
      'an address of which nothing is said, at no proven domain',
      { emailVerified: null, domainTenantId: null },
      { kind: 'refuse', reason: 'email_unverified' },
    ],
    ['no address', { email: null, domainTenantId: null }, { kind: 'refuse', reason: 'email_missing' }],
    ['a revoked link', { wasRevoked: true }, { kind: 'refuse', reason: 'identity_revoked' }],
    [
      'someone who was removed',
      { linked: { userId: 'ann', tenantId: null, leftProviderTenant: true } },
      { kind: 'refuse', reason: 'membership_ended' },
    ],
  ])('is nobody with %s', (_case, facts, decision) => {
    expect(decideSignIn({ ...STRANGER, ...facts })).toEqual(decision);
  });

  it('never is somebody of another organisation than the provider’s, whatever the facts', () => {
    const tenant = fc.constantFrom('acme', 'other', null);
    const facts = fc.record({
      providerTenantId: fc.constantFrom('acme', 'other'),
      linked: fc.option(fc.record({ userId: fc.constant('ann'), tenantId: tenant, leftProviderTenant: fc.boolean() })),
      wasRevoked: fc.boolean(),
      email: fc.constantFrom('ann@acme.com', null),
      emailVerified: fc.constantFrom(true, false, null),
      domainTenantId: tenant,
      emailOwnerId: fc.constantFrom('bob', null),
    });
    fc.assert(
      fc.property(facts, (given_) => {
        const decision = decideSignIn(given_);
        if (decision.kind === 'provision') {
          expect(decision.joins).toEqual({ kind: 'organisation', tenantId: given_.providerTenantId });
          expect(given_.linked).toBeNull();
          expect(given_.emailOwnerId).toBeNull();
        }
        if (decision.kind === 'sign_in') {
          const home = decision.joins?.kind === 'organisation' ? decision.joins.tenantId : given_.linked?.tenantId;
          expect(home).toBe(given_.providerTenantId);
        }
      }),
    );
  });
});

describe('what comes back', () => {
  it('belongs to the beginning with its address and its verifier alone', () => {
    const codeVerifier = 'v'.repeat(43);
    const begun = {
      redirectUri: 'https://gpu.example/in',
      codeChallenge: createHash('sha256').update(codeVerifier).digest('base64url'),
    };
    expect(belongsToBeginning(begun, { redirectUri: begun.redirectUri, codeVerifier })).toBe(true);
    expect(belongsToBeginning(begun, { redirectUri: `${begun.redirectUri}/`, codeVerifier })).toBe(false);
    expect(belongsToBeginning(begun, { redirectUri: begun.redirectUri, codeVerifier: `${codeVerifier}v` })).toBe(false);
  });
});

describe('configuration', () => {
  it('takes issuers over https, and over http in development alone', () => {
    expect(decideIssuer('https://idp.acme.com/realm', false)).toEqual({ ok: true });
    expect(decideIssuer('http://127.0.0.1:9000', true)).toEqual({ ok: true });
    expect(decideIssuer('http://idp.acme.com', false)).toEqual({ ok: false, reason: 'issuer_not_https' });
    expect(decideIssuer('file:///etc/passwd', true)).toEqual({ ok: false, reason: 'issuer_not_https' });
    expect(decideIssuer('https://idp.acme.com/?x', false)).toEqual({ ok: false, reason: 'issuer_has_parts' });
    expect(decideIssuer('https://me:secret@idp.acme.com', false)).toEqual({ ok: false, reason: 'issuer_has_parts' });
    expect(decideIssuer('acme', true)).toEqual({ ok: false, reason: 'issuer_not_a_url' });
  });

  it('takes the whole record as proof of a domain and nothing less', () => {
    expect(provesDomain('abc', ['v=spf1 -all', 'gpuaas-domain-verification=abc'])).toBe(true);
    expect(provesDomain('abc', ['gpuaas-domain-verification=abcd', 'abc'])).toBe(false);
  });

  it('finds the domain of an address as it is compared', () => {
    expect(domainOf('Ann@ACME.com')).toBe('acme.com');
    expect(domainOf('"a@b"@acme.com')).toBe('acme.com');
    expect(domainOf('@acme.com')).toBeNull();
    expect(domainOf('ann@acme')).toBeNull();
  });

  it('keeps what a provider says of its methods only in a form that can be stored', () => {
    expect(methodsOf(['pwd', 'otp', 'pwd', 'bad\nline', ''])).toEqual(['pwd', 'otp']);
  });
});
