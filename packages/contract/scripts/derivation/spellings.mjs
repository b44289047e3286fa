import { isDeepStrictEqual } from 'node:util';
import { operationsOf, resolve } from '../lib/document.mjs';

const PREFIX = '/api/v1/v3/';
const BARE = '/api/v1/';

/** Marks an operation as another spelling of the one that it names. */
export const SPELLING_OF = 'x-spelling-of';

/**
 * Each operation below `/v3/` is served with and without that segment. Where the contract spells both, they are one
 * operation: their headers are made to agree, a header that only one of them asks for being optional. Where only the
 * longer spelling exists, the bare one is added beside it. Two spellings whose answers differ stay two operations.
 */
export const spellings = {
  id: 'N7',
  title: 'every operation below `/v3/` is served under both spellings',
  apply(document) {
    const changes = [];
    const changedFacts = [];
    const result = structuredClone(document);
    const taken = new Set(operationsOf(result).map(({ operation }) => operation.operationId));
    for (const { path, method, operation } of operationsOf(result)) {
      if (!path.startsWith(PREFIX) || operation[SPELLING_OF]) continue;
      const barePath = BARE + path.slice(PREFIX.length);
      const bare = result.paths[barePath]?.[method];
      if (bare?.[SPELLING_OF]) continue;
      if (bare) {
        if (!sameAnswers(bare, operation)) continue;
        for (const [twin, twinPath] of [
          [bare, barePath],
          [operation, path],
        ]) {
          const other = twin === bare ? operation : bare;
          changedFacts.push(...agreeOnHeaders(result, twin, other, `${method.toUpperCase()} ${twinPath}`));
        }
        operation.summary ??= bare.summary;
        operation[SPELLING_OF] = bare.operationId;
      } else {
        const operationId = operation.operationId.replace(/Compat$/, '');
        if (taken.has(operationId))
          throw new Error(`no free operationId for the bare spelling of ${operation.operationId}`);
        taken.add(operationId);
        result.paths[barePath] ??= {};
        result.paths[barePath][method] = {
          ...structuredClone(operation),
          operationId,
          [SPELLING_OF]: operation.operationId,
        };
      }
      changes.push(`${method.toUpperCase()} ${barePath}`);
    }
    return { document: result, changes, changedFacts };
  },
};

const SUCCESS = /^[23]/;
const sameAnswers = (one, other) => isDeepStrictEqual(successOf(one), successOf(other));
const successOf = (operation) =>
  Object.fromEntries(Object.entries(operation.responses).filter(([status]) => SUCCESS.test(status)));

/** Adds to `twin`, or loosens there, each header that not both spellings require. Returns the changed facts. */
function agreeOnHeaders(document, twin, other, place) {
  const headersOf = (operation) =>
    new Map(
      (operation.parameters ?? [])
        .map((entry) => ({ entry, parameter: resolve(document, entry) }))
        .filter(({ parameter }) => parameter.in === 'header')
        .map((header) => [header.parameter.name, header]),
    );
  twin.parameters ??= [];
  const own = headersOf(twin);
  const theirs = headersOf(other);
  const changedFacts = [];
  for (const [name, { entry, parameter }] of new Map([...theirs, ...own])) {
    const required = own.get(name)?.parameter.required === true && theirs.get(name)?.parameter.required === true;
    const isRequired = own.get(name)?.parameter.required === true;
    if (own.has(name) && isRequired === required) continue;
    if (isRequired) {
      twin.parameters[twin.parameters.indexOf(own.get(name).entry)] = optional(document, entry, parameter);
      changedFacts.push(`${place} header ${name}: required false`);
    } else {
      twin.parameters.push(optional(document, entry, parameter));
    }
  }
  return changedFacts;
}

/** The same header, not required: a component of its own where the required one is a component. */
function optional(document, entry, parameter) {
  if (parameter.required !== true) return structuredClone(entry);
  const loosened = { ...structuredClone(parameter), required: false };
  if (entry.$ref === undefined) return loosened;
  const name = `Optional${entry.$ref.split('/').pop()}`;
  document.components.parameters[name] ??= loosened;
  return { $ref: `#/components/parameters/${name}` };
}
