import type { Reader, Tx } from '../../../spine/operation.js';

const PURPOSE = 'access_token';

export interface SigningKeyRow {
  readonly kid: string;
  readonly status: 'active' | 'grace';
  readonly publicJwk: unknown;
  readonly privateSealed: string;
  readonly activatedAt: Date | null;
}

/** The keys whose signatures count: the one that signs and those that did until lately. */
export async function findTrustedSigningKeys(reader: Reader): Promise<readonly SigningKeyRow[]> {
  const rows = await reader
    .selectFrom('signing_keys')
    .select(['key_id', 'status', 'public_jwk', 'private_sealed', 'activated_at'])
    .where('purpose', '=', PURPOSE)
    .where('status', 'in', ['active', 'grace'])
    .execute();
  return rows.flatMap((row) =>
    row.status === 'active' || row.status === 'grace'
      ? [
          {
            kid: row.key_id,
            status: row.status,
            publicJwk: row.public_jwk,
            privateSealed: row.private_sealed,
            activatedAt: row.activated_at,
          },
        ]
      : [],
  );
}

export async function insertSigningKey(
  tx: Tx,
  key: { kid: string; publicJwk: object; privateSealed: string; now: Date },
): Promise<void> {
  await tx
    .insertInto('signing_keys')
    .values({
      key_id: key.kid,
      purpose: PURPOSE,
      algorithm: 'ES256',
      public_jwk: JSON.stringify(key.publicJwk),
      private_sealed: key.privateSealed,
      status: 'active',
      created_at: key.now,
      activated_at: key.now,
    })
    .execute();
}

/** From here on the key verifies and does not sign; `retired_at` notes since when. */
export async function stepDownSigningKey(tx: Tx, kid: string, now: Date): Promise<void> {
  await tx
    .updateTable('signing_keys')
    .set({ status: 'grace', retired_at: now })
    .where('key_id', '=', kid)
    .where('status', '=', 'active')
    .execute();
}

/** Ends the trust in keys that stepped down before `steppedDownBefore`. */
export async function retireSigningKeys(tx: Tx, steppedDownBefore: Date, now: Date): Promise<void> {
  await tx
    .updateTable('signing_keys')
    .set({ status: 'retired', retired_at: now })
    .where('purpose', '=', PURPOSE)
    .where('status', '=', 'grace')
    .where('retired_at', '<', steppedDownBefore)
    .execute();
}

export type GuardName = 'platform_superadmins' | 'token_signing_keys';

/** Holds a rule over many rows until commit: whoever changes what it counts must hold it too. */
export async function lockGuard(tx: Tx, name: GuardName): Promise<void> {
  await tx.selectFrom('identity_guards').select('name').where('name', '=', name).forUpdate().executeTakeFirstOrThrow();
}
