import { LRUCache } from 'lru-cache';
import * as openid from 'openid-client';
import {
  type OidcClient,
  type OidcIdentity,
  type OidcProviderAccess,
  OidcProviderUnavailable,
  OidcRejection,
} from '../../domains/identity/index.js';
import { createGuardedFetch, type FetchGuard } from './guarded-fetch.js';

/** How long what a provider says of itself is believed. */
const DISCOVERY_MILLISECONDS = 10 * 60_000;
const MAXIMUM_PROVIDERS = 1_000;
const MAXIMUM_CLAIM_LENGTH = 1_024;

/** Failures on the way to a provider, and answers that are not of the protocol; they say nothing about a person. */
const TRANSPORT_FAILURES: ReadonlySet<string> = new Set([
  'OAUTH_TIMEOUT',
  'OAUTH_ABORT',
  'OAUTH_HTTP_REQUEST_FORBIDDEN',
  'OAUTH_REQUEST_PROTOCOL_FORBIDDEN',
  'OAUTH_RESPONSE_IS_NOT_CONFORM',
  'OAUTH_RESPONSE_IS_NOT_JSON',
  'OAUTH_PARSE_ERROR',
]);

/** Speaks to providers over the network; remembers their metadata and keys in this process. */
export function createOidcClient(guard: FetchGuard): OidcClient {
  const guardedFetch = createGuardedFetch(guard);
  const known = new LRUCache<string, Promise<openid.Configuration>>({
    max: MAXIMUM_PROVIDERS,
    ttl: DISCOVERY_MILLISECONDS,
  });

  async function discover(provider: OidcProviderAccess): Promise<openid.Configuration> {
    const discovered = await openid.discovery(new URL(provider.issuer), provider.clientId, {}, openid.None(), {
      [openid.customFetch]: guardedFetch,
      ...(guard.allowsPlainHttp && { execute: [openid.allowInsecureRequests] }),
    });
    const { supportsPKCE: _method, ...metadata } = discovered.serverMetadata();
    if (metadata.issuer !== provider.issuer) throw new Error('the provider names another issuer than the configured');
    if (!metadata.jwks_uri) throw new Error('the provider publishes no keys');
    const methods = metadata.token_endpoint_auth_methods_supported;
    const configuration = new openid.Configuration(
      {
        ...metadata,
        // Callers bring the code and the state alone. The state names the provider, and the ID token the issuer.
        authorization_response_iss_parameter_supported: false,
      },
      provider.clientId,
      {},
      provider.clientSecret === null
        ? openid.None()
        : methods && !methods.includes('client_secret_basic')
          ? openid.ClientSecretPost(provider.clientSecret)
          : openid.ClientSecretBasic(provider.clientSecret),
    );
    configuration[openid.customFetch] = guardedFetch;
    if (guard.allowsPlainHttp) openid.allowInsecureRequests(configuration);
    // TLS alone would do by the standard; the signature also holds where a proxy ends it.
    openid.enableNonRepudiationChecks(configuration);
    return configuration;
  }

  async function configurationOf(provider: OidcProviderAccess): Promise<openid.Configuration> {
    let configuration = known.get(provider.revision);
    if (!configuration) {
      configuration = discover(provider);
      known.set(provider.revision, configuration);
    }
    try {
      return await configuration;
    } catch (error) {
      // The next one asks again.
      if (known.peek(provider.revision) === configuration) known.delete(provider.revision);
      throw new OidcProviderUnavailable({ cause: error });
    }
  }

  return {
    async authorizationUrl(provider, request) {
      const configuration = await configurationOf(provider);
      return openid.buildAuthorizationUrl(configuration, {
        redirect_uri: request.redirectUri,
        response_type: 'code',
        scope: 'openid email profile',
        state: request.state,
        nonce: request.nonce,
        code_challenge: request.codeChallenge,
        code_challenge_method: 'S256',
        ...(request.loginHint !== null && { login_hint: request.loginHint }),
        // The action by which Keycloak lets people set up a second factor; others ignore it.
        ...(request.action === 'mfa_setup' && { kc_action: 'CONFIGURE_TOTP' }),
      }).href;
    },

    async redeem(provider, grant) {
      const configuration = await configurationOf(provider);
      const callback = new URL(grant.redirectUri);
      callback.searchParams.set('code', grant.code);
      try {
        const tokens = await openid.authorizationCodeGrant(configuration, callback, {
          pkceCodeVerifier: grant.codeVerifier,
          expectedNonce: grant.nonce,
          // The state was burnt before we came here.
          expectedState: openid.skipStateCheck,
          idTokenExpected: true,
        });
        const claims = tokens.claims();
        if (!claims) throw new OidcRejection('identity');
        const needsMore = claims.email === undefined && configuration.serverMetadata().userinfo_endpoint !== undefined;
        const more = needsMore ? await openid.fetchUserInfo(configuration, tokens.access_token, claims.sub) : undefined;
        return identityOf(claims, more ?? claims);
      } catch (error) {
        throw meaningOf(error);
      }
    },
  };
}

function identityOf(claims: openid.IDToken, profile: { readonly [claim: string]: unknown }): OidcIdentity {
  const { amr, acr, auth_time: authTime } = claims;
  if (claims.sub.length === 0 || claims.sub.length > MAXIMUM_CLAIM_LENGTH) throw new OidcRejection('identity');
  return {
    issuer: claims.iss,
    subject: claims.sub,
    email: typeof profile.email === 'string' ? profile.email : null,
    emailVerified: typeof profile.email_verified === 'boolean' ? profile.email_verified : null,
    amr: Array.isArray(amr) ? amr.filter((method) => typeof method === 'string') : [],
    acr: typeof acr === 'string' && acr.length <= MAXIMUM_CLAIM_LENGTH ? acr : null,
    authTime: typeof authTime === 'number' && Number.isSafeInteger(authTime) ? new Date(authTime * 1000) : null,
  };
}

function meaningOf(error: unknown): Error {
  if (error instanceof OidcRejection) return error;
  if (error instanceof openid.ResponseBodyError) {
    return error.error === 'invalid_grant'
      ? new OidcRejection('code', { cause: error })
      : new OidcProviderUnavailable({ cause: error });
  }
  if (error instanceof openid.ClientError && error.code !== undefined && !TRANSPORT_FAILURES.has(error.code)) {
    return new OidcRejection('identity', { cause: error });
  }
  return new OidcProviderUnavailable({ cause: error });
}
