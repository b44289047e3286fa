import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';

/** The file that holds what several domains share; every other file of the folder is one domain. */
const SHARED_FILE = 'common.yaml';

/** The domains in the order in which their paths are served and listed. */
export const DOMAINS = ['identity', 'compute', 'fleet', 'apps', 'finance', 'storage', 'platform'];

/** The files of the contract in `directory`, as absolute paths in a stable order. */
export function contractFiles(directory) {
  return [SHARED_FILE, ...DOMAINS.map((domain) => `${domain}.yaml`)].map((name) => join(directory, name));
}

/**
 * Reads the files of the contract into one OpenAPI document whose references are all local.
 *
 * Every operation gets `x-domain`, the name of its file. Throws when two files define one path and method or one
 * component.
 */
export function loadContract(directory) {
  const read = (name) => parse(readFileSync(join(directory, name), 'utf8'));
  const shared = read(SHARED_FILE);
  const document = {
    ...shared,
    paths: {},
    components: { ...shared.components, schemas: { ...shared.components.schemas } },
  };
  for (const domain of DOMAINS) {
    const part = read(`${domain}.yaml`);
    for (const [path, item] of Object.entries(part.paths)) {
      document.paths[path] ??= {};
      for (const [method, operation] of Object.entries(item)) {
        if (document.paths[path][method]) throw new Error(`${method.toUpperCase()} ${path} is defined twice`);
        document.paths[path][method] = { ...operation, 'x-domain': domain };
      }
    }
    for (const [name, schema] of Object.entries(part.components.schemas)) {
      if (Object.hasOwn(document.components.schemas, name)) throw new Error(`schema ${name} is defined twice`);
      document.components.schemas[name] = schema;
    }
  }
  return withLocalReferences(document);
}

/** References between the files become references inside the one document. */
function withLocalReferences(node) {
  if (Array.isArray(node)) return node.map(withLocalReferences);
  if (node === null || typeof node !== 'object') return node;
  return Object.fromEntries(
    Object.entries(node).map(([key, value]) =>
      key === '$ref' && typeof value === 'string'
        ? [key, value.slice(value.indexOf('#'))]
        : [key, withLocalReferences(value)],
    ),
  );
}
