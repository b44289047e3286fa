import { lookup } from './document.mjs';

/** Words of JSON Schema that the derived document uses; a new one is to be taught here before it is trusted. */
const KNOWN_WORDS = new Set([
  '$ref',
  'type',
  'enum',
  'const',
  'format',
  'pattern',
  'default',
  'deprecated',
  'description',
  'title',
  'example',
  'examples',
  'properties',
  'required',
  'additionalProperties',
  'minProperties',
  'maxProperties',
  'items',
  'minItems',
  'maxItems',
  'uniqueItems',
  'minimum',
  'maximum',
  'minLength',
  'maxLength',
  'anyOf',
  'oneOf',
  'allOf',
  'x-max-bytes',
  'x-enum-varnames',
]);

/** Reasons, by simple rules, why a schema of the document admits no value or cannot be read; each with its place. */
export function findDefects(document, schema, place) {
  const defects = [];
  const report = (at, text) => defects.push(`${at}: ${text}`);
  const visit = (node, at) => {
    if (node === null || typeof node !== 'object' || Array.isArray(node)) return report(at, 'is no schema');
    for (const word of Object.keys(node))
      if (word === 'nullable') report(at, 'nullable is left over');
      else if (!KNOWN_WORDS.has(word)) report(at, `unknown word ${word}`);
    if (node.$ref !== undefined) {
      if (lookup(document, node.$ref) === undefined) report(at, `dangling reference ${node.$ref}`);
      if (Object.keys(node).some((word) => word !== '$ref' && word !== 'description'))
        report(at, 'words beside a reference');
      return;
    }
    if (node.allOf !== undefined) report(at, 'allOf is left over');
    const types = node.type === undefined ? undefined : [node.type].flat();
    if (node.enum !== undefined) checkEnum(node, types, at, report);
    if (node.default !== undefined) checkDefault(node, at, report);
    for (const [low, high] of [
      ['minimum', 'maximum'],
      ['minLength', 'maxLength'],
      ['minItems', 'maxItems'],
      ['minProperties', 'maxProperties'],
    ])
      if (node[low] !== undefined && node[high] !== undefined && node[low] > node[high])
        report(at, `${low} above ${high}`);
    if (node.additionalProperties === false)
      for (const name of node.required ?? [])
        if (!Object.hasOwn(node.properties ?? {}, name)) report(at, `requires ${name}, which it forbids`);
    if (types?.includes('array') && node.items === undefined) report(at, 'an array without items');
    if (types?.includes('object') && node.additionalProperties === undefined && node.properties === undefined)
      report(at, 'an object that says nothing');
    for (const [name, property] of Object.entries(node.properties ?? {})) visit(property, `${at}.${name}`);
    if (node.items !== undefined) visit(node.items, `${at}[]`);
    if (typeof node.additionalProperties === 'object') visit(node.additionalProperties, `${at}.*`);
    for (const word of ['anyOf', 'oneOf'])
      for (const [index, branch] of (node[word] ?? []).entries()) visit(branch, `${at}|${index}`);
  };
  visit(schema, place);
  return defects;
}

function checkEnum(node, types, at, report) {
  if (node.enum.length === 0) report(at, 'an empty enum');
  if (new Set(node.enum).size !== node.enum.length) report(at, 'an enum that repeats a value');
  if (types && !node.enum.every((value) => types.includes(typeNameOf(value))))
    report(at, 'an enum value of another type');
  if (types?.includes('null') && !node.enum.includes(null)) report(at, 'null is among the types but not in the enum');
}

function checkDefault(node, at, report) {
  const value = node.default;
  if (node.enum && !node.enum.includes(value)) report(at, `default ${value} is not in the enum`);
  if (typeof value === 'number' && (value < (node.minimum ?? -Infinity) || value > (node.maximum ?? Infinity)))
    report(at, `default ${value} is out of bounds`);
  if (
    typeof value === 'string' &&
    (value.length < (node.minLength ?? 0) || value.length > (node.maxLength ?? Infinity))
  )
    report(at, `default ${value} has a length out of bounds`);
}

const typeNameOf = (value) =>
  value === null ? 'null' : Array.isArray(value) ? 'array' : Number.isInteger(value) ? 'integer' : typeof value;

