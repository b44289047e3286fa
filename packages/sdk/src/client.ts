import type {
  BodyInput,
  ErrorCode,
  OperationId,
  PathParameters,
  QueryInput,
  Schema,
  SuccessResponse,
} from '@gpuaas/contract';
import { ApiError } from './api-error.js';
import { type ClientRoute, clientRoutes } from './generated/routes.js';
import { encodeBody, urlOf } from './request.js';

export interface ClientOptions {
  /** Where the service is, for example `http://127.0.0.1:8090`. */
  readonly baseUrl: string;
  /** The access token, or what gives it before each request. */
  readonly token?: string | (() => string | Promise<string>);
  /** Replaces the global fetch. */
  readonly fetch?: typeof fetch;
  /** How often a read is tried again after 429 or 503. Default 2. */
  readonly maximumRetries?: number;
  /** A longer wait than this, in seconds, is the caller's decision: the error is thrown at once. Default 10. */
  readonly maximumRetryWaitSeconds?: number;
}

type Given<Name extends string, Value> =
  Record<never, never> extends Value ? { readonly [Key in Name]?: Value } : { readonly [Key in Name]: Value };
type GivenBody<Body> = [Body] extends [undefined]
  ? { readonly body?: undefined }
  : undefined extends Body
    ? { readonly body?: Body }
    : { readonly body: Body };

/** What a call of an operation needs; parts without a required member may be left out. */
export type CallOptions<Id extends OperationId> = Given<'path', PathParameters<Id>> &
  Given<'query', QueryInput<Id>> &
  GivenBody<BodyInput<Id>> & {
    readonly headers?: Readonly<Record<string, string>>;
    /** Sent as X-Project-ID. */
    readonly projectId?: string;
    /** Sent as X-Tenant-ID. */
    readonly tenantId?: string;
    /** Sent as Idempotency-Key: two calls with one key and body have one effect. */
    readonly idempotencyKey?: string;
    readonly signal?: AbortSignal;
  };

/** A success, with its headers beside what the contract promises. */
export type CallResult<Id extends OperationId> = SuccessResponse<Id> & { readonly headers: Headers };

type CallArguments<Id extends OperationId> =
  Record<never, never> extends CallOptions<Id> ? [options?: CallOptions<Id>] : [options: CallOptions<Id>];

export interface Client {
  /**
   * Calls an operation by its id. Resolves to its success answer; rejects with {@link ApiError} for every other
   * answer, and with fetch's own error where no answer came. Reads are tried again after 429 and 503.
   */
  call<Id extends OperationId>(operationId: Id, ...options: CallArguments<Id>): Promise<CallResult<Id>>;
}

const DEFAULT_RETRIES = 2;
const DEFAULT_RETRY_WAIT_SECONDS = 10;
const FIRST_BACKOFF_SECONDS = 0.2;

/** The untyped form of call options, after their types have done their work. */
interface LooseOptions {
  readonly path?: object;
  readonly query?: object;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  readonly projectId?: string;
  readonly tenantId?: string;
  readonly idempotencyKey?: string;
  readonly signal?: AbortSignal;
}

/** A client of one service. It holds no state but its options. */
export function createClient(options: ClientOptions): Client {
  return {
    async call<Id extends OperationId>(operationId: Id, ...given: CallArguments<Id>): Promise<CallResult<Id>> {
      const route = clientRoutes[operationId];
      const callOptions: LooseOptions = given[0] ?? {};
      for (let attempt = 0; ; attempt += 1) {
        const response = await send(options, route, callOptions);
        if (response.ok) {
          const result = { status: response.status, body: await readBody(response), headers: response.headers };
          if (isPromised<Id>(route, result)) return result;
          throw unexpectedStatus(response);
        }
        const error = await errorOf(response);
        const wait = retryWaitSeconds(options, route, error, attempt);
        if (wait === undefined) throw error;
        await delay(wait * 1000, callOptions.signal);
      }
    },
  };
}

