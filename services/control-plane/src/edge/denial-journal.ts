import { addressBucket, errorChain } from '@gpuaas/kernel';
import { LRUCache } from 'lru-cache';
import type { AuditEntry } from '../spine/audit.js';
import type { CallContext } from '../spine/operation.js';
import { principalKey } from '../spine/principal.js';

/** Writes a refusal down, at most once an actor, action and minute over all processes. */
export type RecordDenial = (
  ctx: CallContext,
  denial: Omit<AuditEntry, 'result'> & { readonly who?: string },
) => Promise<void>;

const MINUTE_MILLISECONDS = 60_000;
const REMEMBERED = 50_000;

/** Puts refusals of the edge on record; what this process has recorded in this minute does not reach the database again. */
export class DenialJournal {
  readonly #record: RecordDenial;
  readonly #recent = new LRUCache<string, true>({ max: REMEMBERED });

  constructor(record: RecordDenial) {
    this.#record = record;
  }

  /** Never fails the request that it is about: a refusal stands whether it could be written down or not. */
  async note(
    ctx: CallContext,
    action: 'authz.deny' | 'rate_limit.block',
    operationId: string,
    metadata: Readonly<Record<string, unknown>>,
  ): Promise<void> {
    const who =
      ctx.principal.kind === 'anonymous' ? `address:${addressBucket(ctx.actorIp)}` : principalKey(ctx.principal);
    const minute = Math.floor(ctx.clock.now().getTime() / MINUTE_MILLISECONDS);
    const name = `${minute} ${action} ${who}`;
    if (this.#recent.has(name)) return;
    this.#recent.set(name, true);
    try {
      await this.#record(ctx, { action, targetType: 'operation', targetId: operationId, metadata, who });
    } catch (error) {
      this.#recent.delete(name);
      ctx.log.warn({ error: errorChain(error) }, 'a refusal could not be recorded');
    }
  }
}
