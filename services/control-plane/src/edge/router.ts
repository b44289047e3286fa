import { isUtf8 } from 'node:buffer';
import {
  type OperationDefinition,
  type OperationId,
  type OperationValidators,
  operationTable,
  validatorsFor,
} from '@gpuaas/contract';
import { addressBucket, type Clock, canonicalHash, type Logger } from '@gpuaas/kernel';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { parse as parseJson } from 'secure-json-parse';
import type { CursorCodec } from '../spine/cursors.js';
import {
  type ErasedHandler,
  type ErasedInput,
  type ErasedResponse,
  handlerOf,
  type OperationHandlers,
  type RawResponse,
  type Reader,
  type RequestContext,
} from '../spine/operation.js';
import { type Principal, type ProjectScope, principalKey } from '../spine/principal.js';
import { Refusal, refuse } from '../spine/refusal.js';
import { inTransaction } from '../spine/transaction.js';
import type { DenialJournal } from './denial-journal.js';
import { errorAnswer } from './error-response.js';
import { type IdempotencyScope, type IdempotencyStore, retentionOf, type StoredResponse } from './idempotency.js';
import type { EdgeMetrics } from './metrics.js';
import { type AccessFacts, decide, type PolicyRule, policyFor } from './policy/index.js';
import type { RateLimitClass, RateLimiter } from './rate-limit.js';
import { limitClassOf } from './rate-limit-classes.js';
import {
  bearerToken,
  buildContext,
  headerOf,
  identifyRequest,
  identityHeaders,
  type ProjectLookup,
  parentTrace,
  type RequestIdentity,
  requestedProjectId,
  requestedTenantId,
} from './request-context.js';
import { startRequestSpan } from './tracing.js';

/** The certificate a caller presented on the node listener, verified by TLS against the node CA. */
export interface PeerCertificate {
  readonly serialNumber: string;
  readonly fingerprint256: string;
  readonly subjectCommonName: string;
  readonly subjectAltName: string;
}

export interface EdgeDependencies {
  /** the read-write database */
  readonly primary: Reader;
  /** read-only; may be a replica */
  readonly replica: Reader;
  readonly operations: OperationHandlers;
  readonly clock: Clock;
  readonly log: Logger;
  readonly cursors: CursorCodec;
  readonly idempotency: IdempotencyStore;
  readonly metrics: EdgeMetrics;
  readonly rateLimiter: RateLimiter;
  readonly denials: DenialJournal;
  /** requests a minute that a principal has in a class; null where it is not limited */
  rateLimitOf(limitClass: RateLimitClass, principal: Principal): Promise<number | null>;
  authenticateBearer(db: Reader, token: string): Promise<Principal>;
  authenticateNode(peer: { certificate: PeerCertificate | null; bearerToken: string | null }): Promise<Principal>;
  readonly projectScopeOf: ProjectLookup;
  /** a response that breaks the contract is answered with 500 and logged, instead of being sent */
  readonly validatesResponses: boolean;
  /** aborted when the server begins to shut down */
  readonly closing: AbortSignal;
}

/** Which listener a route stands on: the API for people and programs, or the one where hosts show their certificates. */
export type Listener = 'api' | 'node';

interface Route {
  readonly definition: OperationDefinition;
  readonly rule: PolicyRule;
  readonly limitClass: RateLimitClass;
  /** what its idempotency keys belong to: operations that share a handler are one command under several names */
  readonly family: string;
}

/**
 * Registers every spelling of every operation of the contract on `server`. Throws where an operation has no policy row.
 * The node listener carries the operations of hosts alone; the API carries all.
 */
export function registerOperations(server: FastifyInstance, listener: Listener, edge: EdgeDependencies): void {
  for (const definition of operationTable) {
    const rule = policyFor(definition.operationId);
    const family = familyOf(edge.operations, definition.operationId);
    const route: Route = { definition, rule, limitClass: limitClassOf(definition), family };
    if (listener === 'node' && !servesHosts(definition)) continue;
    for (const { path } of definition.routes) {
      server.route({
        method: definition.method,
        url: path,
        exposeHeadRoute: false,
        handler: (request, reply) => serve(edge, route, request, reply),
      });
    }
  }
}

/** Operations without a user's token that hosts call: enrolment, bootstrap, task polling, logs. */
function servesHosts(definition: OperationDefinition): boolean {
  return definition.domain === 'fleet' && definition.security !== 'bearer';
}

