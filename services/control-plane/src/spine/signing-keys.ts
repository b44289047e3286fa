import { createPrivateKey, createPublicKey, generateKeyPairSync, type JsonWebKey, type KeyObject } from 'node:crypto';
import { type Clock, sha256Hex } from '@gpuaas/kernel';
import { sql } from 'kysely';
import type { Custody } from './custody.js';
import type { Reader } from './operation.js';
import { inTransaction } from './transaction.js';

export type SigningAlgorithm = 'ES256' | 'EdDSA';

export interface VerificationKey {
  readonly keyId: string;
  readonly algorithm: SigningAlgorithm;
  readonly publicJwk: JsonWebKey;
  readonly publicKey: KeyObject;
  readonly status: 'staged' | 'active' | 'grace';
}

export interface SigningKey extends VerificationKey {
  readonly privateKey: KeyObject;
}

/** The signing key of one purpose, made on first use and sealed; processes that start together agree on one. */
export async function ensureSigningKey(
  { db, custody, clock }: { readonly db: Reader; readonly custody: Custody; readonly clock: Clock },
  purpose: string,
  algorithm: SigningAlgorithm,
): Promise<SigningKey> {
  const row = await inTransaction(db, async (tx) => {
    await sql`SELECT pg_advisory_xact_lock(hashtextextended(${`ensure_signing_key:${purpose}`}, 0))`.execute(tx);
    const found = await tx
      .selectFrom('signing_keys')
      .select(['key_id', 'algorithm', 'public_jwk', 'private_sealed'])
      .where('purpose', '=', purpose)
      .where('status', '=', 'active')
      .executeTakeFirst();
    if (found) return found;
    const { publicKey, privateKey } =
      algorithm === 'ES256' ? generateKeyPairSync('ec', { namedCurve: 'P-256' }) : generateKeyPairSync('ed25519');
    const publicJwk = publicKey.export({ format: 'jwk' });
    const made = {
      key_id: sha256Hex(publicKey.export({ type: 'spki', format: 'der' })).slice(0, 32),
      algorithm,
      public_jwk: publicJwk,
      private_sealed: custody.sealInline(sealPurpose(purpose), privateKey.export({ type: 'pkcs8', format: 'der' })),
    };
    await tx
      .insertInto('signing_keys')
      .values({ ...made, public_jwk: JSON.stringify(publicJwk), purpose, status: 'active', activated_at: clock.now() })
      .execute();
    return made;
  });
  if (row.algorithm !== algorithm) throw new Error(`the key for ${purpose} is ${row.algorithm}, not ${algorithm}`);
  const privateKey = createPrivateKey({
    key: Buffer.from(custody.openInlineBytes(sealPurpose(purpose), row.private_sealed)),
    format: 'der',
    type: 'pkcs8',
  });
  const publicKey = createPublicKey(privateKey);
  return {
    keyId: row.key_id,
    algorithm,
    publicJwk: publicKey.export({ format: 'jwk' }),
    publicKey,
    privateKey,
    status: 'active',
  };
}

/** The keys whose signatures count for a purpose: the active one, the next one and those in their grace time. */
export async function verificationKeys(db: Reader, purpose: string): Promise<readonly VerificationKey[]> {
  const rows = await db
    .selectFrom('signing_keys')
    .select(['key_id', 'algorithm', 'public_jwk', 'status'])
    .where('purpose', '=', purpose)
    .where('status', 'in', ['staged', 'active', 'grace'])
    .orderBy('created_at', 'desc')
    .execute();
  return rows.map((row): VerificationKey => {
    const { algorithm, status } = row;
    if (algorithm !== 'ES256' && algorithm !== 'EdDSA') throw new Error(`unknown algorithm of key ${row.key_id}`);
    if (status !== 'staged' && status !== 'active' && status !== 'grace') throw new Error('unreachable status');
    if (row.public_jwk === null || typeof row.public_jwk !== 'object')
      throw new Error(`key ${row.key_id} has no public part`);
    const publicKey = createPublicKey({ key: { ...row.public_jwk }, format: 'jwk' });
    return { keyId: row.key_id, algorithm, publicJwk: publicKey.export({ format: 'jwk' }), publicKey, status };
  });
}

const sealPurpose = (purpose: string): string => `signing_key:${purpose}`;
