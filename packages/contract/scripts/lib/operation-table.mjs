import { SPELLING_OF } from '../derivation/spellings.mjs';
import { operationsOf, parametersOf, resolve } from './document.mjs';

/** Path parameters whose value may contain slashes: they end their route and match the rest of it. */
const MULTI_SEGMENT_PARAMETERS = new Set(['proxy_path']);

/**
 * One entry an operation that carries behaviour, in document order; other spellings are routes of it. `documented`
 * holds the operationIds that the contract itself states.
 */
export function buildOperationTable(document, documented) {
  const entries = new Map();
  const all = operationsOf(document);
  for (const { method, operation } of all)
    if (!operation[SPELLING_OF]) entries.set(operation.operationId, describe(document, method, operation));
  for (const { path, operation } of all) {
    const entry = entries.get(operation[SPELLING_OF] ?? operation.operationId);
    if (!entry) throw new Error(`${operation.operationId} is a spelling of an unknown operation`);
    entry.routes.push({
      path: routeOf(path),
      openapiPath: path,
      operationId: operation.operationId,
      documented: documented.has(operation.operationId),
    });
  }
  return [...entries.values()];
}

function describe(document, method, operation) {
  if (!operation.summary) throw new Error(`${operation.operationId} has no summary`);
  const headers = new Map(
    parametersOf(document, operation)
      .filter((parameter) => parameter.in === 'header')
      .map((parameter) => [parameter.name, parameter.required === true ? 'required' : 'optional']),
  );
  const body = resolve(document, operation.requestBody);
  const successes = Object.entries(operation.responses)
    .filter(([status]) => /^[23]/.test(status))
    .map(([status, response]) => [Number(status), resolve(document, response)]);
  const key = headers.get('Idempotency-Key');
  return {
    operationId: operation.operationId,
    domain: operation['x-domain'],
    method: method.toUpperCase(),
    routes: [],
    security: securityOf(document, operation),
    body: body === undefined ? 'none' : body.required === true ? 'required' : 'optional',
    bodyContentTypes: Object.keys(body?.content ?? {}),
    projectHeader: headers.get('X-Project-ID') ?? 'none',
    tenantHeader: headers.get('X-Tenant-ID') ?? 'none',
    idempotencyKey: method === 'get' ? 'none' : key === 'required' ? 'required' : 'accepted',
    successStatuses: successes.map(([status]) => status),
    responseContentTypes: Object.fromEntries(
      successes.map(([status, response]) => [status, Object.keys(response.content ?? {})]),
    ),
    readModelCacheHeader: successes.some(([, response]) => response.headers?.['X-Read-Model-Cache'] !== undefined),
    summary: operation.summary,
  };
}

function securityOf(document, operation) {
  const schemes = (operation.security ?? document.security).flatMap(Object.keys);
  if (schemes.length === 0) return 'none';
  const known = { bearerAuth: 'bearer', nodeBearerAuth: 'node-bearer' };
  if (schemes.length > 1 || !known[schemes[0]])
    throw new Error(`${operation.operationId}: unknown security ${schemes}`);
  return known[schemes[0]];
}

const routeOf = (path) =>
  path.replace(/\{([^}]+)\}/g, (_match, name) => (MULTI_SEGMENT_PARAMETERS.has(name) ? '*' : `:${name}`));
