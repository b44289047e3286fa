import type { ValidateFunction } from 'ajv/dist/2020.js';
import {
  type ContentObject,
  type JsonSchema,
  loadOpenApiDocument,
  type OpenApiDocument,
  type OperationObject,
  type ParameterObject,
} from './document.js';
import { operationTable } from './generated/operation-table.js';
import { issuesOf, MAXIMUM_ISSUES, type ValidationIssue } from './issues.js';
import { copyJson } from './json-copy.js';
import type { OperationDefinition, OperationId, PathParameters, QueryParameters, RequestBody } from './operation.js';
import { readParameters } from './parameters.js';
import { type CompilerOptions, SchemaCompiler } from './schema-compiler.js';

export type { ValidationIssue } from './issues.js';

export interface Refused {
  ok: false;
  issues: ValidationIssue[];
}

/** The raw parts of a request, as the router and Node give them: strings, or arrays of them where repeated. */
export interface ParameterInput {
  path: unknown;
  query: unknown;
  headers: unknown;
}

export interface ParsedParameters<Id extends OperationId> {
  ok: true;
  path: PathParameters<Id>;
  query: QueryParameters<Id>;
  /** The headers that the operation declares, by lower-case name. */
  headers: Readonly<Record<string, string>>;
}

export interface OperationValidators<Id extends OperationId = OperationId> {
  /**
   * Reads strings as the types of the contract and fills in defaults. Parameters that the operation does not declare
   * are left out, not refused. A list may be given by repetition, by commas, or both. That Idempotency-Key is there
   * is for the caller to check, since its absence has an answer of its own.
   */
  parameters(input: ParameterInput): ParsedParameters<Id> | Refused;
  /**
   * Checks a parsed body and fills in defaults, on a copy. `undefined` and `null` stand for no body at all. A body
   * that is no structured data (a file, a stream) passes as it is.
   */
  body(value: unknown): { ok: true; value: RequestBody<Id> } | Refused;
  /** Checks an answer; a status from 400 on that the operation does not name must carry an ErrorResponse. */
  response(status: number, value: unknown): { ok: true } | Refused;
}

/** Beyond this many values a refused body is explained by its first error alone. */
const MAXIMUM_EXPLAINED_NODES = 5_000;

const STRUCTURED_TYPES = ['application/json', 'application/x-www-form-urlencoded', 'application/x-ndjson'];

interface Compilers {
  readonly document: OpenApiDocument;
  readonly request: SchemaCompiler;
  readonly requestExplained: SchemaCompiler;
  readonly response: SchemaCompiler;
}

let compilers: Compilers | undefined;

function compilersOf(): Compilers {
  if (compilers) return compilers;
  const document = loadOpenApiDocument();
  const compiler = (direction: CompilerOptions['direction'], allErrors: boolean) =>
    new SchemaCompiler(document, { direction, allErrors });
  compilers = {
    document,
    request: compiler('request', false),
    requestExplained: compiler('request', true),
    response: compiler('response', false),
  };
  return compilers;
}

const definitions: ReadonlyMap<string, OperationDefinition> = new Map(
  operationTable.map((definition) => [definition.operationId, definition]),
);
const cache = new Map<OperationId, OperationValidators>();

/** The validators of an operation. Each of its schemas is compiled when it is first needed, and then kept. */
export function validatorsFor<Id extends OperationId>(operationId: Id): OperationValidators<Id>;
export function validatorsFor(operationId: OperationId): OperationValidators {
  const known = cache.get(operationId);
  if (known) return known;
  const definition = definitions.get(operationId);
  if (!definition) throw new Error(`the contract has no operation ${operationId}`);
  const built = build(compilersOf(), definition);
  cache.set(operationId, built);
  return built;
}

function build(from: Compilers, definition: OperationDefinition): OperationValidators {
  const operation = operationObject(from.document, definition);
  return {
    parameters: parameterValidator(from, operation),
    body: bodyValidator(from, operation),
    response: responseValidator(from, operation),
  };
}

/** The spelling that carries the operation's own id. */
function operationObject(document: OpenApiDocument, definition: OperationDefinition): OperationObject {
  const own = definition.routes.find((route) => route.operationId === definition.operationId);
  const operation = own && document.paths[own.openapiPath]?.[definition.method.toLowerCase()];
  if (!operation) throw new Error(`the document lacks ${definition.operationId}: run npm run contract:build`);
  return operation;
}

function parameterValidator(from: Compilers, operation: OperationObject): OperationValidators['parameters'] {
  const parameters = (operation.parameters ?? []).map((entry) => parameterObject(from.document, entry));
  const schema = parametersSchema(parameters);
  const compile = lazily(() => from.requestExplained.compile<Omit<ParsedParameters<OperationId>, 'ok'>>(schema));
  return (input) => {
    const read = readParameters(from.document, parameters, input);
    if (!read.ok) return read;
    const validate = compile();
    const { values } = read;
    if (!validate(values)) return { ok: false, issues: issuesOf(validate.errors ?? [], '') };
    return { ok: true, path: values.path, query: values.query, headers: values.headers };
  };
}

