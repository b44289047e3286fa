import { createHash, sign, verify } from 'node:crypto';
import type { Clock } from '@gpuaas/kernel';
import { LRUCache } from 'lru-cache';
import { z } from 'zod';
import { type Refusal, refuse } from '../../../spine/refusal.js';
import type { SigningKeyRing } from './signing-keys.js';

export interface TokenAudience {
  readonly issuer: string;
  readonly audience: string;
}

const registered = {
  iss: z.string(),
  aud: z.string(),
  iat: z.number().int(),
  exp: z.number().int(),
  jti: z.string(),
};

const userClaims = z.object({
  ...registered,
  actor_type: z.literal('user'),
  sub: z.uuid(),
  sid: z.uuid(),
  org_id: z.uuid().optional(),
  amr: z.array(z.string()),
  acr: z.string().optional(),
  auth_time: z.number().int(),
});

const serviceAccountClaims = z.object({
  ...registered,
  actor_type: z.literal('service_account'),
  sub: z.uuid(),
  org_id: z.uuid(),
  project_id: z.uuid(),
  scope: z.array(z.string()),
});

const sharedRuntimeOperatorClaims = z.object({
  ...registered,
  actor_type: z.literal('shared_runtime_operator'),
  sub: z.uuid(),
  org_id: z.uuid(),
  shared_runtime_id: z.uuid(),
  scope: z.array(z.string()).optional(),
});

const accessClaims = z.discriminatedUnion('actor_type', [
  userClaims,
  serviceAccountClaims,
  sharedRuntimeOperatorClaims,
]);

/** What a token says about itself. Rights are not among it: they are read from the database at each request. */
export type AccessClaims = z.infer<typeof accessClaims>;
export type UserClaims = z.infer<typeof userClaims>;
export type ServiceAccountClaims = z.infer<typeof serviceAccountClaims>;

/** Claims of a new token; the issuer, the audience and the times are added. */
export type NewClaims = AccessClaims extends infer Claims
  ? Claims extends AccessClaims
    ? Omit<Claims, 'iss' | 'aud' | 'iat' | 'exp'>
    : never
  : never;

export interface AccessTokens {
  /** A signed token (JWS, ES256) that lives for `lifetimeSeconds` from now. */
  sign(claims: NewClaims, lifetimeSeconds: number): Promise<string>;
  /** The claims of a token that we signed and that has not expired; refuses with 401 `token_invalid` or `token_expired`. */
  verify(token: string): Promise<AccessClaims>;
}

const MAXIMUM_TOKEN_LENGTH = 4096;
const REMEMBERED_TOKENS = 50_000;
/** processes of one site may disagree about the time by this much */
const CLOCK_TOLERANCE_SECONDS = 60;

interface RememberedToken {
  readonly kid: string;
  readonly claims: AccessClaims;
}

/**
 * Tokens of this site. A signature is verified once a process and then remembered by the token's hash, for as long as
 * its key is one we trust and the token has not expired.
 */
export function createAccessTokens(ring: SigningKeyRing, site: TokenAudience, clock: Clock): AccessTokens {
  const remembered = new LRUCache<string, RememberedToken>({ max: REMEMBERED_TOKENS });

  async function check(token: string): Promise<RememberedToken> {
    const parts = token.length <= MAXIMUM_TOKEN_LENGTH ? token.split('.') : [];
    const [header, payload, signature] = parts;
    if (parts.length !== 3 || !header || !payload || !signature) throw invalidToken();
    const kid = keyIdOf(header);
    const key = kid === null ? undefined : await ring.verificationKey(kid);
    if (kid === null || key === undefined) throw invalidToken();
    const genuine = verify(
      'sha256',
      Buffer.from(`${header}.${payload}`, 'ascii'),
      { key, dsaEncoding: 'ieee-p1363' },
      Buffer.from(signature, 'base64url'),
    );
    if (!genuine) throw invalidToken();
    const claims = accessClaims.safeParse(jsonOf(payload));
    if (!claims.success) throw invalidToken();
    if (claims.data.iss !== site.issuer || claims.data.aud !== site.audience) throw invalidToken();
    return { kid, claims: claims.data };
  }

  return {
    async sign(claims, lifetimeSeconds) {
      const { kid, privateKey } = await ring.signingKey();
      const iat = Math.floor(clock.now().getTime() / 1000);
      const header = encode({ alg: 'ES256', typ: 'at+jwt', kid });
      const payload = encode({ ...claims, iss: site.issuer, aud: site.audience, iat, exp: iat + lifetimeSeconds });
      const content = `${header}.${payload}`;
      const signature = sign('sha256', Buffer.from(content, 'ascii'), { key: privateKey, dsaEncoding: 'ieee-p1363' });
      return `${content}.${signature.toString('base64url')}`;
    },
    async verify(token) {
      const name = createHash('sha256').update(token).digest('base64');
      const known = remembered.get(name);
      if (known && (await ring.verificationKey(known.kid)) === undefined) {
        // its key is trusted no more
        remembered.delete(name);
        throw invalidToken();
      }
      const checked = known ?? (await check(token));
      const now = clock.now().getTime() / 1000;
      if (now >= checked.claims.exp) {
        remembered.delete(name);
        throw refuse('token_expired', undefined, 'the access token has expired');
      }
      if (checked.claims.iat > now + CLOCK_TOLERANCE_SECONDS) throw invalidToken();
      if (!known) remembered.set(name, checked);
      return checked.claims;
    },
  };
}

/** The one answer to every token that is not good, so that nobody learns which part of it was not. */
export function invalidToken(): Refusal {
  return refuse('token_invalid', undefined, 'the token is not valid');
}

const headerShape = z.object({ alg: z.literal('ES256'), kid: z.string().min(1).max(128) });

function keyIdOf(header: string): string | null {
  const parsed = headerShape.safeParse(jsonOf(header));
  return parsed.success ? parsed.data.kid : null;
}

function jsonOf(part: string): unknown {
  try {
    return JSON.parse(Buffer.from(part, 'base64url').toString('utf8'));
  } catch {
    return undefined;
  }
}

function encode(value: unknown): string {
  return Buffer.from(JSON.stringify(value), 'utf8').toString('base64url');
}
