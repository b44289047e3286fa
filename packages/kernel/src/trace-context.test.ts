import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { childTrace, formatTraceparent, parseTraceparent } from './trace-context.js';

describe('trace context', () => {
  it('reads back every header it writes', () => {
    const root = childTrace(undefined);
    expect(parseTraceparent(formatTraceparent(root))).toEqual(root);
  });

  it('continues the trace of its parent under a span of its own', () => {
    const parent = childTrace(undefined);
    const child = childTrace(parent);
    expect(child.traceId).toBe(parent.traceId);
    expect(child.spanId).not.toBe(parent.spanId);
  });

  it('takes no malformed header for a trace', () => {
    const bad = [
      '',
      '00-0-0-01',
      `00-${'0'.repeat(32)}-${'a'.repeat(16)}-01`,
      `ff-${'a'.repeat(32)}-${'a'.repeat(16)}-01`,
      `00-${'a'.repeat(32)}-${'0'.repeat(16)}-01`,
      `00-${'A'.repeat(32)}-${'a'.repeat(16)}-01`,
    ];
    for (const header of bad) expect(parseTraceparent(header)).toBeUndefined();
    fc.assert(fc.property(fc.string(), (text) => parseTraceparent(text) === undefined));
  });
});
