import { loadOpenApiDocument, type OperationDefinition, type OperationRoute } from '@gpuaas/contract';
import fc from 'fast-check';

/** One request as it goes over the wire: nothing in it has been made safe. */
export interface HostileRequest {
  readonly definition: OperationDefinition;
  readonly method: string;
  /** with its query, as written */
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer | null;
}

/** Ids of things that exist by what they are, for the fields and parameters that name such a thing. */
export interface KnownIds {
  readonly projects: readonly string[];
  readonly tenants: readonly string[];
  readonly users: readonly string[];
  /** of other kinds, by the name that they have in paths and bodies */
  readonly named: Readonly<Record<string, readonly string[]>>;
}

type Schema = Readonly<Record<string, unknown>>;

const document = loadOpenApiDocument();
const isRecord = (value: unknown): value is Schema =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const listOf = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);
const numberOf = (value: unknown): number | undefined => (typeof value === 'number' ? value : undefined);

/** Text that databases, parsers, spreadsheets and terminals are known to trip over. */
const NASTY_TEXT = fc.constantFrom(
  '',
  ' ',
  '\0',
  'a\0b',
  '\ud800',
  'x\udfff',
  '\u{1f4a5}',
  '\u202e\u200b\ufeff',
  'e\u0301',
  "'; DROP TABLE users; --",
  '%',
  '_%\\',
  '\\',
  '"',
  '=HYPERLINK("http://x")',
  '../../etc/passwd',
  '{}',
  '__proto__',
  'constructor',
  'null',
  'NaN',
  'line\r\nX-Injected: yes',
  'a'.repeat(255),
  'a'.repeat(5_000),
  'ß'.repeat(254),
  '00000000-0000-0000-0000-000000000000',
  'FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF',
  '\\x00',
  '1e400',
  '-0',
);

const NASTY_NUMBER = fc.constantFrom(
  0,
  -0,
  -1,
  1,
  1.5,
  200,
  201,
  32_768,
  2 ** 31 - 1,
  2 ** 31,
  -(2 ** 31) - 1,
  2 ** 53 - 1,
  -(2 ** 53) + 1,
  2 ** 53,
  1e308,
);

const TIMES = fc.constantFrom(
  '2026-01-31T12:00:00Z',
  '0001-01-01T00:00:00+14:00',
  '0001-01-01T00:00:00Z',
  '9999-12-31T23:59:59.999999999-14:00',
  '9999-12-31T23:59:59Z',
  '2024-02-29T23:59:59.123456+02:00',
  '1969-12-31T23:59:59Z',
);

const NASTY_JSON = fc.oneof(
  NASTY_TEXT,
  NASTY_NUMBER,
  fc.constantFrom(null, true, false, [], {}, [[]], { a: { b: 1 } }),
);

/** Bodies that are no JSON, or JSON of a kind that no client writes. */
const NASTY_BYTES: fc.Arbitrary<Buffer> = fc.constantFrom(
  Buffer.from(''),
  Buffer.from('{'),
  Buffer.from('null'),
  Buffer.from('[]'),
  Buffer.from('"text"'),
  Buffer.from('1e999'),
  Buffer.from('\ufeff{}'),
  Buffer.from('{"a":1,"a":2}'),
  Buffer.from('{"__proto__":{"admin":true}}'),
  Buffer.from('{"constructor":{"prototype":{"admin":true}}}'),
  Buffer.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x3a, 0x31, 0x7d]),
  Buffer.from([0x00]),
  Buffer.from(`${'['.repeat(20_000)}${']'.repeat(20_000)}`),
  Buffer.from(`${'{"a":'.repeat(5_000)}1${'}'.repeat(5_000)}`),
);

const CONTENT_TYPES = fc.constantFrom(
  'application/json',
  'application/json; charset=utf-16',
  'APPLICATION/JSON',
  'application/json, text/plain',
  'text/plain',
  'application/x-www-form-urlencoded',
  'multipart/form-data; boundary=x',
  'application/octet-stream',
  ';',
  'json',
);

/** Requests for these operations, most of them near enough to the contract to reach a handler. */
export function hostileRequests(
  operations: readonly OperationDefinition[],
  known: KnownIds,
): fc.Arbitrary<HostileRequest> {
  const calls = operations.flatMap((definition) =>
    definition.routes.map((route) => requestTo(definition, route, known)),
  );
  return fc.oneof(...calls);
}

