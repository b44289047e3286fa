import { randomBytes } from 'node:crypto';
import { addressBucket } from '@gpuaas/kernel';
import { audit } from '../../../spine/audit.js';
import type { CallContext, OperationHandlers, RequestContext, Tx } from '../../../spine/operation.js';
import { exchange } from '../../../spine/operation.js';
import { badRequest, Refusal, refuse } from '../../../spine/refusal.js';
import { inTransaction, RetryTransaction } from '../../../spine/transaction.js';
import { secretHash } from '../crypto/opaque-tokens.js';
import { recordDenial } from '../denials.js';
import type { IdentityDependencies, IdentitySettings } from '../dependencies.js';
import { announce } from '../events.js';
import { CLIENT_SECRET_PURPOSE } from '../federation.js';
import { type OidcIdentity, type OidcProviderAccess, OidcProviderUnavailable, OidcRejection } from '../oidc-client.js';
import {
  belongsToBeginning,
  chooseProvider,
  decideSignIn,
  domainOf,
  type Home,
  methodsOf,
  SIGN_IN_STATE_SECONDS,
  type SignInDecision,
} from '../rules/federation.js';
import { decideUsername } from '../rules/username.js';
import type { SessionIssuer } from '../sign-in.js';
import { type AttemptBucket, forgiveAttempt } from '../store/attempts.js';
import {
  consumeAuthState,
  type FederatedIdentity,
  type FederationProvider,
  findLink,
  findOpenProvider,
  findPlatformProviders,
  findProviderOfDomain,
  findProvidersOfSlug,
  findTenantOfDomain,
  findUserByEmail,
  insertAuthState,
  insertConflictingLink,
  insertFederatedLink,
  setVerifiedEmail,
} from '../store/federation.js';
import { findHomeMembership, insertTenantMembership, lockTenant, wasEverMember } from '../store/tenants.js';
import { getUserProfile, insertUser, lockUser, type UserProfile } from '../store/users.js';
import { demandAttempt, openPersonalTenant } from './personal-accounts.js';

export interface FederatedSignInParts
  extends Pick<IdentityDependencies, 'db' | 'clock' | 'custody' | 'wallet' | 'oidcClient'> {
  readonly settings: Pick<IdentitySettings, 'attemptLimits' | 'signInRedirectUris'>;
  readonly sessions: SessionIssuer;
}

export function federatedSignInOperations(parts: FederatedSignInParts): OperationHandlers {
  return { getOidcAuthorizeUrl: authorize(parts), exchangeOidcCode: exchangeCode(parts) };
}

/** 200: where to send the browser. What must come back is kept for ten minutes. */
function authorize(parts: FederatedSignInParts) {
  const { db, clock, oidcClient, settings } = parts;
  return exchange<'getOidcAuthorizeUrl'>(async ({ query, ctx }) => {
    if (!settings.signInRedirectUris.includes(query.redirect_uri)) {
      throw badRequest('redirect_uri_not_allowed', '/query/redirect_uri', 'is not an address of this site');
    }
    if (!/^[A-Za-z0-9_-]{43}$/.test(query.code_challenge)) {
      throw badRequest('code_challenge_invalid', '/query/code_challenge', 'must be a SHA-256 hash in base64url');
    }
    const provider = await resolveProvider(parts, query);
    const state = randomBytes(32).toString('base64url');
    const nonce = randomBytes(32).toString('base64url');
    const authorizationUrl = await askProvider(ctx, async () =>
      oidcClient.authorizationUrl(await accessTo(parts, provider), {
        redirectUri: query.redirect_uri,
        state,
        nonce,
        codeChallenge: query.code_challenge,
        loginHint: query.identity_hint ?? null,
        action: query.action ?? null,
      }),
    );
    const now = clock.now();
    await insertAuthState(db, {
      stateHash: secretHash(state),
      tenantId: provider.tenantId,
      providerId: provider.providerId,
      redirectUri: query.redirect_uri,
      codeChallenge: query.code_challenge,
      nonce,
      action: query.action ?? null,
      now,
      expiresAt: new Date(now.getTime() + SIGN_IN_STATE_SECONDS * 1000),
    });
    return {
      status: 200,
      body: { authorization_url: authorizationUrl, state, pkce_required: true, org_id: provider.tenantId },
      headers: { 'cache-control': 'no-store' },
    };
  });
}

