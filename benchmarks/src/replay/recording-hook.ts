/**
 * Loaded into a control plane before its own modules: notes every statement that its PostgreSQL client runs between
 * the messages `{ record: 'start' }` and `{ record: 'stop' }`, and answers the second with `{ recorded: [...] }`.
 * The control plane itself is unchanged and knows nothing of it. A recording process is never a measured one.
 */
import pg from 'pg';
import utils from 'pg/lib/utils.js';
import type { TracedStatement } from './trace.js';

type Mutable<T> = { -readonly [Key in keyof T]: T[Key] };

let recording: Mutable<TracedStatement>[] | null = null;
let moments = 0;
const numbers = new WeakMap<object, number>();
let connections = 0;

const asText = (value: unknown): string | null => {
  const prepared: unknown = utils.prepareValue(value);
  if (prepared === null || prepared === undefined) return null;
  if (Buffer.isBuffer(prepared)) return `\\x${prepared.toString('hex')}`;
  return String(prepared);
};

const original: (...parameters: unknown[]) => unknown = pg.Client.prototype.query;

function recordingQuery(this: pg.Client, ...parameters: unknown[]): unknown {
  const trace = recording;
  const statement = trace === null ? null : begin(this, parameters);
  if (trace === null || statement === null) return original.apply(this, parameters);
  trace.push(statement);
  const done = (rows: unknown): void => {
    statement.endedAt = moments++;
    if (Array.isArray(rows)) statement.rows = rows.map(textsOf);
  };
  const last = parameters.at(-1);
  if (typeof last === 'function') {
    const callback = (error: unknown, result: unknown): void => {
      done(rowsOf(result));
      last(error, result);
    };
    return original.apply(this, [...parameters.slice(0, -1), callback]);
  }
  const answer = original.apply(this, parameters);
  if (answer instanceof Promise) {
    answer.then(
      (result) => done(rowsOf(result)),
      () => done(null),
    );
  }
  return answer;
}

function begin(client: pg.Client, parameters: readonly unknown[]): Mutable<TracedStatement> | null {
  const [query, given] = parameters;
  const isConfig = typeof query === 'object' && query !== null && !('submit' in query);
  const text = typeof query === 'string' ? query : isConfig && 'text' in query ? String(query.text) : null;
  if (text === null) return null;
  const configured = isConfig && 'values' in query ? query.values : undefined;
  const name = isConfig && 'name' in query && typeof query.name === 'string' ? query.name : null;
  const values = Array.isArray(given) ? given : Array.isArray(configured) ? configured : [];
  return {
    connection: numberOf(client),
    pool: optionsOf(client),
    text,
    name,
    values: values.map(asText),
    rows: [],
    startedAt: moments++,
    endedAt: Number.MAX_SAFE_INTEGER,
  };
}

function numberOf(client: pg.Client): number {
  const known = numbers.get(client);
  if (known !== undefined) return known;
  connections += 1;
  numbers.set(client, connections);
  return connections;
}

function optionsOf(client: pg.Client): string {
  if (!('connectionParameters' in client)) return '';
  const { connectionParameters } = client;
  if (typeof connectionParameters !== 'object' || connectionParameters === null) return '';
  return 'options' in connectionParameters ? String(connectionParameters.options ?? '') : '';
}

function rowsOf(result: unknown): unknown {
  return typeof result === 'object' && result !== null && 'rows' in result ? result.rows : null;
}

function textsOf(row: unknown): Record<string, string | null> {
  if (typeof row !== 'object' || row === null) return {};
  return Object.fromEntries(Object.entries(row).map(([column, value]) => [column, asText(value)]));
}

Object.defineProperty(pg.Client.prototype, 'query', { value: recordingQuery, writable: true, configurable: true });

process.on('message', (message: unknown) => {
  if (typeof message !== 'object' || message === null || !('record' in message)) return;
  if (message.record === 'start') {
    recording = [];
    process.send?.({ recording: true });
  }
  if (message.record === 'stop') {
    const recorded = recording ?? [];
    recording = null;
    process.send?.({ recorded });
  }
});
// A listener keeps the channel open; the channel alone must not keep the program alive.
process.channel?.unref();
