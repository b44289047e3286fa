import { lookup } from '../lib/document.mjs';

const ANNOTATIONS = new Set(['description', 'title', 'example', 'examples', 'deprecated', 'x-enum-varnames']);

/**
 * Schemas that admit exactly the same values, as a map from each later name to the first one. The served document
 * keeps every name; the generated types make the later ones aliases.
 */
export function aliasesOf(document) {
  const firstOf = new Map();
  const aliases = new Map();
  for (const [name, schema] of Object.entries(document.components.schemas)) {
    const shape = JSON.stringify(shapeOf(document, schema, new Set([name])));
    const first = firstOf.get(shape);
    if (first === undefined) firstOf.set(shape, name);
    else aliases.set(name, first);
  }
  return aliases;
}

/** Key order, enum order and annotations do not tell shapes apart, and neither does the name behind a reference. */
function shapeOf(document, node, above) {
  if (Array.isArray(node)) return node.map((entry) => shapeOf(document, entry, above));
  if (node === null || typeof node !== 'object') return node;
  if (typeof node.$ref === 'string') {
    const name = node.$ref.split('/').pop();
    return above.has(name)
      ? { recursion: name }
      : shapeOf(document, lookup(document, node.$ref), new Set(above).add(name));
  }
  return Object.fromEntries(
    Object.keys(node)
      .filter((word) => !ANNOTATIONS.has(word) || typeof node[word] === 'object')
      .sort()
      .map((word) => [
        word,
        (word === 'enum' || word === 'required') && Array.isArray(node[word])
          ? [...node[word]].sort()
          : shapeOf(document, node[word], above),
      ]),
  );
}