async function resolveProvider(
  { db }: FederatedSignInParts,
  hints: { tenant_hint?: string | undefined; identity_hint?: string | undefined; provider_hint?: string | undefined },
): Promise<FederationProvider> {
  const mailDomain = hints.identity_hint === undefined ? null : domainOf(hints.identity_hint);
  const ofPlatform = await findPlatformProviders(db);
  const decision = chooseProvider(
    {
      mailDomain,
      hasIdentityHint: hints.identity_hint !== undefined,
      hasTenantHint: hints.tenant_hint !== undefined,
      hasProviderHint: hints.provider_hint !== undefined,
    },
    {
      byDomain: mailDomain === null ? null : await findProviderOfDomain(db, mailDomain),
      ofTenant: hints.tenant_hint === undefined ? [] : await findProvidersOfSlug(db, hints.tenant_hint),
      byName: ofPlatform.find(({ name }) => name === hints.provider_hint) ?? null,
      ofPlatform,
    },
  );
  if (decision.kind === 'personal_required') throw refuse('auth_personal_required');
  const provider = decision.kind === 'provider' ? await findOpenProvider(db, decision.provider.providerId) : null;
  if (!provider) throw badRequest('sign_in_unresolved', '/query', 'the hints lead to no identity provider');
  return provider;
}

/** 200 with a session. The state is burnt before anything is asked of the provider, whatever comes of it. */
function exchangeCode(parts: FederatedSignInParts) {
  const { db, clock, oidcClient, settings, sessions } = parts;
  return exchange<'exchangeOidcCode'>(async ({ body, ctx }) => {
    const buckets: AttemptBucket[] = [
      {
        bucket: `exchange:address:${addressBucket(ctx.actorIp)}`,
        limit: settings.attemptLimits.perAddress,
        windowSeconds: settings.attemptLimits.windowSeconds,
      },
    ];
    const counted = clock.now();
    await demandAttempt(parts, ctx, 'auth.login', buckets);

    const begun = await consumeAuthState(db, secretHash(body.state), counted);
    const belongs =
      begun !== null && belongsToBeginning(begun, { redirectUri: body.redirect_uri, codeVerifier: body.code_verifier });
    const provider = belongs ? await findOpenProvider(db, begun.providerId) : null;
    if (!belongs || !provider) {
      // One answer for a state that is unknown, used, too old, or somebody else's.
      throw badRequest('state_invalid', '/body/state', 'this sign-in was not begun here, is over, or was used before');
    }
    const identity = await askProvider(ctx, async () =>
      oidcClient.redeem(await accessTo(parts, provider), {
        redirectUri: begun.redirectUri,
        code: body.code,
        codeVerifier: body.code_verifier,
        nonce: begun.nonce,
      }),
    ).catch(async (error: unknown) => {
      if (!(error instanceof OidcRejection)) throw error;
      ctx.log.info({ provider: provider.providerId, error: String(error.cause) }, 'a federated sign-in was rejected');
      if (error.what === 'code')
        throw badRequest('code_invalid', '/body/code', 'the provider does not accept the code');
      await denied(parts, ctx, provider, null, 'identity_invalid');
      throw signInRefused('identity_invalid');
    });

    const outcome = await inTransaction(db, async (tx) => {
      const decision = await decide(tx, provider, identity);
      const user = await admit(parts, tx, ctx, { provider, identity: linkFacts(provider, identity), decision });
      if (user === null) return { decision };
      const issued = await sessions.open(tx, ctx, user, {
        provider: 'oidc',
        amr: methodsOf(identity.amr),
        acr: identity.acr,
        authTime: identity.authTime,
      });
      await forgiveAttempt(tx, buckets, counted);
      await audit(
        tx,
        { ...ctx, principal: issued.principal },
        {
          action: decision.kind === 'provision' ? 'auth.signup' : 'auth.login',
          targetType: 'user',
          targetId: user.userId,
          tenantId: user.tenantId,
          metadata: { method: 'oidc', provider: provider.name },
        },
      );
      return { decision, signedIn: { user, issued } };
    });
    if (outcome.signedIn) {
      const { user, issued } = outcome.signedIn;
      const { org_id: tenantId, ...answer } = await sessions.answer(db, user, issued);
      if (!tenantId) throw new Error('a federated sign-in left someone without a home');
      return { status: 200, body: { ...answer, org_id: tenantId } };
    }
    throw await refusalOf(parts, ctx, provider, outcome.decision);
  });
}