async function send(options: ClientOptions, route: ClientRoute, call: LooseOptions): Promise<Response> {
  const headers = new Headers(call.headers);
  const token = typeof options.token === 'function' ? await options.token() : options.token;
  if (token !== undefined) headers.set('authorization', `Bearer ${token}`);
  if (call.projectId !== undefined) headers.set('x-project-id', call.projectId);
  if (call.tenantId !== undefined) headers.set('x-tenant-id', call.tenantId);
  if (call.idempotencyKey !== undefined) headers.set('idempotency-key', call.idempotencyKey);
  if (!headers.has('accept')) headers.set('accept', 'application/json, */*;q=0.5');
  const body = encodeBody(route, call.body);
  if (body && !headers.has('content-type')) headers.set('content-type', body.contentType);
  const init: RequestInit & { duplex?: 'half' } = { method: route.method, headers, redirect: 'manual' };
  if (call.signal) init.signal = call.signal;
  if (body) init.body = body.payload;
  if (body?.payload instanceof ReadableStream) init.duplex = 'half';
  const request = options.fetch ?? fetch;
  return request(urlOf(options.baseUrl, route, call.path ?? {}, call.query ?? {}), init);
}

/** JSON as its value, text as a string, anything else as bytes, nothing as undefined. */
async function readBody(response: Response): Promise<unknown> {
  const bytes = new Uint8Array(await response.arrayBuffer());
  if (bytes.length === 0) return undefined;
  const type = response.headers.get('content-type') ?? '';
  if (!/^(?:application\/(?:[\w.+-]*\+)?json|text\/)/.test(type)) return bytes;
  const text = new TextDecoder().decode(bytes);
  return type.startsWith('text/') ? text : JSON.parse(text);
}

/**
 * The status is one the contract promises for the operation; of the body the service is believed, since it holds
 * every answer to the contract itself.
 */
function isPromised<Id extends OperationId>(
  route: ClientRoute,
  result: { status: number; body: unknown; headers: Headers },
): result is CallResult<Id> & typeof result {
  return route.statuses.includes(result.status);
}

async function errorOf(response: Response): Promise<ApiError> {
  const body = await readBody(response).catch(() => undefined);
  const common = {
    status: response.status,
    requestId: response.headers.get('x-request-id'),
    retryAfterSeconds: retryAfterOf(response.headers),
  };
  if (isErrorResponse(body))
    return new ApiError({ ...common, code: body.code, message: body.message, details: body.details ?? {} });
  return new ApiError({
    ...common,
    code: 'upstream_error',
    message: `HTTP ${response.status} without an error of the service`,
    details: {},
  });
}

function unexpectedStatus(response: Response): ApiError {
  return new ApiError({
    status: response.status,
    requestId: response.headers.get('x-request-id'),
    retryAfterSeconds: null,
    code: 'upstream_error',
    message: `HTTP ${response.status} is no answer of this operation`,
    details: {},
  });
}

function isErrorResponse(body: unknown): body is Schema<'ErrorResponse'> & { code: ErrorCode } {
  return (
    body !== null &&
    typeof body === 'object' &&
    typeof Reflect.get(body, 'code') === 'string' &&
    typeof Reflect.get(body, 'message') === 'string'
  );
}

/** Seconds, from either form of the header; null without one that can be read. */
function retryAfterOf(headers: Headers): number | null {
  const text = headers.get('retry-after');
  if (text === null) return null;
  if (/^\d+$/.test(text)) return Number(text);
  const date = Date.parse(text);
  return Number.isNaN(date) ? null : Math.max(0, (date - Date.now()) / 1000);
}

/** How long to wait before a read is tried again; undefined where it is not to be. */
function retryWaitSeconds(
  options: ClientOptions,
  route: ClientRoute,
  error: ApiError,
  attempt: number,
): number | undefined {
  if (route.method !== 'GET' || (error.status !== 429 && error.status !== 503)) return undefined;
  if (attempt >= (options.maximumRetries ?? DEFAULT_RETRIES)) return undefined;
  // Jitter keeps clients that were refused together from coming back together.
  const wait = error.retryAfterSeconds ?? FIRST_BACKOFF_SECONDS * 2 ** attempt * (0.5 + Math.random());
  return wait <= (options.maximumRetryWaitSeconds ?? DEFAULT_RETRY_WAIT_SECONDS) ? wait : undefined;
}

function delay(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const onAbort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    }, milliseconds);
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}
