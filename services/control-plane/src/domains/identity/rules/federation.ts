import { createHash, timingSafeEqual } from 'node:crypto';

/** How long someone may take at their provider before they have to begin again. */
export const SIGN_IN_STATE_SECONDS = 600;

/** Mail services that anybody can have an address at: such an address says nothing about an organisation. */
const PUBLIC_MAIL_DOMAINS: ReadonlySet<string> = new Set([
  'aol.com',
  'fastmail.com',
  'gmail.com',
  'gmx.com',
  'gmx.de',
  'gmx.net',
  'googlemail.com',
  'hotmail.com',
  'icloud.com',
  'live.com',
  'mac.com',
  'mail.com',
  'mail.ru',
  'me.com',
  'msn.com',
  'outlook.com',
  'pm.me',
  'proton.me',
  'protonmail.com',
  'qq.com',
  'tutanota.com',
  'web.de',
  'yahoo.com',
  'yandex.com',
  'yandex.ru',
  'ymail.com',
  'zoho.com',
]);

export function isPublicMailDomain(domain: string): boolean {
  return PUBLIC_MAIL_DOMAINS.has(domain);
}

const DOMAIN = /^(?=.{3,253}$)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)+$/;

/** A domain in the form by which it is looked up, or null for what cannot be one. */
export function normaliseDomain(text: string): string | null {
  const domain = text.trim().toLowerCase().replace(/\.$/, '');
  return DOMAIN.test(domain) ? domain : null;
}

/** The domain of an e-mail address, or null for what is none. */
export function domainOf(email: string): string | null {
  const at = email.lastIndexOf('@');
  return at < 1 ? null : normaliseDomain(email.slice(at + 1));
}

/** A provider as far as the choice between several needs it. */
export interface ProviderChoice {
  readonly providerId: string;
  /** null: the platform's own */
  readonly tenantId: string | null;
}

export interface ProviderHints {
  /** the mail domain of the person, where they gave an address */
  readonly mailDomain: string | null;
  readonly hasIdentityHint: boolean;
  readonly hasTenantHint: boolean;
  readonly hasProviderHint: boolean;
}

/** What the hints lead to, each on its own; only providers that are enabled. */
export interface ProviderFacts {
  /** of the organisation that has proven the mail domain */
  readonly byDomain: ProviderChoice | null;
  /** all of the organisation with the hinted slug */
  readonly ofTenant: readonly ProviderChoice[];
  /** the platform's own with the hinted name */
  readonly byName: ProviderChoice | null;
  /** all of the platform's own */
  readonly ofPlatform: readonly ProviderChoice[];
}

export type ProviderDecision =
  | { readonly kind: 'provider'; readonly provider: ProviderChoice }
  | { readonly kind: 'personal_required' }
  /** one answer for unknown, disabled, ambiguous and contradicting hints: it tells nobody who is a customer */
  | { readonly kind: 'unresolved' };

const UNRESOLVED: ProviderDecision = { kind: 'unresolved' };

/** Which provider a sign-in goes to. Every hint that is given must lead to one and the same. */
export function chooseProvider(hints: ProviderHints, facts: ProviderFacts): ProviderDecision {
  if (hints.hasIdentityHint && hints.mailDomain === null) return UNRESOLVED;
  const isPublic = hints.mailDomain !== null && isPublicMailDomain(hints.mailDomain);
  if (isPublic && !hints.hasProviderHint) return { kind: 'personal_required' };

  const candidates: (ProviderChoice | null)[] = [];
  // A public address leads nowhere by itself and does not stand against a provider that was named.
  if (hints.hasIdentityHint && !isPublic) {
    // People of an unbound domain may come through the platform's own provider, if they name it.
    if (facts.byDomain !== null || !hints.hasProviderHint) candidates.push(facts.byDomain);
  }
  if (hints.hasTenantHint) {
    const agreed = facts.ofTenant.find(({ providerId }) => providerId === facts.byDomain?.providerId);
    candidates.push(agreed ?? only(facts.ofTenant));
  }
  if (hints.hasProviderHint) candidates.push(facts.byName);
  if (candidates.length === 0) candidates.push(only(facts.ofPlatform));

  const [first, ...others] = candidates;
  if (!first || others.some((other) => other?.providerId !== first.providerId)) return UNRESOLVED;
  return { kind: 'provider', provider: first };
}

function only<Item>(items: readonly Item[]): Item | null {
  return items.length === 1 ? (items[0] ?? null) : null;
}

/** Whether what came back belongs to what was begun: the address, and the secret behind the PKCE challenge (S256). */
export function belongsToBeginning(
  begun: { readonly redirectUri: string; readonly codeChallenge: string },
  presented: { readonly redirectUri: string; readonly codeVerifier: string },
): boolean {
  const challenge = createHash('sha256').update(presented.codeVerifier, 'utf8').digest('base64url');
  const expected = Buffer.from(begun.codeChallenge, 'utf8');
  const actual = Buffer.from(challenge, 'utf8');
  return (
    begun.redirectUri === presented.redirectUri &&
    expected.length === actual.length &&
    timingSafeEqual(expected, actual)
  );
}

