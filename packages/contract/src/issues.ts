import type { ErrorObject } from 'ajv';
import { formatPhrases } from './formats.js';

/** One reason why a value is not what the contract asks for. */
export interface ValidationIssue {
  /** JSON pointer rooted at `/path`, `/query`, `/headers` or `/body`. */
  pointer: string;
  /** A sentence about the value there, without its subject: "must be a UUID". */
  message: string;
}

/** More than this many issues help nobody. */
export const MAXIMUM_ISSUES = 20;

/** The validator's errors as issues, with those left out that only say that null would also do. */
export function issuesOf(errors: readonly ErrorObject[], root: string): ValidationIssue[] {
  const telling = errors.filter((error) => !(error.keyword === 'type' && error.params.type === 'null'));
  const specific = telling.filter(
    (error) =>
      error.keyword !== 'anyOf' ||
      !telling.some((other) => other.keyword !== 'anyOf' && other.instancePath.startsWith(error.instancePath)),
  );
  const kept = specific.length > 0 ? specific : errors;
  const issues = new Map<string, ValidationIssue>();
  for (const error of kept) {
    const issue = { pointer: root + error.instancePath + memberOf(error), message: messageOf(error) };
    issues.set(`${issue.pointer} ${issue.message}`, issue);
    if (issues.size === MAXIMUM_ISSUES) break;
  }
  return [...issues.values()];
}

/** One reference token of a JSON pointer. */
export function pointerToken(name: string): string {
  return `/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`;
}

function memberOf(error: ErrorObject): string {
  const name: unknown = error.params.missingProperty ?? error.params.additionalProperty;
  return typeof name === 'string' ? pointerToken(name) : '';
}

function messageOf(error: ErrorObject): string {
  const { params } = error;
  switch (error.keyword) {
    case 'required':
      return 'is required';
    case 'additionalProperties':
      return 'is not a known property';
    case 'enum':
      return `must be one of ${listOf(params.allowedValues)}`;
    case 'type':
      return `must be ${typesPhrase(params.type)}`;
    case 'format':
      return `must be ${formatPhrases[String(params.format)] ?? `in the format ${params.format}`}`;
    case 'pattern':
      return `must match the pattern ${params.pattern}`;
    case 'minLength':
      return params.limit === 1 ? 'must not be empty' : `must have at least ${params.limit} characters`;
    case 'maxLength':
      return `must have at most ${params.limit} characters`;
    case 'minItems':
      return params.limit === 1 ? 'must not be empty' : `must have at least ${params.limit} entries`;
    case 'maxItems':
      return `must have at most ${params.limit} entries`;
    case 'minProperties':
      return params.limit === 1 ? 'must not be empty' : `must have at least ${params.limit} properties`;
    case 'minimum':
      return `must be at least ${params.limit}`;
    case 'maximum':
      return `must be at most ${params.limit}`;
    case 'uniqueItems':
      return `must not repeat an entry (entries ${params.j} and ${params.i} are equal)`;
    case 'anyOf':
      return 'must have one of the allowed combinations of properties';
    case 'x-free-form':
      return 'is too large or nested too deep';
    default:
      return error.message ?? 'is not valid';
  }
}

function listOf(values: unknown): string {
  return Array.isArray(values) ? values.map(String).join(', ') : String(values);
}

const TYPE_PHRASES: Readonly<Record<string, string>> = {
  string: 'a string',
  integer: 'a whole number',
  number: 'a number',
  boolean: 'true or false',
  object: 'an object',
  array: 'an array',
  null: 'null',
};

function typesPhrase(type: unknown): string {
  const types: unknown[] = Array.isArray(type) ? type : String(type).split(',');
  return types.map((one) => TYPE_PHRASES[String(one)] ?? String(one)).join(' or ');
}
