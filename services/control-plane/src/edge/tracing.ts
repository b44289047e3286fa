import { childTrace, type TraceContext } from '@gpuaas/kernel';
import { ROOT_CONTEXT, type Span, SpanKind, SpanStatusCode, trace } from '@opentelemetry/api';

const tracer = trace.getTracer('gpuaas.edge');

export interface RequestSpan {
  readonly trace: TraceContext;
  end(status: number): void;
}

/**
 * Opens the span of one request under the caller's trace. Without an exporter nothing is recorded, yet the ids are
 * there all the same: logs, audit, events and tasks carry them.
 */
export function startRequestSpan(name: string, parent: TraceContext | undefined): RequestSpan {
  const context = parent
    ? trace.setSpanContext(ROOT_CONTEXT, {
        traceId: parent.traceId,
        spanId: parent.spanId,
        traceFlags: parent.sampled ? 1 : 0,
        isRemote: true,
      })
    : ROOT_CONTEXT;
  const span: Span = tracer.startSpan(name, { kind: SpanKind.SERVER }, context);
  if (!span.isRecording()) return { trace: childTrace(parent), end: () => undefined };
  const { traceId, spanId, traceFlags } = span.spanContext();
  return {
    trace: { traceId, spanId, sampled: (traceFlags & 1) === 1 },
    end(status) {
      span.setAttribute('http.response.status_code', status);
      if (status >= 500) span.setStatus({ code: SpanStatusCode.ERROR });
      span.end();
    },
  };
}
