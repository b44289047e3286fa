/** Walking an OpenAPI document: every rule of the derivation and every audit sees it through these functions. */

const METHODS = ['get', 'put', 'post', 'patch', 'delete'];

/** The thing a local reference points to, or undefined. */
export function lookup(document, reference) {
  return reference
    .slice(2)
    .split('/')
    .reduce((at, key) => at?.[key.replaceAll('~1', '/').replaceAll('~0', '~')], document);
}

/** Follows one reference; anything else is returned as it is. */
export function resolve(document, node) {
  return node && typeof node.$ref === 'string' ? lookup(document, node.$ref) : node;
}

/** Every operation as `{ path, method, operation }`, in document order. */
export function operationsOf(document) {
  return Object.entries(document.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => ({ path, method, operation: item[method] })),
  );
}

/** The parameters of an operation with references followed. */
export function parametersOf(document, operation) {
  return (operation.parameters ?? []).map((parameter) => resolve(document, parameter));
}

/**
 * Replaces every schema of the document by `change(schema, place)`, inner schemas first. The document is changed in
 * place: a rule works on its own copy.
 */
export function mapSchemas(document, change) {
  const schema = (node, place) => {
    if (node === null || typeof node !== 'object') return node;
    for (const [word, inner] of Object.entries(node)) {
      if (word === 'properties' || word === 'patternProperties')
        for (const name of Object.keys(inner)) inner[name] = schema(inner[name], `${place}.${name}`);
      else if (['items', 'additionalProperties', 'not', 'contains'].includes(word))
        node[word] = schema(inner, word === 'items' ? `${place}[]` : `${place}.*`);
      else if (['allOf', 'anyOf', 'oneOf', 'prefixItems'].includes(word))
        node[word] = inner.map((branch, index) => schema(branch, `${place}|${index}`));
    }
    return change(node, place);
  };
  const content = (media, place) => {
    for (const [type, body] of Object.entries(media ?? {}))
      if (body.schema) body.schema = schema(body.schema, `${place} ${type}`);
  };
  const parameter = (node, place) => {
    if (node.schema) node.schema = schema(node.schema, place);
  };
  const response = (node, place) => {
    content(node.content, place);
    for (const [name, header] of Object.entries(node.headers ?? {})) parameter(header, `${place} header ${name}`);
  };
  for (const { path, method, operation } of operationsOf(document)) {
    const place = `${method.toUpperCase()} ${path}`;
    for (const node of operation.parameters ?? []) parameter(node, `${place} ${node.in} ${node.name}`);
    content(operation.requestBody?.content, `${place} body`);
    for (const [status, node] of Object.entries(operation.responses)) response(node, `${place} → ${status}`);
  }
  const { components } = document;
  for (const [name, node] of Object.entries(components.parameters ?? {})) parameter(node, `parameter ${name}`);
  for (const [name, node] of Object.entries(components.responses ?? {})) response(node, `response ${name}`);
  for (const name of Object.keys(components.schemas)) components.schemas[name] = schema(components.schemas[name], name);
  return document;
}
