import type { ClientRoute } from './generated/routes.js';

/** Path parameters whose value may contain slashes. */
const MULTI_SEGMENT_PARAMETERS = new Set(['proxy_path']);

/** The address of a call. Throws a TypeError where a path parameter is missing or would change the path. */
export function urlOf(baseUrl: string, route: ClientRoute, path: object, query: object): URL {
  const pathname = route.path.replace(/\{([^}]+)\}/g, (_match, name: string) => {
    const value: unknown = Reflect.get(path, name);
    const segments = MULTI_SEGMENT_PARAMETERS.has(name) ? String(value).split('/') : [String(value)];
    // A dot segment would be resolved away before it is sent, and the call would reach another operation.
    if (value === undefined || value === null || segments.some((one) => one === '' || one === '.' || one === '..'))
      throw new TypeError(`path parameter ${name} must be given and must not be empty or a dot segment`);
    return segments.map(encodeURIComponent).join('/');
  });
  const url = new URL(baseUrl.replace(/\/+$/, '') + pathname);
  for (const [name, value] of Object.entries(query))
    for (const one of Array.isArray(value) ? value : [value])
      if (one !== undefined && one !== null) url.searchParams.append(name, String(one));
  return url;
}

/** A body as it goes on the wire, with its media type. */
export interface EncodedBody {
  readonly payload: NonNullable<RequestInit['body']>;
  readonly contentType: string;
}

/** Encodes a body in the first media type of the operation that fits it. */
export function encodeBody(route: ClientRoute, body: unknown): EncodedBody | undefined {
  if (body === undefined) return undefined;
  const binaryType = route.body.find((type) => !type.startsWith('application/json'));
  if (isPayload(body) && binaryType !== undefined) return { payload: body, contentType: binaryType };
  if (route.body.includes('application/json') || route.body.length === 0)
    return { payload: JSON.stringify(body), contentType: 'application/json' };
  if (binaryType === 'application/x-www-form-urlencoded') {
    const form = new URLSearchParams();
    if (body !== null && typeof body === 'object')
      for (const [name, value] of Object.entries(body)) if (value !== undefined) form.append(name, String(value));
    return { payload: form.toString(), contentType: binaryType };
  }
  if (binaryType === 'application/x-ndjson' && Array.isArray(body))
    return { payload: body.map((line) => `${JSON.stringify(line)}\n`).join(''), contentType: binaryType };
  throw new TypeError(`the body must be text, bytes or a stream of ${binaryType}`);
}

function isPayload(body: unknown): body is NonNullable<RequestInit['body']> {
  return (
    typeof body === 'string' ||
    body instanceof ArrayBuffer ||
    ArrayBuffer.isView(body) ||
    body instanceof Blob ||
    body instanceof ReadableStream
  );
}