function requestTo(
  definition: OperationDefinition,
  route: OperationRoute,
  known: KnownIds,
): fc.Arbitrary<HostileRequest> {
  const operation = document.paths[route.openapiPath]?.[definition.method.toLowerCase()];
  if (operation === undefined) throw new Error(`the document lacks ${definition.method} ${route.openapiPath}`);
  const parameters = (operation.parameters ?? []).map(resolve);
  return fc
    .record({
      path: pathOf(route, parameters, known),
      query: queryOf(parameters, known),
      headers: headersOf(definition, known),
      body: bodyOf(definition, operation, known),
    })
    .map(({ path, query, headers, body }) => ({
      definition,
      method: definition.method,
      path: query === '' ? path : `${path}?${query}`,
      headers: body === null ? headers : { ...headers, 'content-type': body.contentType },
      body: body?.bytes ?? null,
    }));
}

function pathOf(route: OperationRoute, parameters: readonly Schema[], known: KnownIds): fc.Arbitrary<string> {
  const names = [...route.openapiPath.matchAll(/\{(\w+)\}/g)].map(([, name]) => name ?? '');
  const segment = (name: string) => {
    const schema = parameters.find((parameter) => parameter.in === 'path' && parameter.name === name)?.schema;
    return fc.oneof(
      { weight: 24, arbitrary: schemaValue(name, schema, known).map((value) => percentEncoded(String(value))) },
      { weight: 1, arbitrary: NASTY_TEXT.map(percentEncoded) },
      { weight: 1, arbitrary: fc.constantFrom('%', '%zz', '%00', '..', '%2e%2e', '%2f', '', '%ff', 'a'.repeat(3000)) },
    );
  };
  return fc.tuple(...names.map(segment)).map((values) => {
    let index = 0;
    return route.openapiPath.replace(/\{\w+\}/g, () => values[index++] ?? '');
  });
}

function queryOf(parameters: readonly Schema[], known: KnownIds): fc.Arbitrary<string> {
  const declared = parameters.filter(({ in: place }) => place === 'query');
  const pairs = declared.map(({ name, schema, required }) => {
    const label = encodeURIComponent(String(name));
    const good = schemaValue(String(name), schema, known).map((value) =>
      (Array.isArray(value) ? value : [value]).map((one) => `${label}=${percentEncoded(textOf(one))}`).join('&'),
    );
    const bad = fc.oneof(
      NASTY_TEXT.map((text) => `${label}=${percentEncoded(text)}`),
      NASTY_NUMBER.map((number) => `${label}=${number}`),
      fc.constantFrom(`${label}`, `${label}=%ff`, `${label}=%zz`, `${label}[a]=1`, `${label}=1&${label}=2`),
    );
    return fc.oneof(
      { weight: required === true ? 24 : 8, arbitrary: good },
      { weight: required === true ? 0 : 16, arbitrary: fc.constant('') },
      { weight: 1, arbitrary: bad },
    );
  });
  return fc.tuple(...pairs).map((parts) => parts.filter((part) => part !== '').join('&'));
}

function headersOf(definition: OperationDefinition, known: KnownIds): fc.Arbitrary<Record<string, string>> {
  const place = (kind: 'required' | 'optional' | 'none', ids: readonly string[]) =>
    kind === 'none'
      ? fc.constant(null)
      : fc.oneof(
          { weight: 24, arbitrary: fc.constantFrom(...ids) },
          { weight: kind === 'required' ? 1 : 12, arbitrary: fc.constant(null) },
          { weight: 1, arbitrary: fc.constantFrom('', 'x', ids[0]?.toUpperCase() ?? '', `${ids[0]}, ${ids[0]}`) },
        );
  return fc
    .record({
      'x-project-id': place(definition.projectHeader, known.projects),
      'x-tenant-id': place(definition.tenantHeader, known.tenants),
      'idempotency-key': fc.oneof(
        { weight: 16, arbitrary: fc.uuid() },
        { weight: 8, arbitrary: fc.constant(null) },
        { weight: 1, arbitrary: fc.constantFrom('same', '', ' ', 'k'.repeat(200), '\u00ff\u00fe') },
      ),
      'x-request-id': fc.constantFrom(null, null, null, 'ok', 'a'.repeat(500), '\u00e9', '{}'),
      traceparent: fc.constantFrom(null, null, null, '00-0-0-0', `00-${'0'.repeat(32)}-${'0'.repeat(16)}-00`, 'x'),
      'user-agent': fc.constantFrom(null, null, '=1+1', '\u00ff'.repeat(700)),
      'last-event-id': fc.constantFrom(null, null, null, '-1', '9223372036854775808'),
    })
    .map((headers) =>
      Object.fromEntries(Object.entries(headers).flatMap(([name, value]) => (value === null ? [] : [[name, value]]))),
    );
}

