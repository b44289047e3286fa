/** A jsonb column that holds an object; anything else there means that program and table disagree. */
export function jsonObject(value: unknown): Record<string, unknown> {
  if (!isRecord(value)) throw new Error('a stored JSON object has lost its form');
  return value;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
