import { pointerToken, type ValidationIssue } from './issues.js';

/** No body of the contract nests nearly as deep. */
const MAXIMUM_DEPTH = 48;

export type JsonCopy = { ok: true; value: unknown; nodes: number } | { ok: false; issue: ValidationIssue };

/**
 * Copies parsed JSON, so that validation can fill in defaults without touching what it was given, and refuses what
 * no schema sees but the rest of the system trips over: a member named `__proto__`, the NUL character and halves of
 * surrogate pairs (PostgreSQL stores no text with either), nesting beyond reason. Also counts the values copied.
 */
export function copyJson(source: unknown, pointer: string): JsonCopy {
  const counter = { nodes: 0 };
  const result = copy(source, pointer, MAXIMUM_DEPTH, counter);
  return result instanceof Refusal
    ? { ok: false, issue: result.issue }
    : { ok: true, value: result, nodes: counter.nodes };
}

class Refusal {
  constructor(readonly issue: ValidationIssue) {}
}

function copy(source: unknown, pointer: string, levels: number, counter: { nodes: number }): unknown {
  counter.nodes += 1;
  if (typeof source === 'string') {
    const message = unstorable(source);
    return message === null ? source : new Refusal({ pointer, message });
  }
  if (source === null || typeof source !== 'object') return source;
  if (levels === 0) return new Refusal({ pointer, message: `must not be nested deeper than ${MAXIMUM_DEPTH} levels` });
  if (Array.isArray(source)) {
    const entries: unknown[] = new Array(source.length);
    for (let index = 0; index < source.length; index += 1) {
      const entry = copy(source[index], `${pointer}/${index}`, levels - 1, counter);
      if (entry instanceof Refusal) return entry;
      entries[index] = entry;
    }
    return entries;
  }
  const members: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(source)) {
    const at = pointer + pointerToken(name);
    if (name === '__proto__') return new Refusal({ pointer: at, message: 'is not a known property' });
    const message = unstorable(name);
    if (message !== null) return new Refusal({ pointer: at, message });
    const member = copy(value, at, levels - 1, counter);
    if (member instanceof Refusal) return member;
    members[name] = member;
  }
  return members;
}

const LONE_SURROGATE = /\p{Surrogate}/u;

/** Why PostgreSQL would refuse the text; null where it would not. */
function unstorable(text: string): string | null {
  if (text.includes('\0')) return 'must not contain the NUL character';
  return LONE_SURROGATE.test(text) ? 'must be well-formed Unicode' : null;
}