async function serve(
  edge: EdgeDependencies,
  route: Route,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const started = process.hrtime.bigint();
  const { operationId } = route.definition;
  const span = startRequestSpan(operationId, parentTrace(request.headers));
  const identity = identifyRequest(request.headers, span.trace);
  const log = edge.log.child({
    operation: operationId,
    correlation_id: identity.correlationId,
    trace_id: identity.trace.traceId,
  });
  reply.headers(identityHeaders(identity));
  const answerWith = (answer: {
    readonly status: number;
    readonly headers: Readonly<Record<string, string>>;
  }): void => {
    reply.code(answer.status).headers(answer.headers);
    // The connection ends with this answer; a caller who is told so does not send another request into its end.
    if (edge.closing.aborted) reply.header('connection', 'close');
  };
  try {
    const answer = await answerRequest(edge, route, request, reply, identity, log);
    answerWith(answer);
    if ('content' in answer) return reply.type(answer.contentType).send(answer.content);
    if (answer.body === undefined) return reply.send();
    return reply.type('application/json; charset=utf-8').send(JSON.stringify(answer.body));
  } catch (error) {
    const answer = errorAnswer(error, identity.correlationId, log);
    answerWith(answer);
    return reply.type('application/json; charset=utf-8').send(JSON.stringify(answer.body));
  } finally {
    span.end(reply.statusCode);
    edge.metrics.observe(operationId, reply.statusCode, Number(process.hrtime.bigint() - started) / 1e9);
    log.debug({ status: reply.statusCode, method: request.method }, 'request answered');
  }
}

type ErasedCommand = Extract<ErasedHandler, { kind: 'command' }>;
type Answer = StoredResponse | (RawResponse & { readonly headers: Readonly<Record<string, string>> });

/** The steps in their order: principal, rate limit, validation, context, policy, handler. */
async function answerRequest(
  edge: EdgeDependencies,
  route: Route,
  request: FastifyRequest,
  reply: FastifyReply,
  identity: RequestIdentity,
  log: Logger,
): Promise<Answer> {
  const { definition, rule } = route;
  const principal = await authenticate(edge, rule, request);
  const contextWithin = (project: ProjectScope | null, tenantId: string | null) =>
    buildContext({ request, identity, principal, project, tenantId, clock: edge.clock, log, cursors: edge.cursors });
  await limitRate(edge, route, principal, request, reply, (limit) =>
    edge.denials.note(contextWithin(null, null), 'rate_limit.block', definition.operationId, { limit }),
  );

  const validators = validatorsFor(definition.operationId);
  const parameters = validators.parameters({ path: request.params, query: request.query, headers: request.headers });
  if (!parameters.ok) throw invalid(parameters.issues);
  const rawBody = Buffer.isBuffer(request.body) ? request.body : null;
  const body = readBody(definition, validators, request, rawBody);

  const projectId = requestedProjectId(definition, parameters.path, request.headers);
  const tenantId = requestedTenantId(definition, parameters.path, request.headers);
  const project =
    projectId === null ? null : ((await edge.projectScopeOf(edge.primary, principal, projectId)) ?? 'inaccessible');
  const facts: AccessFacts = { principal, project, projectId, tenantId, definition, path: parameters.path };
  const ctx = contextWithin(project === 'inaccessible' ? null : project, tenantId);
  const access = decide(rule, facts);
  if (!access.allowed) {
    // Under the caller's own tenant: what a stranger names in vain must not reach the record of those who own it.
    const own = contextWithin(ctx.project, null);
    await edge.denials.note(own, 'authz.deny', definition.operationId, { code: access.code, reason: access.reason });
    throw new Refusal(access.code, { status: access.status, details: { reason: access.reason } });
  }
  const handler = handlerOf(edge.operations, definition.operationId);
  if (handler === undefined) {
    throw new Refusal('service_unavailable', {
      status: 501,
      details: { reason: 'not_implemented' },
      message: 'this operation is not available yet',
    });
  }
  const input: ErasedInput = {
    path: parameters.path,
    query: parameters.query,
    body,
    headers: flatHeaders(request.headers),
  };
  const answer = await runHandler(edge, route, handler, input, ctx, request, rawBody);
  checkResponse(edge, definition, validators, answer, log);
  return answer;
}

async function runHandler(
  edge: EdgeDependencies,
  route: Route,
  handler: ErasedHandler,
  input: ErasedInput,
  ctx: RequestContext,
  request: FastifyRequest,
  rawBody: Buffer | null,
): Promise<Answer> {
  switch (handler.kind) {
    case 'query':
      return withHeaders(await handler.run({ ...input, db: edge.replica, ctx }));
    case 'exchange': {
      const caller = callerGone(request, edge.closing);
      try {
        return withHeaders(await handler.run({ ...input, ctx, rawBody, signal: caller.signal }));
      } finally {
        caller.release();
      }
    }
    case 'command':
      return runCommand(edge, route, handler, input, ctx);
  }
}

