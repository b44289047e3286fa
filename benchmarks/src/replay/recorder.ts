import type { Program } from '../harness/programs.js';
import { belongsToRequest, type RequestTrace, statementTexts, type TracedStatement } from './trace.js';

export interface RecordedAnswer {
  readonly status: number;
  readonly body: string;
}

const ATTEMPTS = 8;

/**
 * Lets a program that runs with the recording hook do something until it did it twice in a row by the same statements:
 * a heartbeat or a refreshed cache that fell into one trace falls out of the pair. Throws where no two traces agree.
 */
export async function recordTwice(
  program: Program,
  act: () => Promise<RecordedAnswer>,
): Promise<readonly [RequestTrace, RequestTrace]> {
  let previous: RequestTrace | null = null;
  for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
    const trace = await recordOnce(program, act);
    if (previous !== null && statementTexts(previous) === statementTexts(trace)) return [previous, trace];
    previous = trace;
  }
  throw new Error('what is recorded runs other statements each time');
}

async function recordOnce(program: Program, act: () => Promise<RecordedAnswer>): Promise<RequestTrace> {
  await program.ask({ record: 'start' }, (answer) => (has(answer, 'recording') ? true : undefined));
  const at = Date.now();
  const { status, body } = await act();
  const recorded = await program.ask({ record: 'stop' }, (answer) =>
    has(answer, 'recorded') && Array.isArray(answer.recorded) ? answer.recorded.filter(isStatement) : undefined,
  );
  return { at, statements: recorded.filter(belongsToRequest), status, body };
}

/** A request over HTTP, as something to record. Throws for an answer that is no success. */
export async function requested(method: 'GET' | 'POST', url: string, init: RequestInit): Promise<RecordedAnswer> {
  const response = await fetch(url, { ...init, method });
  const body = await response.text();
  if (!response.ok) throw new Error(`${method} ${url} was answered ${response.status}: ${body}`);
  return { status: response.status, body };
}

function has<Key extends string>(value: unknown, key: Key): value is Record<Key, unknown> {
  return typeof value === 'object' && value !== null && key in value;
}

function isStatement(value: unknown): value is TracedStatement {
  return has(value, 'text') && typeof value.text === 'string' && has(value, 'values') && Array.isArray(value.values);
}
