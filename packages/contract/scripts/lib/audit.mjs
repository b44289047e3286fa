import { Ajv2020 } from 'ajv/dist/2020.js';
import { fullFormats } from 'ajv-formats/dist/formats.js';
import { lookup, mapSchemas, operationsOf, parametersOf } from './document.mjs';
import { findDefects, instanceOf } from './satisfiable.mjs';

const REQUIRED_ERRORS = ['400', '403', '404', '409', '413', '415', '429', '500', '503'];

/** Everything that is wrong with the derived document, one line a finding. Empty is the only state that is served. */
export function auditDocument(document) {
  return [
    ...auditReferences(document),
    ...auditOperations(document),
    ...auditSchemas(document),
    ...auditInstances(document),
  ];
}

function auditReferences(document) {
  const findings = new Set();
  const visit = (node) => {
    if (node === null || typeof node !== 'object') return;
    if (typeof node.$ref === 'string' && lookup(document, node.$ref) === undefined)
      findings.add(`dangling reference ${node.$ref}`);
    Object.values(node).forEach(visit);
  };
  visit(document);
  return [...findings];
}

function auditOperations(document) {
  const findings = [];
  const seen = new Set();
  const tags = new Set(document.tags.map(({ name }) => name));
  for (const { path, method, operation } of operationsOf(document)) {
    const place = `${method.toUpperCase()} ${path}`;
    if (seen.has(operation.operationId)) findings.push(`${place}: operationId ${operation.operationId} is taken`);
    seen.add(operation.operationId);
    if (!operation.summary) findings.push(`${place}: no summary`);
    for (const tag of operation.tags ?? []) if (!tags.has(tag)) findings.push(`${place}: undeclared tag ${tag}`);
    for (const status of REQUIRED_ERRORS) if (!operation.responses[status]) findings.push(`${place}: no ${status}`);
    const parameters = parametersOf(document, operation);
    const keys = parameters.map(({ in: where, name }) => `${where} ${name}`);
    for (const key of new Set(keys))
      if (keys.filter((other) => other === key).length > 1) findings.push(`${place}: parameter ${key} twice`);
    const inPath = new Set([...path.matchAll(/\{([^}]+)\}/g)].map(([, name]) => name));
    const declared = new Set(parameters.filter((parameter) => parameter.in === 'path').map(({ name }) => name));
    for (const name of inPath)
      if (!declared.has(name)) findings.push(`${place}: path parameter ${name} is not declared`);
    for (const name of declared)
      if (!inPath.has(name)) findings.push(`${place}: path parameter ${name} is not in the path`);
  }
  return findings;
}

/** Each schema once, at its outermost place: components, parameters, bodies and answers. */
function outermostSchemas(document) {
  const schemas = Object.entries(document.components.schemas).map(([place, schema]) => ({ place, schema }));
  const inner = new Set();
  const all = [];
  // Inner schemas are visited before the one around them; what contains a visited one is its owner.
  mapSchemas(structuredClone(document), (schema, place) => {
    for (const other of [
      schema.items,
      schema.additionalProperties,
      ...Object.values(schema.properties ?? {}),
      ...(schema.anyOf ?? []),
      ...(schema.oneOf ?? []),
    ])
      if (other && typeof other === 'object') inner.add(other);
    all.push({ place, schema });
    return schema;
  });
  const components = new Set(Object.keys(document.components.schemas));
  return [...schemas, ...all.filter(({ place, schema }) => !inner.has(schema) && !components.has(place))];
}

function auditSchemas(document) {
  return outermostSchemas(document).flatMap(({ place, schema }) => findDefects(document, schema, place));
}

/** Proves of every schema that it admits a value: one with what it requires, one with everything, one all null. */
function auditInstances(document) {
  const ajv = new Ajv2020({
    strict: false,
    validateSchema: false,
    inlineRefs: false,
    formats: { ...fullFormats, binary: true, byte: true, int32: true, int64: true, uint64: true, double: true },
  });
  ajv.addSchema({ $id: 'document:', ...document });
  const absolute = (node) =>
    JSON.parse(JSON.stringify(node), (key, value) =>
      key === '$ref' && typeof value === 'string' ? `document:${value}` : value,
    );
  // A plain reference admits what its component admits, and that is tried under its own name.
  const own = outermostSchemas(document).filter(({ schema }) => schema.$ref === undefined);
  return own.flatMap(({ place, schema }) => {
    let validate;
    try {
      validate = ajv.compile(
        document.components.schemas[place] === schema
          ? { $ref: `document:#/components/schemas/${place}` }
          : absolute(schema),
      );
    } catch (error) {
      return [`${place}: cannot be compiled: ${error.message}`];
    }
    return ['required', 'all', 'null'].flatMap((fill) => {
      const value = instanceOf(document, schema, fill);
      if (value === undefined) return [`${place}: no value was found for it`];
      return validate(value) ? [] : [`${place}: refuses its own ${fill} value: ${ajv.errorsText(validate.errors)}`];
    });
  });
}
