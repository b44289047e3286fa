import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto';
import { link, readFile, rm, writeFile } from 'node:fs/promises';
import type { Id } from '@gpuaas/kernel';
import { newId, sha256Hex } from '@gpuaas/kernel';
import type { Reader, Tx } from './operation.js';

/** Names a secret that the custody holds. Worthless without the custody's key. */
export type SecretRef = Id<'secret'>;

/** A key that seals, or that may still open what it once sealed. */
export interface CustodyKey {
  /** part of every sealed form, so that a rotated custody knows which key to take */
  readonly id: string;
  /** 32 bytes */
  readonly bytes: Uint8Array;
}

/**
 * Keeps secrets: what it returns is safe to store and tells nothing. A sealed form opens only under the purpose that
 * it was sealed for, and one that was altered, or whose key is gone, does not open at all.
 */
export interface Custody {
  /** Stores a secret and returns its reference, in the caller's transaction. */
  seal(tx: Tx, purpose: string, secret: string | Uint8Array): Promise<SecretRef>;
  /** Throws a CustodyError for a secret that is unknown, destroyed, altered, or kept for another purpose. */
  open(reader: Reader, purpose: string, ref: SecretRef): Promise<Uint8Array>;
  /** Forgets the secret; the reference stays and opens nothing. May be repeated. */
  destroy(tx: Tx, ref: SecretRef): Promise<void>;
  /** Seals into a text of its own, for a secret that lives in the row that needs it. */
  sealInline(purpose: string, secret: string | Uint8Array): string;
  openInline(purpose: string, sealed: string): string;
  openInlineBytes(purpose: string, sealed: string): Uint8Array;
  /** 32 bytes for one purpose, the same in every process with the same key; for signatures that must outlive it. */
  deriveKey(purpose: string): Uint8Array;
}

export class CustodyError extends Error {
  constructor(message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'CustodyError';
  }
}

const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const FORM = 'v1';

/**
 * The default custody: AES-256-GCM with a random nonce; the purpose (and for stored secrets the reference) is
 * authenticated. The first key seals, all of them open: to rotate, put a new key in front and keep the old one.
 */