const UUID = '3f2504e0-4f89-41d3-9a0c-0305e82c3301';
const FORMAT_EXAMPLES = {
  uuid: UUID,
  'date-time': '2026-01-31T12:00:00Z',
  date: '2026-01-31',
  email: 'ann@example.com',
  uri: 'https://example.com/',
  byte: 'AAAA',
  binary: 'a',
};

/** Strings tried against a pattern, in this order, where none is made from its format. */
const PATTERN_CANDIDATES = [
  'a',
  'abc',
  'USD',
  'A1',
  '1',
  '1.0.0',
  'a.b',
  '/a',
  'sha256:'.padEnd(71, 'a'),
  'a'.repeat(64),
  'a'.repeat(40),
  '10.0.0.1',
  '10.0.0.0/8',
  'aa:bb:cc:dd:ee:ff',
  'https://example.com/',
  'ssh-ed25519 AAAA',
  '2026-01',
  'https://a.example.com',
];

/**
 * A value that the schema should admit, with the properties that it requires (`fill: 'required'`), all of them
 * (`'all'`), or all with null wherever that is admitted (`'null'`). Returns undefined where there is none.
 */
export function instanceOf(document, schema, fill, above = []) {
  if (schema === undefined) return undefined;
  if (schema.$ref !== undefined) {
    if (above.filter((name) => name === schema.$ref).length > 1) return undefined;
    return instanceOf(document, lookup(document, schema.$ref), fill, [...above, schema.$ref]);
  }
  const inner = (node) => instanceOf(document, node, fill, above);
  const branches = schema.anyOf ?? schema.oneOf;
  if (branches && schema.properties === undefined) {
    const values = branches
      .map((branch) => ({ branch, value: inner(branch) }))
      .filter(({ value }) => value !== undefined);
    return (fill === 'null' ? (values.find(({ value }) => value === null) ?? values[0]) : values[0])?.value;
  }
  const types = [schema.type].flat();
  if (fill === 'null' && types.includes('null')) return null;
  if (schema.enum) return schema.enum[0];
  switch (types[0]) {
    case 'null':
      return null;
    case 'boolean':
      return true;
    case 'integer':
    case 'number':
      return Math.max(schema.minimum ?? 0, Math.min(1, schema.maximum ?? 1));
    case 'string':
      return stringOf(schema);
    case 'array': {
      const entry = inner(schema.items);
      const length = Math.max(schema.minItems ?? 0, fill === 'required' ? 0 : 1);
      if (length === 0) return [];
      if (entry === undefined) return (schema.minItems ?? 0) === 0 ? [] : undefined;
      return Array.from({ length: schema.uniqueItems ? Math.max(1, schema.minItems ?? 0) : length }, () => entry);
    }
    case 'object':
      return objectOf(schema, fill, inner);
    default:
      return 'anything';
  }
}

function objectOf(schema, fill, inner) {
  const required = new Set([...(schema.required ?? []), ...(schema.anyOf?.[0]?.required ?? [])]);
  const result = {};
  for (const [name, property] of Object.entries(schema.properties ?? {})) {
    if (fill === 'required' && !required.has(name) && schema.minProperties === undefined) continue;
    const value = inner(property);
    if (value === undefined && required.has(name)) return undefined;
    if (value !== undefined) result[name] = value;
  }
  if (
    schema.minProperties !== undefined &&
    Object.keys(result).length < schema.minProperties &&
    schema.additionalProperties !== false
  )
    result.any = typeof schema.additionalProperties === 'object' ? inner(schema.additionalProperties) : 'value';
  return result;
}

function stringOf(schema) {
  const fits = (text) =>
    text.length >= (schema.minLength ?? 0) &&
    text.length <= (schema.maxLength ?? Infinity) &&
    (schema.pattern === undefined || new RegExp(schema.pattern, 'u').test(text));
  const byFormat = FORMAT_EXAMPLES[schema.format];
  if (byFormat !== undefined) return fits(byFormat) ? byFormat : undefined;
  const longEnough = 'a'.repeat(Math.max(1, schema.minLength ?? 1));
  return [
    longEnough,
    ...PATTERN_CANDIDATES,
    ...PATTERN_CANDIDATES.map((one) => one.padEnd(schema.minLength ?? 0, 'a')),
  ].find(fits);
}
