/**
 * A 64-bit integer of the database as a JSON number. Throws a RangeError beyond ±(2^53 − 1) instead of sending a
 * number that is quietly wrong.
 */
export function toWireInteger(value: bigint): number {
  const number = Number(value);
  if (!Number.isSafeInteger(number)) throw new RangeError(`${value} does not fit a JSON number`);
  return number;
}

/** RFC 3339 in UTC with milliseconds. */
export function toWireTime(value: Date): string {
  return value.toISOString();
}

export function toWireTimeOrNull(value: Date | null): string | null {
  return value === null ? null : value.toISOString();
}

/** How a formula may begin, also behind blanks and in the wide forms that some spreadsheets take for the narrow ones. */
const FORMULA = /^(?:[\t\r\n]|\s*[=+\-@\uff1d\uff0b\uff0d\uff20])/;

/** One cell of a CSV file (RFC 4180). A cell that a spreadsheet would run as a formula is prefixed with an apostrophe. */
export function csvCell(value: string | number | bigint | boolean | null): string {
  if (value === null) return '';
  if (typeof value !== 'string') return String(value);
  const harmless = FORMULA.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless;
}

export function csvLine(cells: readonly (string | number | bigint | boolean | null)[]): string {
  return `${cells.map(csvCell).join(',')}\r\n`;
}

/**
 * The immutable name of a thing: `{authority}:{site}:{region}:{tenant}:{project}:{service}/{kind}:{id}`;
 * a segment that does not apply is empty, `:` and `/` inside a segment are percent-encoded.
 */
export function resourceName(parts: {
  readonly region?: string | null;
  readonly tenantId?: string | null;
  readonly projectId?: string | null;
  /** e.g. `gpuaas/allocation` */
  readonly kind: `${string}/${string}`;
  readonly id: string;
}): string {
  const segment = (value: string | null | undefined) =>
    (value ?? '').replaceAll('%', '%25').replaceAll(':', '%3A').replaceAll('/', '%2F');
  const place = [parts.region, parts.tenantId, parts.projectId].map(segment).join(':');
  return `gpuaas:default:${place}:${parts.kind}:${segment(parts.id)}`;
}
