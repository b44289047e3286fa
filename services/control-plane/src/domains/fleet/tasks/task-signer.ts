import type { Clock } from '@gpuaas/kernel';
import { formatSigningKeys } from '@gpuaas/node-protocol';
import type { Custody } from '../../../spine/custody.js';
import type { Reader } from '../../../spine/operation.js';
import { ensureSigningKey, type SigningKey, verificationKeys } from '../../../spine/signing-keys.js';

const PURPOSE = 'node_task';
/** After that long a process looks whether the keys were changed. */
const CACHE_MILLISECONDS = 60_000;

interface Keys {
  readonly active: SigningKey;
  readonly trusted: string;
  readonly loadedAt: number;
}

/** The Ed25519 key that tasks are signed with, made on first use, and the list of keys that agents are told to trust. */
export class TaskSigner {
  readonly #source: { readonly db: Reader; readonly custody: Custody; readonly clock: Clock };
  #keys: Promise<Keys> | null = null;

  constructor(dependencies: { readonly database: Reader; readonly custody: Custody; readonly clock: Clock }) {
    this.#source = { db: dependencies.database, custody: dependencies.custody, clock: dependencies.clock };
  }

  async activeKey(): Promise<SigningKey> {
    return (await this.#current()).active;
  }

  /** `kid:base64,…` of the keys that are staged, active or in grace: what a host is given. */
  async trustedKeys(): Promise<string> {
    return (await this.#current()).trusted;
  }

  async #current(): Promise<Keys> {
    const known = this.#keys;
    const loaded = known === null ? null : await known.catch(() => null);
    if (loaded !== null && Math.abs(performance.now() - loaded.loadedAt) < CACHE_MILLISECONDS) return loaded;
    // Callers that come together share one look; whoever finds that another has begun takes that one.
    if (this.#keys === known) this.#keys = this.#load();
    return this.#keys ?? this.#load();
  }

  async #load(): Promise<Keys> {
    const active = await ensureSigningKey(this.#source, PURPOSE, 'EdDSA');
    const trusted = await verificationKeys(this.#source.db, PURPOSE);
    return {
      active,
      trusted: formatSigningKeys(trusted.map((key) => [key.keyId, key.publicKey] as const)),
      loadedAt: performance.now(),
    };
  }
}
