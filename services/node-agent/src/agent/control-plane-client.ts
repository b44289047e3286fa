import { errorChain } from '@gpuaas/kernel';
import {
  enrollmentResponse,
  errorResponse,
  formatRunningTasks,
  NODE_HEADERS,
  nodePaths,
  POLL_GRACE_SECONDS,
  POLL_HOLD_SECONDS,
  renewalResponse,
  type TaskResultRequest,
  taskResultResponse,
} from '@gpuaas/node-protocol';
import type { z } from 'zod';
import type { TlsIdentity, Transport, TransportRequest, TransportResponse } from '../transport/transport.js';
import { TransportError } from '../transport/transport.js';
import type { BuildInfo } from './build-info.js';

const CALL_TIMEOUT_MILLISECONDS = 30_000;
const MAX_RETRY_AFTER_SECONDS = 300;

export interface Credentials {
  tls: TlsIdentity;
  /** Sent where the connection does not prove who calls. */
  bearerToken: string | null;
}

/** What came of a call that is no answer of the wanted kind. */
export type CallFailure =
  /** 401: the control plane does not know this identity. */
  | { kind: 'unauthenticated'; code: string; message: string }
  /** 403: it knows it and shuts it out for now. */
  | { kind: 'forbidden'; code: string; message: string }
  /** Any other 4xx: repeating the call would not change the answer. */
  | { kind: 'refused'; status: number; code: string; message: string }
  /** Nothing usable came: try again later. */
  | { kind: 'unavailable'; answered: boolean; message: string; retryAfterMilliseconds: number }
  /** The caller gave up. */
  | { kind: 'aborted' };

export type CallResult<Value> = { kind: 'ok'; value: Value } | CallFailure;

/** Codes that say "not now" although they are below 500. */
const TRANSIENT_STATUSES = [408, 425, 429];

/** The operations of the node protocol, each with every way it can end. Nothing here throws. */
export class ControlPlaneClient {
  readonly #transport: Transport;
  readonly #nodeId: string;
  readonly #build: BuildInfo;

  constructor(options: { transport: Transport; nodeId: string; build: BuildInfo }) {
    this.#transport = options.transport;
    this.#nodeId = options.nodeId;
    this.#build = options.build;
  }

