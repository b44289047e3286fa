import { operationsOf, parametersOf, resolve } from '../lib/document.mjs';

const CURSOR = { $ref: '#/components/parameters/Cursor' };
const PAGE_SIZE = { $ref: '#/components/parameters/PageSize' };
const UNDEFAULTED_PAGE_SIZE = { $ref: '#/components/parameters/PageSizeWithoutDefault' };
const DEFAULT_PAGE_SIZE = 50;

/**
 * Every list of `items` accepts `cursor` and `page_size`. A list whose answer has no place for the next cursor gives
 * everything unless it is asked for pages: its `page_size` has no default. An export is a list read to its end and
 * stays as it is.
 */
export const paging = {
  id: 'N9',
  title: 'every list accepts `cursor` and `page_size`',
  apply(document) {
    const changes = [];
    const result = structuredClone(document);
    const { default: _default, ...unbounded } = result.components.parameters.PageSize.schema;
    result.components.parameters.PageSizeWithoutDefault ??= {
      ...structuredClone(result.components.parameters.PageSize),
      schema: unbounded,
    };
    for (const { path, method, operation } of operationsOf(result)) {
      if (method !== 'get' || path.endsWith('/export')) continue;
      const answer = resolve(result, operation.responses['200']?.content?.['application/json']?.schema);
      const properties = answer?.properties ?? {};
      const paged = Boolean(properties.pagination ?? properties.next_cursor);
      const declared = new Set(parametersOf(result, operation).map(({ name }) => name));
      const place = `GET ${path}`;
      const add = (name, entry) => {
        if (declared.has(name)) return;
        operation.parameters = [...(operation.parameters ?? []), { ...entry }];
        changes.push(`${place} ${name}`);
      };
      if (properties.items) {
        add('cursor', CURSOR);
        // Where `limit` is the declared name of the page size it carries the default, so its alias must not.
        add('page_size', paged && !declared.has('limit') ? PAGE_SIZE : UNDEFAULTED_PAGE_SIZE);
      }
      if (paged && givePageSizeItsDefault(result, operation)) changes.push(`${place} page_size default`);
    }
    return { document: result, changes };
  },
};

/** Pages have one size unless the caller names another, also where the contract only bounds it. */
function givePageSizeItsDefault(document, operation) {
  let changed = false;
  operation.parameters = operation.parameters?.map((entry) => {
    const parameter = resolve(document, entry);
    const bounds = parameter.schema;
    if (entry.$ref || parameter.name !== 'page_size' || bounds.default !== undefined) return entry;
    changed = true;
    return {
      ...parameter,
      schema: { ...bounds, default: Math.min(DEFAULT_PAGE_SIZE, bounds.maximum ?? DEFAULT_PAGE_SIZE) },
    };
  });
  return changed;
}
