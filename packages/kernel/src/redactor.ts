/** What stands where a secret was. */
export const REDACTED = '[redacted]';

const SECRET_KEY =
  /(secret|passw(or)?d|passphrase|private[-_]?key|authorization|cookie|credential[-_]?data|access[-_]?key|api[-_]?key|bearer|(^|[-_])token$|^token)/i;
const PEM_PRIVATE = /-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----/;
const JSON_WEB_TOKEN = /\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{4,}/g;
const URL_USERINFO = /(\b[a-z][a-z0-9+.-]*:\/\/)[^/\s:@]+:[^/\s@]+@/gi;
const BEARER = /\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}/gi;

/** Text with every recognisable secret replaced: private keys, JSON web tokens, credentials in URLs and headers. */
export function redactText(text: string): string {
  if (PEM_PRIVATE.test(text)) return REDACTED;
  return text
    .replace(JSON_WEB_TOKEN, REDACTED)
    .replace(URL_USERINFO, `$1${REDACTED}@`)
    .replace(BEARER, (_match, scheme: string) => `${scheme} ${REDACTED}`);
}

/**
 * A copy of a JSON value without secrets: values under keys that name one, and secrets inside text.
 * Free JSON passes through here before it is stored or logged. Depth beyond 16 is cut to the marker.
 */
export function redact(value: unknown, depth = 0): unknown {
  if (depth > 16) return REDACTED;
  if (typeof value === 'string') return redactText(value);
  if (Array.isArray(value)) return value.map((item) => redact(item, depth + 1));
  if (value instanceof Date) return value.toISOString();
  if (value !== null && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, redactField(key, inner, depth + 1)]));
  }
  return value;
}

/** The value of a field without secrets: nothing of it is left where the field's name says that it is one. */
export function redactField(name: string, value: unknown, depth = 1): unknown {
  return SECRET_KEY.test(name) && value !== null && typeof value !== 'boolean' ? REDACTED : redact(value, depth);
}
