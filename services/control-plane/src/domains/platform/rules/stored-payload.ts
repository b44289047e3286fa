import { redact, sha256Hex } from '@gpuaas/kernel';

/**
 * A stored payload as operators see it: an object without secrets. Writers keep secrets out already; what slipped
 * through, or came from an older version, stops here. Anything but an object is described instead of shown.
 */
export function shownPayload(payload: unknown): Record<string, unknown> {
  const safe = redact(payload);
  if (safe !== null && typeof safe === 'object' && !Array.isArray(safe)) return { ...safe };
  const text = JSON.stringify(payload) ?? 'null';
  return { encoding: 'json', size: Buffer.byteLength(text), sha256: sha256Hex(text) };
}
