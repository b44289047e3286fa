import { randomUUID } from 'node:crypto';
import { loadOpenApiDocument, type OperationDefinition, type OperationRoute } from '@gpuaas/contract';

/** A request that follows the contract and names nothing that exists, but for what `named` says. */
export interface ExampleRequest {
  readonly method: OperationDefinition['method'];
  /** with its query */
  readonly path: string;
  /** path parameters by name, for those who check them apart from the URL */
  readonly pathParameters: Readonly<Record<string, string>>;
  readonly query: Readonly<Record<string, string>>;
  /** lower-case names */
  readonly headers: Readonly<Record<string, string>>;
  /** undefined where the operation takes none; bytes where it takes no JSON */
  readonly body: unknown;
}

/** Values for path parameters and headers by name; everything else is made up. */
export type NamedValues = Readonly<Record<string, string>>;

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
type Schema = Readonly<Record<string, unknown>>;

const isRecord = (value: unknown): value is Schema =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const document = loadOpenApiDocument();

/** Required parameters, the smallest valid body, and a fresh Idempotency-Key where one means something. */
export function exampleRequest(
  definition: OperationDefinition,
  route: OperationRoute,
  named: NamedValues,
): ExampleRequest {
  const operation = document.paths[route.openapiPath]?.[definition.method.toLowerCase()];
  if (operation === undefined) throw new Error(`the document lacks ${definition.method} ${route.openapiPath}`);
  const pathParameters: Record<string, string> = {};
  const query: Record<string, string> = {};
  const headers: Record<string, string> = {};
  for (const declared of operation.parameters ?? []) {
    const parameter = resolve(declared);
    const { name, in: place, required, schema } = parameter;
    if (typeof name !== 'string') continue;
    const key = place === 'header' ? name.toLowerCase() : name;
    if (required !== true && named[key] === undefined) continue;
    const value = named[key] ?? String(exampleOf(isRecord(schema) ? schema : {}));
    if (place === 'path') pathParameters[name] = value;
    else if (place === 'query') query[name] = value;
    else if (place === 'header') headers[key] = value;
  }
  if (definition.idempotencyKey !== 'none') headers['idempotency-key'] = randomUUID();
  const filled = route.openapiPath.replace(/\{(\w+)\}/g, (_, name: string) =>
    encodeURIComponent(pathParameters[name] ?? randomUUID()),
  );
  const search = new URLSearchParams(query).toString();
  const contentType = preferredType(definition);
  if (contentType !== null) headers['content-type'] = contentType;
  return {
    method: definition.method,
    path: search === '' ? filled : `${filled}?${search}`,
    pathParameters,
    query,
    headers,
    body: contentType === null ? undefined : exampleBody(operation, contentType),
  };
}

function preferredType({ body, bodyContentTypes }: OperationDefinition): string | null {
  if (body === 'none') return null;
  return bodyContentTypes.includes('application/json') ? 'application/json' : (bodyContentTypes[0] ?? null);
}

function exampleBody(operation: { readonly requestBody?: unknown }, contentType: string): unknown {
  const content = isRecord(operation.requestBody) ? operation.requestBody.content : undefined;
  const media = isRecord(content) ? content[contentType] : undefined;
  const schema = isRecord(media) && isRecord(media.schema) ? media.schema : {};
  switch (contentType) {
    case 'application/json':
      return exampleOf(schema);
    case 'application/x-www-form-urlencoded': {
      const form = exampleOf(schema);
      return isRecord(form)
        ? new URLSearchParams(
            Object.entries(form).map(([key, value]): [string, string] => [key, String(value)]),
          ).toString()
        : '';
    }
    case 'application/x-ndjson':
      return `${JSON.stringify(exampleOf(schema))}\n`;
    default:
      return Buffer.from('example');
  }
}