  enroll(tls: TlsIdentity, token: string, csr: string, signal: AbortSignal) {
    const body = JSON.stringify({ node_id: this.#nodeId, csr });
    const request = { method: 'POST', path: nodePaths.enroll(), body, headers: bearer(token), signal } as const;
    return this.#call({ ...request, tls }, (response) => withToken(response, enrollmentResponse));
  }

  renew(credentials: Credentials, csr: string) {
    const request = { method: 'POST', path: nodePaths.renew(this.#nodeId), body: JSON.stringify({ csr }) } as const;
    return this.#call({ ...request, ...this.#as(credentials) }, (response) => withToken(response, renewalResponse));
  }

  /** One held poll. The value is the task as it came, unchecked, or null when there was none. */
  wait(
    credentials: Credentials,
    heartbeat: { bootId: string | null; heldTasks: readonly string[] },
    signal: AbortSignal,
  ): Promise<CallResult<{ task: unknown } | null>> {
    const { tls, headers } = this.#as(credentials);
    return this.#call(
      {
        method: 'GET',
        path: nodePaths.wait(this.#nodeId),
        tls,
        headers: { ...headers, ...this.#heartbeatHeaders(heartbeat) },
        timeoutMilliseconds: (POLL_HOLD_SECONDS + POLL_GRACE_SECONDS) * 1000,
        signal,
      },
      (response) => {
        if (response.status === 204) return { ok: true, value: null };
        const task = parseJson(response.body);
        return task === undefined ? { ok: false, problem: 'the task is not JSON' } : { ok: true, value: { task } };
      },
    );
  }

  postResult(credentials: Credentials, taskId: string, result: TaskResultRequest, signal: AbortSignal) {
    const path = nodePaths.result(this.#nodeId, taskId);
    const request = { method: 'POST', path, body: JSON.stringify(result), signal } as const;
    return this.#call({ ...request, ...this.#as(credentials) }, (response) => parseBody(response, taskResultResponse));
  }

  /** Whether the control plane can be reached under these anchors; any answer at all says so. */
  async isReachable(tls: TlsIdentity): Promise<boolean> {
    const result = await this.#call({ method: 'GET', path: '/healthz', tls, headers: {} }, () => ({
      ok: true,
      value: null,
    }));
    return result.kind !== 'unavailable' || result.answered;
  }

  #as(credentials: Credentials): { tls: TlsIdentity; headers: Record<string, string> } {
    const plain = !this.#transport.encrypted && credentials.bearerToken !== null;
    return { tls: credentials.tls, headers: plain ? bearer(credentials.bearerToken ?? '') : {} };
  }

  #heartbeatHeaders(heartbeat: { bootId: string | null; heldTasks: readonly string[] }): Record<string, string> {
    const { version, commit, builtAt } = this.#build;
    const facts: Array<[string, string | null]> = [
      [NODE_HEADERS.agentVersion, version],
      [NODE_HEADERS.agentCommit, commit],
      [NODE_HEADERS.agentBuiltAt, builtAt],
      [NODE_HEADERS.agentBootId, heartbeat.bootId],
      [NODE_HEADERS.agentRunningTasks, heartbeat.heldTasks.length > 0 ? formatRunningTasks(heartbeat.heldTasks) : null],
    ];
    return Object.fromEntries(facts.flatMap(([name, value]) => (value === null ? [] : [[name, value]])));
  }

  async #call<Value>(
    request: {
      method: 'GET' | 'POST';
      path: string;
      body?: string;
      tls: TlsIdentity;
      headers: Record<string, string>;
      timeoutMilliseconds?: number;
      signal?: AbortSignal;
    },
    read: (response: TransportResponse) => Read<Value>,
  ): Promise<CallResult<Value>> {
    const { tls, timeoutMilliseconds = CALL_TIMEOUT_MILLISECONDS, ...rest } = request;
    const wire: TransportRequest = { ...rest, timeoutMilliseconds, identity: tls };
    let response: TransportResponse;
    try {
      response = await this.#transport.request(wire);
    } catch (error) {
      if (error instanceof TransportError && error.kind === 'aborted') return { kind: 'aborted' };
      return { kind: 'unavailable', answered: false, message: errorChain(error), retryAfterMilliseconds: 0 };
    }
    if (response.status >= 200 && response.status < 300) {
      const value = read(response);
      if (value.ok) return { kind: 'ok', value: value.value };
      return { kind: 'unavailable', answered: true, message: value.problem, retryAfterMilliseconds: 1000 };
    }
    return failureOf(response);
  }
}

type Read<Value> = { ok: true; value: Value } | { ok: false; problem: string };

function failureOf(response: TransportResponse): CallFailure {
  const parsed = errorResponse.safeParse(parseJson(response.body));
  const code = parsed.success ? parsed.data.code : 'unknown';
  const message = `${response.status} ${code} ${parsed.success ? parsed.data.message : ''}`.trim();
  if (response.status === 401) return { kind: 'unauthenticated', code, message };
  if (response.status === 403) return { kind: 'forbidden', code, message };
  const transient = response.status >= 500 || response.status < 400 || TRANSIENT_STATUSES.includes(response.status);
  if (!transient) return { kind: 'refused', status: response.status, code, message };
  const asked = Number(response.headers['retry-after']);
  const seconds = Number.isFinite(asked) && asked > 0 ? Math.min(asked, MAX_RETRY_AFTER_SECONDS) : 1;
  return { kind: 'unavailable', answered: true, message, retryAfterMilliseconds: seconds * 1000 };
}

function bearer(token: string): Record<string, string> {
  return { authorization: `Bearer ${token}` };
}

function withToken<Value>(
  response: TransportResponse,
  schema: z.ZodType<Value>,
): Read<Value & { internalToken: string | null }> {
  const body = parseBody(response, schema);
  if (!body.ok) return body;
  const internalToken = response.headers[NODE_HEADERS.internalToken.toLowerCase()] ?? null;
  return { ok: true, value: { ...body.value, internalToken } };
}

function parseBody<Value>(response: TransportResponse, schema: z.ZodType<Value>): Read<Value> {
  const parsed = schema.safeParse(parseJson(response.body));
  return parsed.success ? { ok: true, value: parsed.data } : { ok: false, problem: 'the answer has another form' };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