/** What is known of an identity, judged under the locks of the people it could be. */
async function decide(tx: Tx, provider: FederationProvider, identity: OidcIdentity): Promise<SignInDecision> {
  const { userId, wasRevoked } = await findLink(tx, identity.issuer, identity.subject);
  // The user's row is held until commit, so that no removal from the home passes this sign-in.
  if (userId !== null) await lockUser(tx, userId);
  const home = userId === null ? null : await findHomeMembership(tx, userId);
  const email = identity.email === null ? null : acceptableEmail(identity.email);
  const domain = email === null ? null : domainOf(email);
  return decideSignIn({
    providerTenantId: provider.tenantId,
    linked:
      userId === null
        ? null
        : {
            userId,
            tenantId: home?.tenantId ?? null,
            leftProviderTenant:
              home === null && provider.tenantId !== null && (await wasEverMember(tx, provider.tenantId, userId)),
          },
    wasRevoked,
    email,
    emailVerified: identity.emailVerified,
    domainTenantId: domain === null ? null : await findTenantOfDomain(tx, domain),
    emailOwnerId: email === null || userId !== null ? null : await findUserByEmail(tx, email),
  });
}

/** Writes down what was decided; the person who comes in, or null for one who does not. */
async function admit(
  parts: FederatedSignInParts,
  tx: Tx,
  ctx: CallContext,
  {
    provider,
    identity,
    decision,
  }: { provider: FederationProvider; identity: FederatedIdentity; decision: SignInDecision },
): Promise<UserProfile | null> {
  const now = parts.clock.now();
  switch (decision.kind) {
    case 'sign_in': {
      const user = await getUserProfile(tx, decision.userId);
      if (decision.joins === null) return user;
      await settle(parts, tx, ctx, user, decision.joins);
      return getUserProfile(tx, user.userId);
    }
    case 'provision': {
      const name = decideUsername(decision.email);
      if (!name.ok) throw new Error('an address that was accepted cannot be a name');
      const userId = await faster(async () => {
        const created = await insertUser(tx, { ...name, passwordHash: null, role: 'user', now });
        await insertFederatedLink(tx, created, identity, now);
        return created;
      });
      await setVerifiedEmail(tx, userId, decision.emailVerified, now);
      await settle(parts, tx, ctx, { userId, username: name.username }, decision.joins);
      return getUserProfile(tx, userId);
    }
    case 'conflict':
      await insertConflictingLink(tx, decision.userId, identity, now);
      await audit(tx, ctx, {
        action: 'auth.login',
        targetType: 'user',
        targetId: decision.userId,
        targetUserId: decision.userId,
        tenantId: provider.tenantId,
        result: 'failure',
        metadata: { method: 'oidc', provider: provider.name, reason: 'identity_conflict' },
      });
      return null;
    case 'enterprise_required':
    case 'refuse':
      return null;
  }
}