async function authenticate(edge: EdgeDependencies, rule: PolicyRule, request: FastifyRequest): Promise<Principal> {
  const token = bearerToken(request.headers);
  if (rule.authentication === 'node') {
    return edge.authenticateNode({ certificate: peerCertificate(request), bearerToken: token });
  }
  if (rule.authentication === 'anonymous') return { kind: 'anonymous' };
  if (token === null) {
    if (rule.authentication === 'optional') return { kind: 'anonymous' };
    throw refuse('token_missing', undefined, 'Authorization: a bearer token is needed');
  }
  if (token === '') throw refuse('token_invalid', undefined, 'Authorization: is not of the form "Bearer <token>"');
  return edge.authenticateBearer(edge.primary, token);
}

async function limitRate(
  edge: EdgeDependencies,
  route: Route,
  principal: Principal,
  request: FastifyRequest,
  reply: FastifyReply,
  blocked: (perMinute: number) => Promise<void>,
): Promise<void> {
  if (route.limitClass === 'none' || principal.kind === 'node') return;
  const perMinute = await edge.rateLimitOf(route.limitClass, principal);
  if (perMinute === null) return;
  const who = principal.kind === 'anonymous' ? `address:${addressBucket(request.ip)}` : principalKey(principal);
  reply.header('x-ratelimit-limit', perMinute).header('x-ratelimit-remaining', 0);
  try {
    const state = edge.rateLimiter.take(who, route.limitClass, perMinute, edge.clock.now().getTime());
    reply.header('x-ratelimit-remaining', state.remaining);
  } catch (error) {
    await blocked(perMinute);
    throw error;
  }
}

async function runCommand(
  edge: EdgeDependencies,
  route: Route,
  command: ErasedCommand,
  input: ErasedInput,
  ctx: RequestContext,
): Promise<Answer> {
  const scope = idempotencyScope(route, command, input, ctx);
  const retention = retentionOf(command);
  const prepared = command.prepare ? await command.prepare({ ...input, db: edge.primary, ctx }) : undefined;
  let wakeUps: (() => void)[] = [];
  const answer = await inTransaction(edge.primary, async (tx): Promise<Answer> => {
    wakeUps = [];
    const now = edge.clock.now();
    const replay = scope && (await edge.idempotency.claim(tx, scope, input.body, now, retention));
    if (replay) return { ...replay, headers: { ...replay.headers, 'idempotency-replayed': 'true' } };
    const commandContext = { ...ctx, afterCommit: (wake: () => void) => void wakeUps.push(wake) };
    const response = withHeaders(await command.run({ ...input, tx, ctx: commandContext, prepared }));
    if (scope && !('content' in response)) await edge.idempotency.keep(tx, scope, response, now, retention);
    return response;
  });
  for (const wake of wakeUps) wake();
  return answer;
}

/** Null where the request carries no key or the operation takes none; refuses a missing key where one is demanded. */
function idempotencyScope(
  { definition, family }: Route,
  command: ErasedCommand,
  input: ErasedInput,
  ctx: RequestContext,
): IdempotencyScope | null {
  if (command.ignoresIdempotencyKey || definition.idempotencyKey === 'none') return null;
  if (ctx.idempotencyKey === null) {
    if (definition.idempotencyKey === 'accepted') return null;
    throw new Refusal('invalid_request', {
      message: 'Idempotency-Key: this operation demands one',
      details: {
        reason: 'idempotency_key_required',
        issues: [{ pointer: '/headers/Idempotency-Key', message: 'is missing' }],
      },
    });
  }
  // An anonymous caller has no name of its own: its keys would meet those of strangers.
  if (ctx.principal.kind === 'anonymous') return null;
  return {
    principal: principalKey(ctx.principal),
    operation: family,
    context: contextHash(input, ctx),
    key: ctx.idempotencyKey,
  };
}

/**
 * What a request is about besides its body: the resources in its path, its query, its project, which one spelling
 * has in the path and another in a header, and its tenant, which a person may change.
 */
function contextHash(input: ErasedInput, ctx: RequestContext): string {
  const resources = Object.entries(input.path).filter(([name]) => name !== 'project_id');
  return canonicalHash({
    resources: resources.map(([, value]) => value),
    query: input.query,
    project: ctx.project?.projectId ?? input.path.project_id ?? null,
    tenant: ctx.tenantId,
  });
}

/** The name of all operations that are bound to one handler: the first of them in the table. */
function familyOf(handlers: OperationHandlers, operationId: OperationId): string {
  const handler = handlerOf(handlers, operationId);
  if (handler === undefined) return operationId;
  const first = operationTable.find((other) => handlerOf(handlers, other.operationId) === handler);
  return first?.operationId ?? operationId;
}

