import { STATUS_CODES } from 'node:http';
import { operationsOf } from '../lib/document.mjs';

/** OpenAPI wants a description of each response: the standard phrase of its status, where there is no better one. */
export const responseDescriptions = {
  id: 'descriptions',
  title: 'every response has a description',
  apply(document) {
    const changes = [];
    const result = structuredClone(document);
    const describe = (node, text, place) => {
      if (node.$ref !== undefined || (node.description ?? '') !== '') return;
      node.description = text;
      changes.push(place);
    };
    for (const { path, method, operation } of operationsOf(result))
      for (const [status, node] of Object.entries(operation.responses))
        describe(node, STATUS_CODES[status] ?? `Status ${status}`, `${method.toUpperCase()} ${path} → ${status}`);
    for (const [name, node] of Object.entries(result.components.responses ?? {}))
      describe(
        node,
        name
          .replace(/([a-z])([A-Z])/g, '$1 $2')
          .toLowerCase()
          .replace(/^./, (first) => first.toUpperCase()),
        `response ${name}`,
      );
    return { document: result, changes };
  },
};