function bodyOf(
  definition: OperationDefinition,
  operation: { readonly requestBody?: unknown },
  known: KnownIds,
): fc.Arbitrary<{ contentType: string; bytes: Buffer } | null> {
  if (definition.body === 'none') {
    return fc.oneof(
      { weight: 9, arbitrary: fc.constant(null) },
      { weight: 1, arbitrary: fc.record({ contentType: CONTENT_TYPES, bytes: NASTY_BYTES }) },
    );
  }
  const content = isRecord(operation.requestBody) ? operation.requestBody.content : undefined;
  const media = isRecord(content) ? content['application/json'] : undefined;
  const schema = isRecord(media) ? media.schema : undefined;
  const json = (value: fc.Arbitrary<unknown>) =>
    value.map((one) => ({ contentType: 'application/json', bytes: Buffer.from(JSON.stringify(one) ?? 'null') }));
  const first = definition.bodyContentTypes[0] ?? 'application/json';
  const fitting =
    schema === undefined
      ? NASTY_BYTES.map((bytes) => ({ contentType: first, bytes }))
      : json(schemaValue('', schema, known));
  return fc.oneof(
    { weight: 12, arbitrary: fitting },
    { weight: 4, arbitrary: json(spoilt(schemaValue('', schema, known))) },
    { weight: 2, arbitrary: fc.record({ contentType: CONTENT_TYPES, bytes: NASTY_BYTES }) },
    { weight: 1, arbitrary: fc.constant(null) },
  );
}

/** An object with one member put wrong, left out or added. */
function spoilt(value: fc.Arbitrary<unknown>): fc.Arbitrary<unknown> {
  return fc.tuple(value, fc.nat(), NASTY_JSON, fc.nat(5)).map(([whole, choice, wrong, how]) => {
    if (!isRecord(whole)) return wrong;
    const names = Object.keys(whole);
    const name = names[choice % Math.max(1, names.length)];
    if (how === 0 || name === undefined) return { ...whole, surprise: wrong };
    const { [name]: _old, ...rest } = whole;
    return how === 1 ? rest : { ...rest, [name]: wrong };
  });
}

/** Mostly what the schema admits, at its edges. */
function schemaValue(name: string, declared: unknown, known: KnownIds, depth = 0): fc.Arbitrary<unknown> {
  const schema = resolve(declared);
  if (depth > 6) return fc.constant(null);
  const choices = listOf(schema.enum);
  if (choices.length > 0) return fc.constantFrom(...choices);
  const branches = [...listOf(schema.anyOf), ...listOf(schema.oneOf)].filter(isRecord);
  if (branches.length > 0 && schema.type === undefined)
    return fc.oneof(...branches.map((branch) => schemaValue(name, branch, known, depth + 1)));
  const types = Array.isArray(schema.type) ? schema.type : [schema.type ?? (schema.properties ? 'object' : 'string')];
  return fc.oneof(
    ...types.map((type) => {
      switch (type) {
        case 'object':
          return objectOf(schema, known, depth);
        case 'array':
          return fc.array(schemaValue(name, schema.items, known, depth + 1), {
            minLength: numberOf(schema.minItems) ?? 0,
            maxLength: Math.max(numberOf(schema.minItems) ?? 0, Math.min(numberOf(schema.maxItems) ?? 3, 3)),
          });
        case 'integer':
        case 'number':
          return numberIn(schema);
        case 'boolean':
          return fc.boolean();
        case 'null':
          return fc.constant(null);
        default:
          return textOfSchema(name, schema, known);
      }
    }),
  );
}

