import type { Readable } from 'node:stream';
import type {
  Domain,
  OperationId,
  PathParameters,
  QueryParameters,
  RequestBody,
  SuccessResponse,
} from '@gpuaas/contract';
import type { Clock, Logger, TenantId, TraceContext } from '@gpuaas/kernel';
import type { Kysely, Transaction } from 'kysely';
import type { CursorCodec } from './cursors.js';
import type { Database } from './database.generated.js';
import type { Principal, ProjectScope } from './principal.js';

/** A read-write transaction. A function that takes one does its work inside it and leaves the commit to the caller. */
export type Tx = Transaction<Database>;
/** Anything that can run a query: a transaction or the pool. Store functions that only read take this. */
export type Reader = Kysely<Database>;

/** Who asks, where, and under which ids; the same for a request and for work that follows from it. */
export interface CallContext {
  readonly principal: Principal;
  /** one id a request */
  readonly requestId: string;
  /** one id for everything that follows from the first cause; in audit, events, tasks, logs */
  readonly correlationId: string;
  readonly trace: TraceContext;
  readonly clock: Clock;
  readonly log: Logger;
  readonly actorIp: string | null;
  readonly userAgent: string | null;
}

/** What the edge has established before an operation runs. */
export interface RequestContext extends CallContext {
  /** from X-Project-ID or the path's project_id; access is already proven */
  readonly project: ProjectScope | null;
  /** from X-Tenant-ID, the path's org_id, or the principal's home tenant */
  readonly tenantId: TenantId | null;
  readonly idempotencyKey: string | null;
  readonly cursors: CursorCodec;
}

export interface CommandContext extends RequestContext {
  /** Runs after the commit and never after a rollback: wake-ups only, nothing that must not be lost. */
  afterCommit(run: () => void): void;
}

/** Everything validated: parameters coerced, defaults applied, unknown body keys refused. */
export interface OperationInput<Id extends OperationId> {
  readonly path: PathParameters<Id>;
  readonly query: QueryParameters<Id>;
  readonly body: RequestBody<Id>;
  /** lower-case names; only for headers that the contract does not model */
  readonly headers: Readonly<Record<string, string | undefined>>;
}

/** A body that is not JSON, or too big to build in memory. */
export interface RawResponse {
  readonly status: 200;
  readonly contentType: string;
  readonly content: string | Uint8Array | Readable;
  readonly headers?: Readonly<Record<string, string>>;
}

export type OperationResponse<Id extends OperationId> =
  | (SuccessResponse<Id> & { readonly headers?: Readonly<Record<string, string>> })
  | RawResponse;

/**
 * Changes something: idempotency row, locks, rule, change, audit, outbox and stored response in ONE transaction.
 * `prepare` runs before it, for slow work that needs no lock (hashing a password, asking an outside system).
 */
export interface Command<Id extends OperationId, Prepared = undefined> {
  readonly kind: 'command';
  /** the stored response holds a one-time secret: sealed, and replayed for 15 minutes only */
  readonly sealsResponse?: boolean;
  /** money: the key is kept for 30 days instead of 24 hours */
  readonly keepsKeyForMoney?: boolean;
  /** login, refresh and token minting: an Idempotency-Key has no effect */
  readonly ignoresIdempotencyKey?: boolean;
  prepare?(input: OperationInput<Id> & { readonly db: Reader; readonly ctx: RequestContext }): Promise<Prepared>;
  run(
    input: OperationInput<Id> & { readonly tx: Tx; readonly ctx: CommandContext; readonly prepared: Prepared },
  ): Promise<OperationResponse<Id>>;
}

/** Reads, on a read-only connection that may be a replica. */
export interface Query<Id extends OperationId> {
  readonly kind: 'query';
  run(
    input: OperationInput<Id> & { readonly db: Reader; readonly ctx: RequestContext },
  ): Promise<OperationResponse<Id>>;
}

/** Manages its own connections: a held poll, a login that must count its failures, a probe. */
export interface Exchange<Id extends OperationId> {
  readonly kind: 'exchange';
  run(
    input: OperationInput<Id> & {
      readonly ctx: RequestContext;
      /** fires when the caller goes away or the server shuts down */
      readonly signal: AbortSignal;
      /** raw bytes of the body, where a signature covers them */
      readonly rawBody: Uint8Array | null;
    },
  ): Promise<OperationResponse<Id>>;
}

// biome-ignore lint/suspicious/noExplicitAny: the map's values differ in what `prepare` hands to `run`; each is checked where it is defined
export type Handler<Id extends OperationId> = Command<Id, any> | Query<Id> | Exchange<Id>;

/** operationId → handler; an operation without an entry answers 501. */
export type OperationHandlers = { readonly [Id in OperationId]?: Handler<Id> };

/** `export const releaseAllocation = command<'releaseAllocation'>(async ({ tx, ctx, path }) => …)` */
export function command<Id extends OperationId>(
  run: Command<Id>['run'],
  options: Omit<Command<Id>, 'kind' | 'run' | 'prepare'> = {},
): Command<Id> {
  return { kind: 'command', run, ...options };
}

/** A command with slow work before its transaction; `run` receives what `prepare` returned. */
export function preparedCommand<Id extends OperationId, Prepared>(
  parts: Omit<Command<Id, Prepared>, 'kind'> & Required<Pick<Command<Id, Prepared>, 'prepare'>>,
): Command<Id, Prepared> {
  return { kind: 'command', ...parts };
}

export function query<Id extends OperationId>(run: Query<Id>['run']): Query<Id> {
  return { kind: 'query', run };
}

export function exchange<Id extends OperationId>(run: Exchange<Id>['run']): Exchange<Id> {
  return { kind: 'exchange', run };
}

/** An input whose types the validators have established and the compiler no longer follows. */
export interface ErasedInput {
  readonly path: Readonly<Record<string, unknown>>;
  readonly query: Readonly<Record<string, unknown>>;
  readonly body: unknown;
  readonly headers: Readonly<Record<string, string | undefined>>;
}

export interface ErasedResponse {
  readonly status: number;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
}

/** A handler as the edge calls it: any operation's. */
export type ErasedHandler =
  | {
      readonly kind: 'command';
      readonly sealsResponse?: boolean;
      readonly keepsKeyForMoney?: boolean;
      readonly ignoresIdempotencyKey?: boolean;
      prepare?(input: ErasedInput & { readonly db: Reader; readonly ctx: RequestContext }): Promise<unknown>;
      run(
        input: ErasedInput & { readonly tx: Tx; readonly ctx: CommandContext; readonly prepared: unknown },
      ): Promise<ErasedResponse | RawResponse>;
    }
  | {
      readonly kind: 'query';
      run(
        input: ErasedInput & { readonly db: Reader; readonly ctx: RequestContext },
      ): Promise<ErasedResponse | RawResponse>;
    }
  | {
      readonly kind: 'exchange';
      run(
        input: ErasedInput & {
          readonly ctx: RequestContext;
          readonly signal: AbortSignal;
          readonly rawBody: Uint8Array | null;
        },
      ): Promise<ErasedResponse | RawResponse>;
    };

/**
 * The handler of an operation without its types. Sound because the table pairs each operationId with the validators
 * of the same operationId, and the edge hands over only what those have accepted.
 */
export function handlerOf(handlers: OperationHandlers, operationId: OperationId): ErasedHandler | undefined {
  return handlers[operationId] as unknown as ErasedHandler | undefined;
}

export type { Domain };
