import { isDeepStrictEqual } from 'node:util';

/**
 * Applies an OpenAPI Overlay 1.0 to a copy of `document`.
 *
 * A target is a JSONPath of member names (`.name`, `['name']`, `['one','other']`), wildcards (`[*]`) and filters that compare with a
 * string (`[?@ == 'a']`, `[?@.name == 'a' && @.in == 'query']`). An update is merged into each object it matches and
 * appended to each array, unless an equal entry is there: applying an overlay twice is applying it once.
 * Returns the new document and the targets that matched nothing.
 */
export function applyOverlay(document, overlay) {
  const result = structuredClone(document);
  const unmatched = [];
  for (const action of overlay.actions) {
    const places = select(result, action.target);
    if (places.length === 0) unmatched.push(action.target);
    if (action.remove === true) remove(places);
    else for (const { parent, key } of places) parent[key] = merge(parent[key], structuredClone(action.update));
  }
  return { document: result, unmatched };
}

function merge(target, update) {
  if (Array.isArray(target)) {
    const additions = Array.isArray(update) ? update : [update];
    return [...target, ...additions.filter((one) => !target.some((other) => isDeepStrictEqual(one, other)))];
  }
  if (isObject(target) && isObject(update)) {
    for (const [key, value] of Object.entries(update))
      target[key] = Object.hasOwn(target, key) ? merge(target[key], value) : value;
    return target;
  }
  return update;
}

/** Last index first, so that the removal of one entry does not move the next. */
function remove(places) {
  for (const { parent, key } of [...places].reverse())
    if (Array.isArray(parent)) parent.splice(Number(key), 1);
    else delete parent[key];
}

/** Places in `root` a JSONPath selects, as parent and key. */
export function select(root, path) {
  const holder = { root };
  let places = [{ parent: holder, key: 'root' }];
  for (const segment of segmentsOf(path)) {
    places = places.flatMap(({ parent, key }) => {
      const node = parent[key];
      if (node === null || typeof node !== 'object') return [];
      return Object.keys(node)
        .filter((name) => segment.matches(name, node[name]))
        .map((name) => ({ parent: node, key: name }));
    });
  }
  return places;
}

const SEGMENT =
  /\.([A-Za-z_][\w-]*)|\[('[^']*'(?:,\s*'[^']*')*)\]|(\.\*|\[\*\])|\[\?((?:[^[\]']|'[^']*'|\['[^']*'\])*)\]/y;
const COMPARISON = /^@(?:\.([A-Za-z_][\w-]*)|\['([^']*)'\])?\s*==\s*'([^']*)'$/;

function segmentsOf(path) {
  if (!path.startsWith('$')) throw new Error(`not a JSONPath: ${path}`);
  const segments = [];
  SEGMENT.lastIndex = 1;
  while (SEGMENT.lastIndex < path.length) {
    const at = SEGMENT.lastIndex;
    const found = SEGMENT.exec(path);
    if (!found) throw new Error(`cannot read the JSONPath ${path} at ${path.slice(at)}`);
    const [, dotted, quoted, wildcard, filter] = found;
    const names = dotted === undefined ? quoted?.slice(1, -1).split(/',\s*'/) : [dotted];
    if (names) segments.push({ matches: (key) => names.includes(key) });
    else if (wildcard) segments.push({ matches: () => true });
    else segments.push({ matches: filterOf(filter, path) });
  }
  return segments;
}

function filterOf(text, path) {
  const comparisons = text.split('&&').map((part) => {
    const found = COMPARISON.exec(part.trim());
    if (!found) throw new Error(`cannot read the filter ${part} of ${path}`);
    return { member: found[1] ?? found[2], value: found[3] };
  });
  return (_key, node) =>
    comparisons.every(
      ({ member, value }) => (member === undefined ? node : isObject(node) ? node[member] : undefined) === value,
    );
}

const isObject = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);
