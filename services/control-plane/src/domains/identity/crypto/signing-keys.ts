import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { type Clock, canonicalJson } from '@gpuaas/kernel';
import { z } from 'zod';
import type { Custody } from '../../../spine/custody.js';
import type { Reader, Tx } from '../../../spine/operation.js';
import { inTransaction } from '../../../spine/transaction.js';
import {
  findTrustedSigningKeys,
  insertSigningKey,
  lockGuard,
  retireSigningKeys,
  type SigningKeyRow,
  stepDownSigningKey,
} from '../store/signing-keys.js';

const SEALING_PURPOSE = 'identity.access-token-key';
/** other processes learn of a revoked key within this time */
const REFRESH_MILLISECONDS = 30_000;
/** the least time between two looks at the database for key ids that this process does not know */
const UNKNOWN_KEY_PAUSE_MILLISECONDS = 100;
const ROTATION_MILLISECONDS = 30 * 24 * 3_600_000;
/** longer than any token lives that the stepped-down key has signed */
const GRACE_MILLISECONDS = 24 * 3_600_000;

export interface SigningKey {
  readonly kid: string;
  readonly privateKey: KeyObject;
}

/** The keys of this site's access tokens: one that signs, and those whose tokens may still be alive. */
export interface SigningKeyRing {
  /** Makes the first key where there is none. */
  signingKey(): Promise<SigningKey>;
  /** undefined for a key that is unknown, retired or revoked */
  verificationKey(kid: string): Promise<KeyObject | undefined>;
  /** Replaces a signing key that has served its time, and forgets those whose last token has expired. */
  rotate(tx: Tx, now: Date): Promise<'kept' | 'rotated'>;
}

const publicJwk = z.object({ kty: z.literal('EC'), crv: z.literal('P-256'), x: z.string(), y: z.string() });

interface LoadedKeys {
  readonly loadedAt: number;
  readonly verifying: ReadonlyMap<string, KeyObject>;
  readonly signing: SigningKey | null;
}

/** Keys are read through `db`, the read-write pool, in short transactions of their own, and kept in memory for a while. */
export function createSigningKeyRing(db: Reader, custody: Custody, clock: Clock): SigningKeyRing {
  let loaded: LoadedKeys | undefined;
  let loading: Promise<LoadedKeys> | undefined;

  function load(): Promise<LoadedKeys> {
    loading ??= findTrustedSigningKeys(db)
      .then((rows) => {
        loaded = readKeys(rows, custody, clock.now().getTime());
        return loaded;
      })
      .finally(() => {
        loading = undefined;
      });
    return loading;
  }

  async function current(): Promise<LoadedKeys> {
    if (loaded === undefined) return load();
    const age = Math.abs(clock.now().getTime() - loaded.loadedAt);
    return age < REFRESH_MILLISECONDS ? loaded : load();
  }

  let nextLook: Promise<LoadedKeys> | undefined;
  /**
   * A look that begins after this call: a key that another process has just made is found. Made-up key ids wait in
   * line for one look together, so that they cost their senders time and the database nothing.
   */
  function lookAgain(): Promise<LoadedKeys> {
    nextLook ??= (async () => {
      await loading?.catch(() => undefined);
      await delay(UNKNOWN_KEY_PAUSE_MILLISECONDS);
      nextLook = undefined;
      await loading?.catch(() => undefined);
      return load();
    })();
    return nextLook;
  }

  return {
    async signingKey() {
      const keys = await current();
      if (keys.signing) return keys.signing;
      await inTransaction(db, (tx) => ensureActiveKey(tx, custody, clock.now()));
      const { signing } = await load();
      if (signing === null) throw new Error('the signing key for access tokens vanished while it was made');
      return signing;
    },
    async verificationKey(kid) {
      const keys = await current();
      return keys.verifying.get(kid) ?? (await lookAgain()).verifying.get(kid);
    },
    async rotate(tx, now) {
      await lockGuard(tx, 'token_signing_keys');
      await retireSigningKeys(tx, new Date(now.getTime() - GRACE_MILLISECONDS), now);
      const rows = await findTrustedSigningKeys(tx);
      const active = rows.find((row) => row.status === 'active');
      const since = active?.activatedAt?.getTime() ?? 0;
      if (active && now.getTime() - since < ROTATION_MILLISECONDS) return 'kept';
      if (active) await stepDownSigningKey(tx, active.kid, now);
      await makeKey(tx, custody, now);
      return 'rotated';
    },
  };
}

async function ensureActiveKey(tx: Tx, custody: Custody, now: Date): Promise<void> {
  await lockGuard(tx, 'token_signing_keys');
  const rows = await findTrustedSigningKeys(tx);
  if (rows.some((row) => row.status === 'active')) return;
  await makeKey(tx, custody, now);
}

async function makeKey(tx: Tx, custody: Custody, now: Date): Promise<void> {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const { kty, crv, x, y } = publicJwk.parse(publicKey.export({ format: 'jwk' }));
  await insertSigningKey(tx, {
    // RFC 7638: the thumbprint is taken over these four members alone
    kid: createHash('sha256').update(canonicalJson({ crv, kty, x, y })).digest('base64url'),
    publicJwk: { kty, crv, x, y },
    privateSealed: custody.sealInline(SEALING_PURPOSE, privateKey.export({ format: 'der', type: 'pkcs8' })),
    now,
  });
}

function readKeys(rows: readonly SigningKeyRow[], custody: Custody, loadedAt: number): LoadedKeys {
  const verifying = new Map<string, KeyObject>();
  let signing: SigningKey | null = null;
  for (const row of rows) {
    verifying.set(row.kid, createPublicKey({ key: publicJwk.parse(row.publicJwk), format: 'jwk' }));
    if (row.status !== 'active') continue;
    const der = Buffer.from(custody.openInlineBytes(SEALING_PURPOSE, row.privateSealed));
    signing = { kid: row.kid, privateKey: createPrivateKey({ key: der, format: 'der', type: 'pkcs8' }) };
  }
  return { loadedAt, verifying, signing };
}