function objectOf(schema: Schema, known: KnownIds, depth: number): fc.Arbitrary<unknown> {
  const properties = isRecord(schema.properties) ? schema.properties : {};
  const required = new Set(listOf(schema.required));
  if (Object.keys(properties).length === 0) {
    return fc.dictionary(fc.oneof(fc.constant('a'), NASTY_TEXT), NASTY_JSON, { maxKeys: 3 });
  }
  const members = Object.entries(properties).map(([name, property]) => {
    const value = schemaValue(name, property, known, depth + 1).map((one) => ({ present: true, one }));
    const absent = fc.constant({ present: false, one: null });
    return (required.has(name) ? value : fc.oneof(value, absent)).map((choice) => ({ name, ...choice }));
  });
  return fc
    .tuple(...members)
    .map((chosen) => Object.fromEntries(chosen.filter(({ present }) => present).map(({ name, one }) => [name, one])));
}

function numberIn(schema: Schema): fc.Arbitrary<number> {
  const least = numberOf(schema.minimum);
  const most = numberOf(schema.maximum);
  const fits = (value: number) => (least === undefined || value >= least) && (most === undefined || value <= most);
  const edges = [least, most, 0, 1, -1, 2 ** 31 - 1, 2 ** 31, 2 ** 53 - 1, -(2 ** 53) + 1].filter(
    (value) => value !== undefined,
  );
  const fitting = edges.filter(fits);
  return fitting.length === 0 ? NASTY_NUMBER : fc.constantFrom(...fitting);
}

function textOfSchema(name: string, schema: Schema, known: KnownIds): fc.Arbitrary<string> {
  switch (schema.format) {
    case 'uuid':
      return idOf(name, known);
    case 'date-time':
      return TIMES;
    case 'date':
      return fc.constantFrom('2026-01-31', '0001-01-01', '9999-12-31');
    case 'email':
      return fc.constantFrom('a@example.test', `${'a'.repeat(64)}@example.test`);
    case 'uri':
      return fc.constantFrom('https://example.test/', 'http://169.254.169.254/latest', 'file:///etc/passwd', 'x:');
    case 'byte':
      return fc.constantFrom('', 'AAAA', '//79');
    default:
      break;
  }
  const least = numberOf(schema.minLength) ?? 0;
  const most = numberOf(schema.maxLength) ?? Number.POSITIVE_INFINITY;
  const pattern = typeof schema.pattern === 'string' ? new RegExp(schema.pattern, 'u') : null;
  const text = fc.oneof(
    NASTY_TEXT,
    idOf(name, known),
    fc.constantFrom('example', 'USD', 'a'.repeat(64), `sha256:${'a'.repeat(64)}`, 'ubuntu', '10.0.0.1', 'h200-sxm'),
    fc.string({ unit: 'binary', maxLength: 40 }),
    fc.constant('é'.repeat(Math.min(most, 300))),
    fc.constant('x'.repeat(Math.max(1, Math.min(least, 4000)))),
  );
  return text.map((one) => {
    const sized = one.padEnd(least, 'x').slice(0, Math.min(most, 100_000));
    return pattern === null || pattern.test(sized) ? sized : 'example';
  });
}

function idOf(name: string, known: KnownIds): fc.Arbitrary<string> {
  const strange = fc.oneof(fc.uuid(), fc.constant('ffffffff-ffff-ffff-ffff-ffffffffffff'));
  const kin = kinOf(name, known);
  if (kin.length === 0) return strange;
  return fc.oneof(
    { weight: 6, arbitrary: fc.constantFrom(...kin) },
    { weight: 1, arbitrary: fc.constantFrom(...kin).map((id) => id.toUpperCase()) },
    { weight: 1, arbitrary: strange },
  );
}

function kinOf(name: string, known: KnownIds): readonly string[] {
  const exact = known.named[name];
  if (exact !== undefined) return exact;
  if (/project/.test(name)) return known.projects;
  if (/tenant|org/.test(name)) return known.tenants;
  return /user|actor/.test(name) ? known.users : [];
}

function resolve(schema: unknown): Schema {
  let current = schema;
  while (isRecord(current) && typeof current.$ref === 'string') {
    current = current.$ref
      .slice(2)
      .split('/')
      .reduce<unknown>((node, key) => (isRecord(node) ? node[key] : undefined), document);
  }
  return isRecord(current) ? current : {};
}

const textOf = (value: unknown): string => (isRecord(value) ? JSON.stringify(value) : String(value));

/** Percent-encoded whatever it holds: half of a surrogate pair goes as the three bytes that UTF-8 would give it. */
function percentEncoded(text: string): string {
  return [...text]
    .map((character) =>
      /[\ud800-\udfff]/.test(character) && character.length === 1 ? '%ED%A0%80' : encodeURIComponent(character),
    )
    .join('');
}