function readBody(
  definition: OperationDefinition,
  validators: OperationValidators,
  request: FastifyRequest,
  rawBody: Buffer | null,
): unknown {
  if (definition.body === 'none') return undefined;
  if (rawBody === null || rawBody.length === 0) {
    if (definition.body === 'optional') return undefined;
    throw invalid([{ pointer: '/body', message: 'is missing' }]);
  }
  const contentType = (headerOf(request.headers, 'content-type') ?? '').split(';')[0]?.trim().toLowerCase() ?? '';
  const accepted = definition.bodyContentTypes;
  if (!accepted.includes(contentType)) {
    throw new Refusal('invalid_request', {
      status: 415,
      message: `Content-Type: must be ${accepted.join(' or ')}`,
      details: {
        reason: 'content_type_unsupported',
        issues: [{ pointer: '/headers/Content-Type', message: `must be ${accepted.join(' or ')}` }],
      },
    });
  }
  const isText = contentType === 'application/json' || contentType === 'application/x-www-form-urlencoded';
  // Decoded all the same, two bodies that differ would read alike.
  if (isText && !isUtf8(rawBody)) throw invalid([{ pointer: '/body', message: 'is not UTF-8' }]);
  if (contentType === 'application/x-www-form-urlencoded') {
    return validated(validators, Object.fromEntries(new URLSearchParams(rawBody.toString('utf8'))));
  }
  if (contentType !== 'application/json') return rawBody;
  return validated(validators, parsed(rawBody));
}

function parsed(rawBody: Buffer): unknown {
  try {
    return parseJson(rawBody, undefined, { protoAction: 'error', constructorAction: 'error' });
  } catch (error) {
    throw invalid([
      { pointer: '/body', message: error instanceof SyntaxError ? `is not JSON: ${error.message}` : 'cannot be read' },
    ]);
  }
}

function validated(validators: OperationValidators, value: unknown): unknown {
  const body = validators.body(value);
  if (!body.ok) throw invalid(body.issues);
  return body.value;
}

function invalid(issues: readonly { pointer: string; message: string }[]): Refusal {
  const first = issues[0];
  return new Refusal('validation_error', {
    message: first
      ? `${first.pointer.split('/').slice(1).join('.')}: ${first.message}`
      : 'the request does not follow the contract',
    details: { issues },
  });
}

function checkResponse(
  edge: EdgeDependencies,
  definition: OperationDefinition,
  validators: OperationValidators,
  answer: Answer,
  log: Logger,
): void {
  if (!edge.validatesResponses || 'content' in answer) return;
  const verdict = validators.response(answer.status, answer.body);
  if (verdict.ok) return;
  log.error(
    { status: answer.status, issues: verdict.issues },
    `the response of ${definition.operationId} breaks the contract`,
  );
  throw new Error(
    `the response of ${definition.operationId} breaks the contract: ${JSON.stringify(verdict.issues.slice(0, 5))}`,
  );
}

function withHeaders(response: ErasedResponse | RawResponse): Answer {
  if ('content' in response) return { ...response, headers: response.headers ?? {} };
  return { status: response.status, body: response.body, headers: response.headers ?? {} };
}

function flatHeaders(headers: FastifyRequest['headers']): Record<string, string | undefined> {
  const flat: Record<string, string | undefined> = {};
  for (const [name, value] of Object.entries(headers)) if (typeof value === 'string') flat[name] = value;
  return flat;
}

/** A signal that fires when the caller hangs up or the server begins to close, and how to stop watching for that. */
function callerGone(request: FastifyRequest, closing: AbortSignal): { signal: AbortSignal; release: () => void } {
  const gone = new AbortController();
  const abort = () => gone.abort();
  const { socket } = request.raw;
  socket.once('close', abort);
  if (closing.aborted) abort();
  else closing.addEventListener('abort', abort, { once: true });
  return {
    signal: gone.signal,
    release() {
      // A connection serves many requests, and the server many more: what is left on them would never go.
      socket.off('close', abort);
      closing.removeEventListener('abort', abort);
    },
  };
}

function peerCertificate(request: FastifyRequest): PeerCertificate | null {
  const socket = request.raw.socket;
  if (!('getPeerCertificate' in socket) || !('authorized' in socket) || socket.authorized !== true) return null;
  if (typeof socket.getPeerCertificate !== 'function') return null;
  const certificate: unknown = socket.getPeerCertificate();
  if (certificate === null || typeof certificate !== 'object' || !('serialNumber' in certificate)) return null;
  const { serialNumber, fingerprint256, subjectaltname, subject } = certificate as Partial<
    import('node:tls').PeerCertificate
  >;
  const commonName = subject?.CN;
  if (serialNumber === undefined || fingerprint256 === undefined || typeof commonName !== 'string') return null;
  return { serialNumber, fingerprint256, subjectCommonName: commonName, subjectAltName: subjectaltname ?? '' };
}
