import { randomBytes } from 'node:crypto';

/** Where a piece of work stands in a distributed trace (W3C Trace Context, level 1). */
export interface TraceContext {
  /** 32 hex digits, not all zero */
  readonly traceId: string;
  /** 16 hex digits, not all zero */
  readonly spanId: string;
  readonly sampled: boolean;
}

const TRACEPARENT = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/;

/** Reads a `traceparent` header; anything malformed counts as absent, as the recommendation demands. */
export function parseTraceparent(header: string | undefined): TraceContext | undefined {
  const match = TRACEPARENT.exec(header ?? '');
  if (!match) return undefined;
  const [, version, traceId, spanId, flags, rest] = match;
  if (!traceId || !spanId || !flags || version === 'ff' || (version === '00' && rest)) return undefined;
  if (/^0+$/.test(traceId) || /^0+$/.test(spanId)) return undefined;
  return { traceId, spanId, sampled: (Number.parseInt(flags, 16) & 1) === 1 };
}

export function formatTraceparent(context: TraceContext): string {
  return `00-${context.traceId}-${context.spanId}-${context.sampled ? '01' : '00'}`;
}

/** A child of `parent`, or the root of a new trace. */
export function childTrace(parent: TraceContext | undefined): TraceContext {
  return {
    traceId: parent?.traceId ?? randomBytes(16).toString('hex'),
    spanId: randomBytes(8).toString('hex'),
    sampled: parent?.sampled ?? true,
  };
}
