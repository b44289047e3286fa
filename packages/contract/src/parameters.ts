import type { JsonSchema, OpenApiDocument, ParameterObject } from './document.js';
import { pointerToken, type ValidationIssue } from './issues.js';

const INTEGER = /^-?\d{1,19}$/;
const DECIMAL = /^-?\d+(?:\.\d+)?$/;

export type ReadParameters =
  | {
      ok: true;
      values: { path: Record<string, unknown>; query: Record<string, unknown>; headers: Record<string, unknown> };
    }
  | { ok: false; issues: ValidationIssue[] };

/**
 * Picks the declared parameters out of the raw request and reads their strings as the types of the contract. What
 * cannot be read stays a string, which the schema then refuses with the right words.
 */
export function readParameters(
  document: OpenApiDocument,
  parameters: readonly ParameterObject[],
  input: { path: unknown; query: unknown; headers: unknown },
): ReadParameters {
  const values = { path: emptyRecord(), query: emptyRecord(), headers: emptyRecord() };
  const issues: ValidationIssue[] = [];
  for (const parameter of parameters) {
    const place = placeOf(parameter);
    if (!place) continue;
    const raw = rawValue(input[place.part], place, parameter);
    if (raw === undefined) continue;
    const pointer = `/${place.part}${pointerToken(place.key)}`;
    const read = readValue(document, parameter.schema, raw);
    if (!read.ok) issues.push({ pointer, message: read.message });
    else if (read.value !== undefined) values[place.part][place.key] = read.value;
  }
  return issues.length > 0 ? { ok: false, issues } : { ok: true, values };
}

interface Place {
  readonly part: 'path' | 'query' | 'headers';
  readonly key: string;
}

function placeOf({ in: where, name }: ParameterObject): Place | undefined {
  if (where === 'header') return { part: 'headers', key: name.toLowerCase() };
  return where === 'path' || where === 'query' ? { part: where, key: name } : undefined;
}

/** A final path parameter that may contain slashes comes from the router under the name of its wildcard. */
function rawValue(source: unknown, { part, key }: Place, parameter: ParameterObject): unknown {
  if (source === null || typeof source !== 'object') return undefined;
  if (Object.hasOwn(source, key)) return Reflect.get(source, key);
  return part === 'path' && parameter.required === true && Object.hasOwn(source, '*')
    ? Reflect.get(source, '*')
    : undefined;
}

type ReadValue = { ok: true; value: unknown } | { ok: false; message: string };

function readValue(document: OpenApiDocument, schema: JsonSchema, raw: unknown): ReadValue {
  const given = Array.isArray(raw) ? raw : [raw];
  if (given.some((one) => typeof one !== 'string')) return { ok: false, message: 'must be a plain value' };
  const texts: string[] = given.map(String);
  if (texts.some((text) => text.includes('\0'))) return { ok: false, message: 'must not contain the NUL character' };
  const types = typesOf(document, schema);
  if (types.has('array')) {
    const items = itemsOf(document, schema);
    const entries = texts.flatMap((text) => text.split(',')).filter((text) => text !== '');
    if (entries.length === 0) return { ok: true, value: undefined };
    return { ok: true, value: entries.map((text) => readScalar(items, text)) };
  }
  const [text] = texts;
  if (text === undefined || texts.length > 1) return { ok: false, message: 'must be given once' };
  return { ok: true, value: readScalar(types, text) };
}

function readScalar(types: ReadonlySet<string>, text: string): unknown {
  if (types.has('integer') && INTEGER.test(text)) return Number(text);
  if (types.has('number') && DECIMAL.test(text)) return Number(text);
  if (types.has('boolean') && (text === 'true' || text === 'false')) return text === 'true';
  return text;
}

/** The types a schema admits, references and unions followed. */
function typesOf(document: OpenApiDocument, schema: JsonSchema): Set<string> {
  const { $ref: reference, type } = schema;
  if (typeof reference === 'string') {
    const target = document.components.schemas[reference.slice(reference.lastIndexOf('/') + 1)];
    return target ? typesOf(document, target) : new Set();
  }
  const types = new Set([type].flat().filter((one) => typeof one === 'string'));
  for (const branches of [schema.anyOf, schema.oneOf])
    if (Array.isArray(branches))
      for (const branch of branches) for (const one of typesOf(document, branch)) types.add(one);
  return types;
}

function itemsOf(document: OpenApiDocument, schema: JsonSchema): Set<string> {
  const { $ref: reference, items } = schema;
  if (typeof reference === 'string') {
    const target = document.components.schemas[reference.slice(reference.lastIndexOf('/') + 1)];
    return target ? itemsOf(document, target) : new Set();
  }
  return isSchema(items) ? typesOf(document, items) : new Set();
}

function isSchema(value: unknown): value is JsonSchema {
  return value !== null && typeof value === 'object';
}

/** Without a prototype, so that a parameter named like a member of Object finds nothing there. */
function emptyRecord(): Record<string, unknown> {
  return Object.create(null);
}