export interface SignInFacts {
  /** the organisation of the provider; null for the platform's own */
  readonly providerTenantId: string | null;
  /** whom the identity belongs to by an active link, with their home */
  readonly linked: {
    readonly userId: string;
    readonly tenantId: string | null;
    readonly leftProviderTenant: boolean;
  } | null;
  /** a link of this identity was revoked, and none is active */
  readonly wasRevoked: boolean;
  /** normalised; null where the provider names none that can be one */
  readonly email: string | null;
  /** as the provider says; null where it does not say */
  readonly emailVerified: boolean | null;
  /** the organisation that has proven the domain of the e-mail address */
  readonly domainTenantId: string | null;
  /** somebody who already goes by this address */
  readonly emailOwnerId: string | null;
}

export type SignInDecision =
  | { readonly kind: 'sign_in'; readonly userId: string; readonly joins: Home | null }
  | { readonly kind: 'provision'; readonly email: string; readonly emailVerified: boolean; readonly joins: Home }
  | { readonly kind: 'conflict'; readonly userId: string }
  | { readonly kind: 'enterprise_required' }
  | {
      readonly kind: 'refuse';
      readonly reason:
        | 'identity_revoked'
        | 'membership_ended'
        | 'organisation_mismatch'
        | 'email_missing'
        | 'email_unverified';
    };

export type Home = { readonly kind: 'organisation'; readonly tenantId: string } | { readonly kind: 'personal' };

/**
 * Who comes in when a provider has vouched for an identity. The provider of one organisation never opens another's;
 * a person who was removed does not come back by signing in; an address that is somebody's is never taken over.
 */
export function decideSignIn(facts: SignInFacts): SignInDecision {
  const { providerTenantId, linked, domainTenantId } = facts;
  const home: Home =
    providerTenantId === null ? { kind: 'personal' } : { kind: 'organisation', tenantId: providerTenantId };
  // By the domain alone, whether or not anybody is known: an organisation's people come through its own provider.
  if (providerTenantId === null && domainTenantId !== null) return { kind: 'enterprise_required' };
  if (linked) {
    if (linked.tenantId !== null) {
      if (providerTenantId !== null && linked.tenantId !== providerTenantId) return refusal('organisation_mismatch');
      return { kind: 'sign_in', userId: linked.userId, joins: null };
    }
    if (linked.leftProviderTenant) return refusal('membership_ended');
    return { kind: 'sign_in', userId: linked.userId, joins: home };
  }
  if (facts.wasRevoked) return refusal('identity_revoked');
  if (facts.email === null) return refusal('email_missing');
  // Only its own organisation's provider speaks for a domain.
  if (domainTenantId !== null && domainTenantId !== providerTenantId) return refusal('organisation_mismatch');
  // Many organisations' providers never say; for a domain that the organisation has proven, it need not.
  if (!(facts.emailVerified ?? domainTenantId !== null)) return refusal('email_unverified');
  if (facts.emailOwnerId !== null) return { kind: 'conflict', userId: facts.emailOwnerId };
  return {
    kind: 'provision',
    email: facts.email,
    // An organisation can only vouch for addresses under a domain that it has proven.
    emailVerified: providerTenantId === null || domainTenantId === providerTenantId,
    joins: home,
  };
}

function refusal(reason: Extract<SignInDecision, { kind: 'refuse' }>['reason']): SignInDecision {
  return { kind: 'refuse', reason };
}

export type IssuerDecision =
  | { readonly ok: true }
  | { readonly ok: false; readonly reason: 'issuer_not_a_url' | 'issuer_not_https' | 'issuer_has_parts' };

/** Whether an issuer may be configured: an https URL (http only in development) without query, fragment or user. */
export function decideIssuer(issuer: string, allowsPlainHttp: boolean): IssuerDecision {
  if (!URL.canParse(issuer)) return { ok: false, reason: 'issuer_not_a_url' };
  const url = new URL(issuer);
  if (url.protocol !== 'https:' && !(allowsPlainHttp && url.protocol === 'http:')) {
    return { ok: false, reason: 'issuer_not_https' };
  }
  if (/[?#]/.test(issuer) || url.username !== '' || url.password !== '') {
    return { ok: false, reason: 'issuer_has_parts' };
  }
  return { ok: true };
}

/** The text that proves a domain, as a TXT record at `_gpuaas-challenge.<domain>`. */
export function domainChallenge(dnsToken: string): string {
  return `gpuaas-domain-verification=${dnsToken}`;
}

/** Whether the observed TXT records prove the domain. */
export function provesDomain(dnsToken: string, records: readonly string[]): boolean {
  return records.some((record) => record.trim() === domainChallenge(dnsToken));
}

const METHOD = /^[A-Za-z0-9_.:/-]{1,64}$/;
const MAXIMUM_METHODS = 16;

/** How someone proved who they are, as their provider tells it, in a form that may be stored; nothing is guessed. */
export function methodsOf(amr: readonly string[]): string[] {
  return [...new Set(amr.filter((method) => METHOD.test(method)))].slice(0, MAXIMUM_METHODS);
}