export function createCustody(keys: readonly [CustodyKey, ...CustodyKey[]]): Custody {
  for (const key of keys) {
    if (key.bytes.length !== KEY_BYTES) throw new CustodyError(`custody key ${key.id} must have ${KEY_BYTES} bytes`);
    if (!/^[A-Za-z0-9_-]{1,40}$/.test(key.id)) throw new CustodyError('a custody key has an id that cannot be written');
  }
  const byId = new Map(keys.map((key) => [key.id, key]));
  const [sealing] = keys;

  const encrypt = (bound: string, secret: string | Uint8Array): Buffer => {
    const nonce = randomBytes(NONCE_BYTES);
    const cipher = createCipheriv('aes-256-gcm', sealing.bytes, nonce);
    cipher.setAAD(Buffer.from(bound, 'utf8'));
    const text = typeof secret === 'string' ? Buffer.from(secret, 'utf8') : secret;
    return Buffer.concat([nonce, cipher.update(text), cipher.final(), cipher.getAuthTag()]);
  };

  const decrypt = (bound: string, keyId: string, sealed: Buffer): Buffer => {
    const key = byId.get(keyId);
    if (!key) throw new CustodyError(`the custody has no key ${keyId}`);
    if (sealed.length < NONCE_BYTES + TAG_BYTES) throw new CustodyError('a sealed secret is too short');
    const decipher = createDecipheriv('aes-256-gcm', key.bytes, sealed.subarray(0, NONCE_BYTES), {
      authTagLength: TAG_BYTES,
    });
    decipher.setAAD(Buffer.from(bound, 'utf8'));
    decipher.setAuthTag(sealed.subarray(-TAG_BYTES));
    try {
      return Buffer.concat([decipher.update(sealed.subarray(NONCE_BYTES, -TAG_BYTES)), decipher.final()]);
    } catch (error) {
      throw new CustodyError('a sealed secret was altered, or was sealed for another purpose', { cause: error });
    }
  };

  // The separator cannot be part of a reference, so no two pairs of purpose and reference make the same text.
  const boundTo = (purpose: string, ref: string): string => `${ref}\n${purpose}`;

  const openInlineBytes = (purpose: string, sealed: string): Uint8Array => {
    const [form, keyId, content, ...rest] = sealed.split('.');
    if (form !== FORM || keyId === undefined || content === undefined || rest.length > 0) {
      throw new CustodyError('this is not a sealed secret');
    }
    return decrypt(boundTo(purpose, ''), keyId, Buffer.from(content, 'base64url'));
  };

  return {
    async seal(tx, purpose, secret) {
      const id = newId<'secret'>();
      await tx
        .insertInto('custody_secrets')
        .values({ id, purpose, key_id: sealing.id, sealed: encrypt(boundTo(purpose, id), secret) })
        .execute();
      return id;
    },
    async open(reader, purpose, ref) {
      const row = await reader
        .selectFrom('custody_secrets')
        .select(['key_id', 'sealed'])
        .where('id', '=', ref)
        .executeTakeFirst();
      if (!row) throw new CustodyError(`the custody knows no secret ${ref}`);
      if (row.sealed === null) throw new CustodyError(`secret ${ref} was destroyed`);
      return decrypt(boundTo(purpose, ref), row.key_id, row.sealed);
    },
    async destroy(tx, ref) {
      await tx
        .updateTable('custody_secrets')
        .set((eb) => ({ sealed: null, destroyed_at: eb.fn<Date>('clock_timestamp') }))
        .where('id', '=', ref)
        .where('destroyed_at', 'is', null)
        .execute();
    },
    sealInline: (purpose, secret) =>
      `${FORM}.${sealing.id}.${encrypt(boundTo(purpose, ''), secret).toString('base64url')}`,
    openInline: (purpose, sealed) => Buffer.from(openInlineBytes(purpose, sealed)).toString('utf8'),
    openInlineBytes,
    // From the oldest key, so that a rotation does not change what was derived.
    deriveKey: (purpose) =>
      new Uint8Array(
        hkdfSync('sha256', keys[keys.length - 1]?.bytes ?? sealing.bytes, '', `derive:${purpose}`, KEY_BYTES),
      ),
  };
}

/**
 * Reads the keys of `file`, one a line as 64 hex digits, the sealing one first; a missing file is made with a random
 * key and mode 0600. Processes that start together agree on one key.
 */
export async function custodyKeysFromFile(file: string): Promise<[CustodyKey, ...CustodyKey[]]> {
  try {
    return parseCustodyKeys(await readFile(file, 'utf8'));
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
  }
  const temporary = `${file}.${process.pid}.${randomBytes(4).toString('hex')}`;
  await writeFile(temporary, `${randomBytes(KEY_BYTES).toString('hex')}\n`, { mode: 0o600, flush: true });
  try {
    // A link, unlike a rename, fails when somebody else was first; then theirs is the key.
    await link(temporary, file);
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error;
  } finally {
    await rm(temporary, { force: true });
  }
  return parseCustodyKeys(await readFile(file, 'utf8'));
}

/** Keys out of a text of 64-digit hex words; a key's id follows from the key, so it need not be written down. */
export function parseCustodyKeys(text: string): [CustodyKey, ...CustodyKey[]] {
  const words = text.split(/[\s,]+/).filter((word) => word !== '');
  const keys = words.map((word): CustodyKey => {
    if (!/^[0-9a-f]{64}$/i.test(word)) throw new CustodyError('a custody key must be 64 hex digits');
    const bytes = Buffer.from(word, 'hex');
    return { id: sha256Hex(bytes).slice(0, 12), bytes };
  });
  const [first, ...others] = keys;
  if (!first) throw new CustodyError('there is no custody key');
  return [first, ...others];
}
