import type { Program } from '../harness/programs.js';
import { belongsToRequest, type RequestTrace, statementTexts, type TracedStatement } from './trace.js';

export interface RecordedRequest {
  readonly method: 'GET' | 'POST';
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
}

const ATTEMPTS = 8;

/**
 * Sends a request to a control plane that runs with the recording hook until two answers in a row came from the same
 * statements: a heartbeat or a refreshed cache that fell into one trace falls out of the pair. Throws for an answer
 * that is no success, and where no two traces agree.
 */
export async function recordTwice(
  program: Program,
  request: RecordedRequest,
): Promise<readonly [RequestTrace, RequestTrace]> {
  let previous: RequestTrace | null = null;
  for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
    const trace = await recordOnce(program, request);
    if (previous !== null && statementTexts(previous) === statementTexts(trace)) return [previous, trace];
    previous = trace;
  }
  throw new Error(`${request.method} ${request.url} runs other statements each time`);
}

async function recordOnce(program: Program, request: RecordedRequest): Promise<RequestTrace> {
  await program.ask({ record: 'start' }, (answer) => (has(answer, 'recording') ? true : undefined));
  const at = Date.now();
  const response = await fetch(request.url, {
    method: request.method,
    headers: request.headers,
    ...(request.body !== undefined && { body: request.body }),
  });
  const body = await response.text();
  const recorded = await program.ask({ record: 'stop' }, (answer) =>
    has(answer, 'recorded') && Array.isArray(answer.recorded) ? answer.recorded.filter(isStatement) : undefined,
  );
  if (!response.ok) throw new Error(`${request.method} ${request.url} was answered ${response.status}: ${body}`);
  return { at, statements: recorded.filter(belongsToRequest), status: response.status, body };
}

function has<Key extends string>(value: unknown, key: Key): value is Record<Key, unknown> {
  return typeof value === 'object' && value !== null && key in value;
}

function isStatement(value: unknown): value is TracedStatement {
  return has(value, 'text') && typeof value.text === 'string' && has(value, 'values') && Array.isArray(value.values);
}