/** One object with a member a location, so that pointers come out rooted at the location. */
function parametersSchema(parameters: readonly ParameterObject[]): JsonSchema {
  const location = (where: ParameterObject['in'], keyOf: (name: string) => string): JsonSchema => {
    const own = parameters.filter((parameter) => parameter.in === where);
    return {
      type: 'object',
      properties: Object.fromEntries(own.map(({ name, schema }) => [keyOf(name), schema])),
      required: own
        .filter(({ name, required }) => required === true && name !== 'Idempotency-Key')
        .map(({ name }) => keyOf(name)),
    };
  };
  return {
    type: 'object',
    properties: {
      path: location('path', (name) => name),
      query: location('query', (name) => name),
      headers: location('header', (name) => name.toLowerCase()),
    },
  };
}

function bodyValidator(from: Compilers, operation: OperationObject): OperationValidators['body'] {
  const { requestBody } = operation;
  if (!requestBody) return () => ({ ok: true, value: undefined });
  const schema = structuredSchema(requestBody.content);
  const compile = schema && lazily(() => from.request.compile<RequestBody<OperationId>>(schema));
  const compileExplained = schema && lazily(() => from.requestExplained.compile<RequestBody<OperationId>>(schema));
  const isBinaryToo = Object.keys(requestBody.content).some((type) => !STRUCTURED_TYPES.includes(type));
  return (value) => {
    if (value === undefined || value === null) {
      if (requestBody.required !== true) return { ok: true, value: undefined };
      return { ok: false, issues: [{ pointer: '/body', message: 'is required' }] };
    }
    if (!compile || !compileExplained || (isBinaryToo && !isPlainJson(value))) return { ok: true, value };
    const copied = copyJson(value, '/body');
    if (!copied.ok) return { ok: false, issues: [copied.issue] };
    const body = copied.value;
    const validate = compile();
    if (validate(body)) return { ok: true, value: body };
    const issues = issuesOf(validate.errors ?? [], '/body');
    if (copied.nodes > MAXIMUM_EXPLAINED_NODES) return { ok: false, issues };
    const explain = compileExplained();
    explain(body);
    return { ok: false, issues: issuesOf(explain.errors ?? [], '/body').slice(0, MAXIMUM_ISSUES) };
  };
}

function responseValidator(from: Compilers, operation: OperationObject): OperationValidators['response'] {
  const compiled = new Map<number, ValidateFunction<unknown> | undefined>();
  return (status, value) => {
    const content = responseContent(from.document, operation, status);
    if (content === undefined)
      return {
        ok: false,
        issues: [{ pointer: '', message: `status ${status} is none that the operation may answer` }],
      };
    const schema = content['application/json']?.schema;
    const hasContent = Object.keys(content).length > 0;
    if (!hasContent)
      return value === undefined || value === null
        ? { ok: true }
        : { ok: false, issues: [{ pointer: '/body', message: `status ${status} carries no body` }] };
    // Another media type (CSV, a file) is text or bytes, of which the contract says nothing.
    if (!schema || (Object.keys(content).length > 1 && !isPlainJson(value))) return { ok: true };
    const known = compiled.get(status) ?? from.response.compile<unknown>(schema);
    compiled.set(status, known);
    return known(value) ? { ok: true } : { ok: false, issues: issuesOf(known.errors ?? [], '/body') };
  };
}

/** The media types of a status; empty for an answer without a body, undefined for a status that must not occur. */
function responseContent(
  document: OpenApiDocument,
  operation: OperationObject,
  status: number,
): ContentObject | undefined {
  const entry = operation.responses[String(status)];
  if (entry === undefined) return status >= 400 ? document.components.responses.BadRequest?.content : undefined;
  if (!('$ref' in entry)) return entry.content ?? {};
  const name = entry.$ref.slice(entry.$ref.lastIndexOf('/') + 1);
  return document.components.responses[name]?.content ?? {};
}

function structuredSchema(content: ContentObject): JsonSchema | undefined {
  return STRUCTURED_TYPES.map((type) => content[type]?.schema).find((schema) => schema !== undefined);
}

/** Values that JSON parsing makes, as opposed to text, bytes and streams. */
function isPlainJson(value: unknown): boolean {
  if (Array.isArray(value)) return true;
  if (value === null || typeof value !== 'object') return typeof value !== 'string' && value !== undefined;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

function parameterObject(
  document: OpenApiDocument,
  entry: NonNullable<OperationObject['parameters']>[number],
): ParameterObject {
  if (!('$ref' in entry)) return entry;
  const found = document.components.parameters[entry.$ref.slice(entry.$ref.lastIndexOf('/') + 1)];
  if (!found) throw new Error(`the contract has no parameter ${entry.$ref}`);
  return found;
}

function lazily<T>(make: () => T): () => T {
  let made: { value: T } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}
