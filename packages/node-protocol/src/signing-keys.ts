import { createPublicKey, type KeyObject } from 'node:crypto';

/** The public keys that an agent accepts task signatures from, by key id. */
export type SigningKeys = ReadonlyMap<string, KeyObject>;

/** Key ids stand before a dot in signatures and before a colon in the key list, so they hold neither. */
export const SIGNING_KEY_ID = /^[A-Za-z0-9_-]{1,64}$/;

// RFC 8410: every Ed25519 public key in SPKI form is this prefix and the 32 bytes of the key.
const SPKI_PREFIX = Buffer.from('302a300506032b6570032100', 'hex');
const RAW_KEY_BYTES = 32;

export type SigningKeysResult = { ok: true; keys: SigningKeys } | { ok: false; problem: string };

/**
 * Reads `kid:base64,kid:base64,…`, each key the 32 raw bytes of an Ed25519 public key.
 * A list that is empty, names an id twice or holds anything else is refused as a whole.
 */
export function parseSigningKeys(text: string): SigningKeysResult {
  const keys = new Map<string, KeyObject>();
  for (const entry of text.split(',').map((part) => part.trim())) {
    if (entry === '') continue;
    const colon = entry.indexOf(':');
    const keyId = entry.slice(0, colon);
    const encoded = entry.slice(colon + 1);
    if (colon < 1 || !SIGNING_KEY_ID.test(keyId)) return { ok: false, problem: 'an entry has no valid key id' };
    if (keys.has(keyId)) return { ok: false, problem: `key id ${keyId} is named twice` };
    const raw = Buffer.from(encoded, 'base64');
    if (raw.length !== RAW_KEY_BYTES || raw.toString('base64').replace(/=+$/, '') !== encoded.replace(/=+$/, '')) {
      return { ok: false, problem: `key ${keyId} is not ${RAW_KEY_BYTES} bytes in base64` };
    }
    keys.set(keyId, createPublicKey({ key: Buffer.concat([SPKI_PREFIX, raw]), format: 'der', type: 'spki' }));
  }
  return keys.size === 0 ? { ok: false, problem: 'the list holds no key' } : { ok: true, keys };
}

/** The list that parseSigningKeys reads. Throws a TypeError for an invalid id or a key that is not Ed25519. */
export function formatSigningKeys(keys: Iterable<readonly [keyId: string, publicKey: KeyObject]>): string {
  return [...keys]
    .map(([keyId, key]) => {
      if (!SIGNING_KEY_ID.test(keyId)) throw new TypeError(`key id ${JSON.stringify(keyId)} is not valid`);
      if (key.asymmetricKeyType !== 'ed25519') throw new TypeError(`key ${keyId} is not an Ed25519 key`);
      const publicKey = key.type === 'public' ? key : createPublicKey(key);
      const der = publicKey.export({ format: 'der', type: 'spki' });
      return `${keyId}:${der.subarray(SPKI_PREFIX.length).toString('base64')}`;
    })
    .join(',');
}
