import { canonicalJson, hmacSha256 } from '@gpuaas/kernel';
import { sql } from 'kysely';
import type { Custody } from '../spine/custody.js';
import type { Tx } from '../spine/operation.js';
import { conflict } from '../spine/refusal.js';

/** What a key is good for: twins of an operation share it, other principals and contexts never see it. */
export interface IdempotencyScope {
  readonly principal: string;
  /** one name for all operations that share a handler: the same key on another spelling is the same request */
  readonly operation: string;
  /** the named resources, query and project: the same key on another resource is another request */
  readonly context: string;
  readonly key: string;
}

export interface StoredResponse {
  readonly status: number;
  readonly body: unknown;
  readonly headers: Readonly<Record<string, string>>;
}

export interface KeyRetention {
  readonly keySeconds: number;
  /** a response with a one-time secret is sealed and can be replayed for this long only */
  readonly sealedSeconds: number | null;
}

const SEAL_PURPOSE = 'idempotency';
const SEALED_REPLAY_SECONDS = 900;
const DAY_SECONDS = 86_400;

export function retentionOf(command: {
  readonly sealsResponse?: boolean;
  readonly keepsKeyForMoney?: boolean;
}): KeyRetention {
  return {
    keySeconds: command.keepsKeyForMoney ? 30 * DAY_SECONDS : DAY_SECONDS,
    sealedSeconds: command.sealsResponse ? SEALED_REPLAY_SECONDS : null,
  };
}

/**
 * Remembers what a command answered under a key. Bodies are kept as a keyed hash alone: one may hold a password, and a
 * plain hash of it could be guessed from.
 */
export class IdempotencyStore {
  readonly #custody: Custody;
  readonly #hashKey: Uint8Array;

  constructor(custody: Custody) {
    this.#custody = custody;
    this.#hashKey = custody.deriveKey('idempotency-body');
  }

  /**
   * Claims the key inside the command's transaction, or answers with what an earlier request under it got.
   * A second request waits on the unique index while the first one runs; a first one that rolls back frees the key.
   * Refuses with 409 `idempotency_key_reused` for another body and `idempotent_replay_expired` for an expired secret.
   */
  async claim(
    tx: Tx,
    scope: IdempotencyScope,
    body: unknown,
    now: Date,
    retention: KeyRetention,
  ): Promise<StoredResponse | null> {
    const bodyHash = hmacSha256(this.#hashKey, canonicalJson(body ?? null)).toString('hex');
    const expiresAt = new Date(now.getTime() + retention.keySeconds * 1000);
    const claimed = await sql`
      INSERT INTO idempotency_keys AS held (principal, operation, context, key, body_hash, created_at, expires_at)
      VALUES (${scope.principal}, ${scope.operation}, ${scope.context}, ${scope.key}, ${bodyHash}, ${now}, ${expiresAt})
      ON CONFLICT (principal, operation, context, key) DO UPDATE
        SET body_hash = excluded.body_hash, created_at = excluded.created_at, expires_at = excluded.expires_at,
            status = NULL, response = NULL, sealed_response = NULL, sealed_until = NULL
        WHERE held.expires_at <= ${now}
      RETURNING 1`.execute(tx);
    if (claimed.rows.length === 1) return null;

    const held = await tx
      .selectFrom('idempotency_keys')
      .select(['body_hash', 'status', 'response', 'sealed_response', 'sealed_until'])
      .where('principal', '=', scope.principal)
      .where('operation', '=', scope.operation)
      .where('context', '=', scope.context)
      .where('key', '=', scope.key)
      .executeTakeFirstOrThrow();
    if (held.body_hash !== bodyHash) {
      throw conflict('idempotency_key_reused', {}, 'Idempotency-Key: was used with another request body');
    }
    if (held.status === null) throw new Error('an idempotency key was committed without its response');
    if (held.sealed_response === null) return storedResponse(held.status, held.response);
    if (held.sealed_until === null || held.sealed_until <= now) {
      throw conflict(
        'idempotent_replay_expired',
        {},
        'Idempotency-Key: its response held a secret that is no longer kept',
      );
    }
    return storedResponse(held.status, JSON.parse(this.#custody.openInline(SEAL_PURPOSE, held.sealed_response)));
  }

  /** Keeps the response of a claimed key in the same transaction; a refusal never gets here, so it may be tried again. */
  async keep(
    tx: Tx,
    scope: IdempotencyScope,
    response: StoredResponse,
    now: Date,
    retention: KeyRetention,
  ): Promise<void> {
    const content = JSON.stringify({ body: response.body ?? null, headers: response.headers });
    const sealed = retention.sealedSeconds;
    await tx
      .updateTable('idempotency_keys')
      .set({
        status: response.status,
        response: sealed === null ? content : null,
        sealed_response: sealed === null ? null : this.#custody.sealInline(SEAL_PURPOSE, content),
        sealed_until: sealed === null ? null : new Date(now.getTime() + sealed * 1000),
      })
      .where('principal', '=', scope.principal)
      .where('operation', '=', scope.operation)
      .where('context', '=', scope.context)
      .where('key', '=', scope.key)
      .execute();
  }
}

function storedResponse(status: number, content: unknown): StoredResponse {
  if (content === null || typeof content !== 'object' || !('body' in content) || !('headers' in content)) {
    throw new Error('a stored response has lost its form');
  }
  const headers: Record<string, string> = {};
  if (content.headers !== null && typeof content.headers === 'object') {
    for (const [name, value] of Object.entries(content.headers)) if (typeof value === 'string') headers[name] = value;
  }
  return { status, body: content.body === null ? undefined : content.body, headers };
}
