import openapiTypescript, { astToString } from 'openapi-typescript';
import { aliasesOf } from '../derivation/shapes.mjs';
import { SPELLING_OF } from '../derivation/spellings.mjs';
import { mapSchemas, operationsOf, parametersOf, resolve } from './document.mjs';

const HEADER = '// Generated from contract/ by `npm run contract:build`. Not edited by hand.\n';

/**
 * The types of the document as TypeScript source.
 *
 * Only operations that carry behaviour get types of their own: other spellings have the same. Schemas of one shape
 * share one type. A property with a default is present, because validation fills it in.
 */
export async function typesOf(document) {
  const slim = structuredClone(document);
  for (const { path, method, operation } of operationsOf(slim)) {
    if (!operation[SPELLING_OF]) continue;
    delete slim.paths[path][method];
    if (Object.keys(slim.paths[path]).length === 0) delete slim.paths[path];
  }
  for (const { operation } of operationsOf(slim)) delete operation.summary;
  mapSchemas(slim, withoutConditions);
  for (const [name, first] of aliasesOf(document))
    slim.components.schemas[name] = { $ref: `#/components/schemas/${first}` };
  return HEADER + astToString(await openapiTypescript(slim, { silent: true, emptyObjectsUnknown: true }));
}

/** The operation table as TypeScript source. */
export function tableSource(table) {
  const rows = table.map((entry) => `  ${JSON.stringify(entry)},`).join('\n');
  return `${HEADER}import type { OperationDefinition } from '../operation.js';

export const operationTable: readonly OperationDefinition[] = [
${rows}
];
`;
}

/** The ids of the operations, and which of their query parameters and body members have defaults, as types. */
export function idsSource(document, table) {
  const byId = new Map(operationsOf(document).map(({ operation }) => [operation.operationId, operation]));
  const union = (names) => (names.length === 0 ? 'never' : names.map((name) => JSON.stringify(name)).join(' | '));
  const defaults = table.map(({ operationId }) => {
    const operation = byId.get(operationId);
    const query = parametersOf(document, operation)
      .filter((parameter) => parameter.in === 'query' && defaultOf(document, parameter.schema) !== undefined)
      .map(({ name }) => name);
    const body = bodySchemaOf(document, operation);
    const members = Object.entries(body?.properties ?? {})
      .filter(([name, schema]) => defaultOf(document, schema) !== undefined && !body.required?.includes(name))
      .map(([name]) => name);
    return query.length + members.length === 0
      ? undefined
      : `  ${operationId}: { query: ${union(query)}; body: ${union(members)} };`;
  });
  return `${HEADER}
export const operationIds = [
${table.map(({ operationId }) => `  ${JSON.stringify(operationId)},`).join('\n')}
] as const;

export interface OperationDefaults {
${defaults.filter(Boolean).join('\n')}
}
`;
}

/** What a client needs to call each operation, as TypeScript source without any import that runs. */
export function clientRoutesSource(table) {
  const rows = table.map((entry) => {
    const own = entry.routes.find(({ operationId }) => operationId === entry.operationId);
    const route = {
      method: entry.method,
      path: own.openapiPath,
      body: entry.bodyContentTypes,
      statuses: entry.successStatuses,
    };
    return `  ${entry.operationId}: ${JSON.stringify(route)},`;
  });
  return `${HEADER}import type { OperationId } from '@gpuaas/contract';

export interface ClientRoute {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  readonly path: string;
  readonly body: readonly string[];
  readonly statuses: readonly number[];
}

export const clientRoutes: Readonly<Record<OperationId, ClientRoute>> = {
${rows.join('\n')}
};
`;
}

/** The list of error codes as TypeScript source. */
export function errorCodesSource(document) {
  const codes = document.components.schemas.ErrorResponse.properties.code.enum;
  return `${HEADER}
export const errorCodes = [
${codes.map((code) => `  ${JSON.stringify(code)},`).join('\n')}
] as const;
`;
}

/** `anyOf` that only asks for one group of properties or another has no TypeScript form and would end as `unknown`. */
function withoutConditions(schema) {
  const onlyRequires = (branch) => Object.keys(branch).every((word) => word === 'required');
  if (schema.properties === undefined || !schema.anyOf?.every(onlyRequires)) return schema;
  const { anyOf, ...rest } = schema;
  return rest;
}

const defaultOf = (document, schema) => resolve(document, schema)?.default;

function bodySchemaOf(document, operation) {
  const content = resolve(document, operation.requestBody)?.content ?? {};
  const media = content['application/json'] ?? content['application/x-www-form-urlencoded'];
  return resolve(document, media?.schema);
}
