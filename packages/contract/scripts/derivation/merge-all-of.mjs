import { isDeepStrictEqual } from 'node:util';
import { mapSchemas, resolve } from '../lib/document.mjs';

/** Words that say nothing about which values are valid. */
const ANNOTATIONS = new Set(['description', 'title', 'example', 'examples', 'nullable', 'deprecated']);

/**
 * `allOf` of closed objects admits no value: each branch forbids the properties of the others. The branches become
 * one closed object with the union of their properties and required names. A single branch is that branch.
 */
export const mergeAllOf = {
  id: 'N1',
  title: '`allOf` of closed objects becomes one closed object, a single branch becomes the reference itself',
  apply(document) {
    const changes = [];
    const result = mapSchemas(structuredClone(document), (schema, place) => {
      if (!Array.isArray(schema.allOf)) return schema;
      changes.push(place);
      const { allOf, ...rest } = schema;
      if (allOf.length === 1) return { ...allOf[0], ...rest };
      return {
        ...mergeObjects(
          allOf.map((branch) => flatten(document, branch, place)),
          place,
        ),
        ...rest,
      };
    });
    return { document: result, changes };
  },
};

/** A branch as one plain object schema, whatever `allOf` it is made of. */
function flatten(document, branch, place) {
  const schema = resolve(document, branch);
  if (!schema.allOf) return schema;
  return mergeObjects(
    schema.allOf.map((inner) => flatten(document, inner, place)),
    place,
  );
}

function mergeObjects(branches, place) {
  const properties = {};
  const required = new Set();
  for (const branch of branches) {
    if (branch.type !== 'object') throw new Error(`${place}: allOf of something that is no object`);
    for (const [name, schema] of Object.entries(branch.properties ?? {})) {
      if (Object.hasOwn(properties, name) && !isDeepStrictEqual(meaningOf(properties[name]), meaningOf(schema)))
        throw new Error(`${place}: branches disagree about ${name}`);
      properties[name] ??= structuredClone(schema);
    }
    for (const name of branch.required ?? []) required.add(name);
  }
  const closed = branches.every((branch) => branch.additionalProperties === false);
  return {
    type: 'object',
    ...(closed ? { additionalProperties: false } : {}),
    properties,
    ...(required.size > 0 ? { required: [...required] } : {}),
  };
}

const meaningOf = (schema) => Object.fromEntries(Object.entries(schema).filter(([word]) => !ANNOTATIONS.has(word)));