/** The smallest value that a schema of the contract admits: required members, first choices, lower bounds. */
export function exampleOf(schema: Schema, depth = 0): Json {
  if (depth > 40) throw new Error('a schema requires itself without end');
  const target = resolve(schema);
  const [choice] = listOf(target.enum);
  if (choice !== undefined) return asJson(listOf(target.enum).find((value) => value !== null) ?? null);
  const branch = [...listOf(target.anyOf), ...listOf(target.oneOf)].filter(isRecord).find((one) => one.type !== 'null');
  if (branch !== undefined && target.type === undefined) return exampleOf(branch, depth + 1);
  switch (typeOf(target)) {
    case 'object':
      return exampleObject(target, branch, depth);
    case 'array': {
      const items = isRecord(target.items) ? target.items : {};
      const length = numberOf(target.minItems) ?? 0;
      return Array.from({ length }, () => exampleOf(items, depth + 1));
    }
    case 'integer':
    case 'number':
      return numberOf(target.minimum) ?? Math.min(1, numberOf(target.maximum) ?? 1);
    case 'boolean':
      return false;
    case 'null':
      return null;
    default:
      return exampleText(target);
  }
}

function exampleObject(schema: Schema, branch: Schema | undefined, depth: number): Json {
  const properties = isRecord(schema.properties) ? schema.properties : {};
  // A branch beside a type adds demands: `anyOf: [{ required: [a] }, { required: [b] }]`.
  const needed = [...listOf(schema.required), ...listOf(branch?.required)].filter((name) => typeof name === 'string');
  const spare = [...Object.keys(properties).filter((name) => !needed.includes(name)), 'example'];
  const missing = Math.max(0, (numberOf(schema.minProperties) ?? 0) - needed.length);
  const names = new Set([...needed, ...spare.slice(0, missing)]);
  return Object.fromEntries(
    [...names].map((name) => {
      const property = properties[name];
      const narrowed = isRecord(branch?.properties) ? branch.properties[name] : undefined;
      return [
        name,
        exampleOf(
          isRecord(narrowed) && narrowed.type !== undefined ? narrowed : isRecord(property) ? property : {},
          depth + 1,
        ),
      ];
    }),
  );
}

const BY_FORMAT: Readonly<Record<string, () => string>> = {
  uuid: () => randomUUID(),
  email: () => `someone-${randomUUID().slice(0, 8)}@example.test`,
  uri: () => 'https://example.test/callback',
  'date-time': () => '2030-01-01T00:00:00Z',
  date: () => '2030-01-01',
  byte: () => 'ZXhhbXBsZQ==',
};

const BY_PATTERN: readonly string[] = ['example', 'USD', 'a'.repeat(64), `sha256:${'a'.repeat(64)}`];

function exampleText(schema: Schema): string {
  const made = typeof schema.format === 'string' ? BY_FORMAT[schema.format]?.() : undefined;
  if (made !== undefined) return made;
  if (typeof schema.pattern === 'string') {
    const pattern = new RegExp(schema.pattern, 'u');
    const fitting = BY_PATTERN.find((text) => pattern.test(text));
    if (fitting === undefined) throw new Error(`no example for the pattern ${schema.pattern}`);
    return fitting;
  }
  const least = numberOf(schema.minLength) ?? 1;
  const text = 'example'.padEnd(least, 'x');
  return text.slice(0, Math.max(least, numberOf(schema.maxLength) ?? text.length));
}

function resolve(schema: unknown): Schema {
  let current = schema;
  while (isRecord(current) && typeof current.$ref === 'string') {
    const target = current.$ref
      .slice(2)
      .split('/')
      .reduce<unknown>((node, key) => (isRecord(node) ? node[key] : undefined), document);
    if (target === undefined) throw new Error(`the document lacks ${current.$ref}`);
    current = target;
  }
  return isRecord(current) ? current : {};
}

function typeOf(schema: Schema): string {
  if (Array.isArray(schema.type)) return String(schema.type.find((type) => type !== 'null') ?? 'null');
  if (typeof schema.type === 'string') return schema.type;
  return isRecord(schema.properties) ? 'object' : 'string';
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

function numberOf(value: unknown): number | undefined {
  return typeof value === 'number' ? value : undefined;
}

function asJson(value: unknown): Json {
  return typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean' ? value : null;
}
