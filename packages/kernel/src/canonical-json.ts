import canonicalize from 'canonicalize';

/**
 * The canonical form of a JSON value (RFC 8785): equal values give equal text, whatever the order of their keys.
 * Throws a TypeError for values that JSON cannot hold (undefined, functions, non-finite numbers).
 */
export function canonicalJson(value: unknown): string {
  const text = canonicalize(value);
  if (text === undefined) throw new TypeError('value has no JSON form');
  return text;
}
