/** A statement that a request ran, with its values in the text form in which they travel. */
export interface TracedStatement {
  /** which connection ran it; the numbers mean nothing else */
  readonly connection: number;
  /** the start-up options of that connection: they tell the pools of a program apart */
  readonly pool: string;
  readonly text: string;
  /** where the connection keeps it prepared; null where it is parsed each time */
  readonly name: string | null;
  readonly values: readonly (string | null)[];
  readonly rows: readonly Readonly<Record<string, string | null>>[];
  /** places in the order of all starts and ends of the trace */
  readonly startedAt: number;
  readonly endedAt: number;
}

/** All statements of one request, in the order of their starts, and what the request was answered with. */
export interface RequestTrace {
  /** milliseconds since 1970, when the request was sent */
  readonly at: number;
  readonly statements: readonly TracedStatement[];
  readonly status: number;
  readonly body: string;
}

/** Statements that wake other processes up run on a connection of their own, after the answer. */
const WAKE_UP = /^\s*(select\s+pg_notify|listen|unlisten)\b/i;

export const belongsToRequest = (statement: TracedStatement): boolean => !WAKE_UP.test(statement.text);

export const statementTexts = (trace: RequestTrace): string => trace.statements.map(({ text }) => text).join(';\n');
