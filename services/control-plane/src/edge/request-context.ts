import type { OperationDefinition } from '@gpuaas/contract';
import {
  asId,
  type Clock,
  childTrace,
  formatTraceparent,
  isUuid,
  type Logger,
  newId,
  parseTraceparent,
  redactText,
  type TraceContext,
} from '@gpuaas/kernel';
import type { FastifyRequest } from 'fastify';
import type { CursorCodec } from '../spine/cursors.js';
import type { Reader, RequestContext } from '../spine/operation.js';
import type { Principal, ProjectScope } from '../spine/principal.js';
import { badRequest } from '../spine/refusal.js';

/** What a request is known by in logs, audit, events, tasks and traces. */
export interface RequestIdentity {
  readonly requestId: string;
  readonly correlationId: string;
  readonly trace: TraceContext;
}

const ACCEPTABLE_REQUEST_ID = /^[A-Za-z0-9._:/+=@-]{1,128}$/;

/** Takes over the caller's request id and trace where they are well formed, and makes new ones where they are not. */
export function identifyRequest(headers: FastifyRequest['headers'], trace?: TraceContext): RequestIdentity {
  const offered = headerOf(headers, 'x-request-id');
  const requestId = offered !== undefined && ACCEPTABLE_REQUEST_ID.test(offered) ? offered : newId();
  return {
    requestId,
    correlationId: requestId,
    trace: trace ?? childTrace(parentTrace(headers)),
  };
}

/** The trace that the caller continues, where it names one. */
export function parentTrace(headers: FastifyRequest['headers']): TraceContext | undefined {
  return parseTraceparent(headerOf(headers, 'traceparent'));
}

/** What every answer carries: the ids it is known by, and that nobody may keep it or take it for another kind of content. */
export function identityHeaders(identity: RequestIdentity): Record<string, string> {
  return {
    'x-request-id': identity.requestId,
    traceparent: formatTraceparent(identity.trace),
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
  };
}

/** A header that occurs once; a repeated one counts as absent. */
export function headerOf(headers: FastifyRequest['headers'], name: string): string | undefined {
  const value = headers[name];
  return typeof value === 'string' ? value : undefined;
}

/** The token of `Authorization: Bearer …`; null where the header is absent, '' where it has another form. */
export function bearerToken(headers: FastifyRequest['headers']): string | null {
  const header = headerOf(headers, 'authorization');
  if (header === undefined) return null;
  return /^Bearer +([^\s]+)$/i.exec(header)?.[1] ?? '';
}

/** The project of a request: from the path where it has one, else from X-Project-ID; both must agree. */
export function requestedProjectId(
  definition: OperationDefinition,
  path: Readonly<Record<string, unknown>>,
  headers: FastifyRequest['headers'],
): string | null {
  const inPath = typeof path.project_id === 'string' ? path.project_id.toLowerCase() : null;
  const inHeader = definition.projectHeader === 'none' ? null : (headerOf(headers, 'x-project-id') ?? null);
  if (inHeader !== null && !isUuid(inHeader))
    throw badRequest('project_id_invalid', '/headers/X-Project-ID', 'must be a UUID');
  if (inPath !== null && inHeader !== null && inPath !== inHeader.toLowerCase()) {
    throw badRequest('project_ambiguous', '/headers/X-Project-ID', 'differs from the project in the path');
  }
  return inPath ?? inHeader?.toLowerCase() ?? null;
}

/** The tenant a request names: in the path (`org_id`, `tenant_id`), in X-Tenant-ID, or none. */
export function requestedTenantId(
  definition: OperationDefinition,
  path: Readonly<Record<string, unknown>>,
  headers: FastifyRequest['headers'],
): string | null {
  for (const name of ['org_id', 'tenant_id'] as const) {
    const value = path[name];
    if (typeof value === 'string') return value;
  }
  const header = definition.tenantHeader === 'none' ? undefined : headerOf(headers, 'x-tenant-id');
  if (header !== undefined && !isUuid(header))
    throw badRequest('tenant_id_invalid', '/headers/X-Tenant-ID', 'must be a UUID');
  return header?.toLowerCase() ?? null;
}

export type ProjectLookup = (db: Reader, principal: Principal, projectId: string) => Promise<ProjectScope | null>;

export function buildContext(parts: {
  request: FastifyRequest;
  identity: RequestIdentity;
  principal: Principal;
  project: ProjectScope | null;
  tenantId: string | null;
  clock: Clock;
  log: Logger;
  cursors: CursorCodec;
}): RequestContext {
  const { request, identity, principal, project } = parts;
  const homeTenant = 'tenantId' in principal ? principal.tenantId : null;
  return {
    ...identity,
    principal,
    clock: parts.clock,
    log: parts.log,
    actorIp: request.ip || null,
    // Cut last: half a token is no longer recognised as one.
    userAgent: redactText(headerOf(request.headers, 'user-agent') ?? '').slice(0, 512) || null,
    project,
    tenantId: project?.tenantId ?? (parts.tenantId === null ? homeTenant : asId(parts.tenantId)),
    idempotencyKey: headerOf(request.headers, 'idempotency-key') ?? null,
    cursors: parts.cursors,
  };
}