/** Gives someone their home: membership of the provider's organisation, or a tenant of their own. */
async function settle(
  { wallet, clock }: FederatedSignInParts,
  tx: Tx,
  ctx: CallContext,
  user: Pick<UserProfile, 'userId' | 'username'>,
  home: Home,
): Promise<void> {
  const { userId, username } = user;
  const now = clock.now();
  if (home.kind === 'personal') {
    const { tenantId } = await openPersonalTenant(tx, { userId, username, now });
    await wallet.openWallet(tx, { tenantId, userId });
    return;
  }
  const { tenantId } = await lockTenant(tx, home.tenantId);
  await insertTenantMembership(tx, { tenantId, userId, role: 'member', now });
  await wallet.openWallet(tx, { tenantId, userId });
  await announce(tx, ctx, 'identity.membership.changed', userId, {
    user_id: userId,
    tenant_id: tenantId,
    change: 'bound',
    project_ids: [],
  });
}

/** Somebody else with the same name or identity came in between: the second look finds them. */
async function faster<Result>(write: () => Promise<Result>): Promise<Result> {
  try {
    return await write();
  } catch (error) {
    if (error instanceof Refusal && error.code === 'user_already_exists') {
      throw new RetryTransaction('lost the race for an identity', { cause: error });
    }
    throw error;
  }
}

function linkFacts(provider: FederationProvider, identity: OidcIdentity): FederatedIdentity {
  return {
    providerName: provider.name,
    issuer: identity.issuer,
    subject: identity.subject,
    email: identity.email === null ? null : acceptableEmail(identity.email),
    emailVerified: identity.emailVerified === true,
  };
}

/** An address in the form in which users are compared, or null for one that no user could have. */
function acceptableEmail(email: string): string | null {
  const decision = decideUsername(email);
  return decision.ok ? decision.email : null;
}

async function refusalOf(
  parts: FederatedSignInParts,
  ctx: RequestContext,
  provider: FederationProvider,
  decision: SignInDecision,
): Promise<Refusal> {
  switch (decision.kind) {
    case 'conflict':
      return signInRefused('identity_conflict');
    case 'enterprise_required':
      await denied(parts, ctx, provider, null, 'enterprise_required');
      return refuse('auth_enterprise_required', { reason: 'domain_belongs_to_an_organisation' });
    case 'refuse':
      await denied(parts, ctx, provider, null, decision.reason);
      return signInRefused(decision.reason);
    case 'sign_in':
    case 'provision':
      throw new Error('someone who was admitted is refused');
  }
}

function denied(
  { db }: FederatedSignInParts,
  ctx: RequestContext,
  provider: FederationProvider,
  userId: string | null,
  reason: string,
): Promise<void> {
  return recordDenial(db, ctx, {
    action: 'auth.login',
    targetType: 'user',
    targetId: userId,
    tenantId: provider.tenantId,
    metadata: { method: 'oidc', provider: provider.name, reason },
    who: `exchange:${provider.providerId}:${addressBucket(ctx.actorIp)}`,
  });
}

function signInRefused(reason: string): Refusal {
  return refuse('token_invalid', { reason }, 'the sign-in at the identity provider does not open this account');
}

async function accessTo(
  { db, custody }: FederatedSignInParts,
  provider: FederationProvider,
): Promise<OidcProviderAccess> {
  const { revision, issuer, clientId, clientSecretRef } = provider;
  const clientSecret =
    clientSecretRef === null
      ? null
      : Buffer.from(await custody.open(db, CLIENT_SECRET_PURPOSE, clientSecretRef)).toString('utf8');
  return { revision, issuer, clientId, clientSecret };
}

/** 503 where the provider cannot be asked. */
async function askProvider<Result>(ctx: RequestContext, ask: () => Promise<Result>): Promise<Result> {
  try {
    return await ask();
  } catch (error) {
    if (!(error instanceof OidcProviderUnavailable)) throw error;
    ctx.log.warn({ error: String(error.cause) }, 'an identity provider does not answer');
    throw refuse('upstream_error', { reason: 'identity_provider_unavailable' });
  }
}
