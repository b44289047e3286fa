import { operationsOf } from '../lib/document.mjs';

const EXTENSION = 'x-v3-read-model-gaps';

/** A note of what a view still lacked is no part of the interface. */
export const readModelGaps = {
  id: 'N10',
  title: 'notes of missing read models are not served',
  apply(document) {
    const changes = [];
    const result = structuredClone(document);
    for (const { path, method, operation } of operationsOf(result)) {
      if (operation[EXTENSION] === undefined) continue;
      delete operation[EXTENSION];
      changes.push(`${method.toUpperCase()} ${path}`);
    }
    return { document: result, changes };
  },
};
