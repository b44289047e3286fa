/** A provider as the client needs it to speak to it. */
export interface OidcProviderAccess {
  /** changes when the configuration does: what was cached of a provider is keyed by it */
  readonly revision: string;
  readonly issuer: string;
  readonly clientId: string;
  /** null: a public client */
  readonly clientSecret: string | null;
}

/** What a provider vouches for, from an ID token that has been checked. */
export interface OidcIdentity {
  /** equal to the configured issuer, byte by byte */
  readonly issuer: string;
  readonly subject: string;
  /** as the provider writes it */
  readonly email: string | null;
  /** null where the provider does not say */
  readonly emailVerified: boolean | null;
  readonly amr: readonly string[];
  readonly acr: string | null;
  readonly authTime: Date | null;
}

/**
 * Speaks OpenID Connect to outside providers: discovery, authorization code with PKCE, and every check of the ID
 * token (signature, exact issuer, audience, nonce, times). Both throw OidcProviderUnavailable where the provider
 * cannot be reached or does not speak the protocol.
 */
export interface OidcClient {
  /** Where to send the browser. */
  authorizationUrl(
    provider: OidcProviderAccess,
    request: {
      readonly redirectUri: string;
      readonly state: string;
      readonly nonce: string;
      readonly codeChallenge: string;
      readonly loginHint: string | null;
      readonly action: 'mfa_setup' | null;
    },
  ): Promise<string>;
  /** Trades a code for the identity behind it; throws OidcRejection. */
  redeem(
    provider: OidcProviderAccess,
    grant: {
      readonly redirectUri: string;
      readonly code: string;
      readonly codeVerifier: string;
      readonly nonce: string;
    },
  ): Promise<OidcIdentity>;
}

/** The provider refused the code, or what it answered proves nothing. */
export class OidcRejection extends Error {
  constructor(
    readonly what: 'code' | 'identity',
    options?: { cause?: unknown },
  ) {
    super(what === 'code' ? 'the provider refused the code' : 'the answer of the provider proves no identity', options);
    this.name = 'OidcRejection';
  }
}

export class OidcProviderUnavailable extends Error {
  constructor(options?: { cause?: unknown }) {
    super('the identity provider did not answer as one', options);
    this.name = 'OidcProviderUnavailable';
  }
}
