import { mapSchemas } from '../lib/document.mjs';

const NULL = { type: 'null' };

/**
 * `nullable`, an idiom of OpenAPI 3.0 that 3.1 does not know, becomes what it meant: a type union, with null among
 * the values of an enum; a union with null around a reference; nothing where no type was stated, since such a schema
 * admits null already. `nullable: false` says nothing and goes.
 */
export const nullability = {
  id: 'N3',
  title: '`nullable` becomes a union with null, or goes where no type is stated and null is admitted anyway',
  apply(document) {
    const changes = [];
    const changedFacts = [];
    const result = mapSchemas(structuredClone(document), (schema, place) => {
      if (schema.nullable === undefined) return schema;
      changes.push(place);
      const { nullable, ...rest } = schema;
      if (nullable !== true) return rest;
      const admitting = admitNull(rest);
      if (admitting === rest && rest.type === undefined) changedFacts.push(`${place}: no longer nullable`);
      return admitting;
    });
    return { document: result, changes, changedFacts };
  },
};

/** A schema that admits what the given one admits, and null. */
export function admitNull(schema) {
  if (schema.$ref !== undefined || schema.allOf !== undefined) return { anyOf: [schema, NULL] };
  for (const word of ['anyOf', 'oneOf'])
    if (schema[word] !== undefined && schema.type === undefined)
      return schema[word].some((branch) => branch.type === 'null')
        ? schema
        : { ...schema, [word]: [...schema[word], NULL] };
  if (schema.type === undefined) return schema.enum === undefined ? schema : { ...schema, enum: withNull(schema.enum) };
  const types = [schema.type].flat();
  return {
    ...schema,
    type: types.includes('null') ? types : [...types, 'null'],
    ...(schema.enum === undefined ? {} : { enum: withNull(schema.enum) }),
  };
}

const withNull = (values) => (values.includes(null) ? values : [...values, null]);
