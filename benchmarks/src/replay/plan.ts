import type { RequestTrace, TracedStatement } from './trace.js';

/** A piece of a parameter: text as it was, a value that an earlier statement returns, or one made for each replay. */
export type Piece =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'result'; readonly statement: number; readonly row: number; readonly column: string }
  | { readonly kind: 'fresh_uuid'; readonly number: number }
  /** a whole number from 0 to below this */
  | { readonly kind: 'random_integer'; readonly below: number }
  /** the time of the replay plus this */
  | { readonly kind: 'time'; readonly offsetMilliseconds: number };

/** The pieces make up one text; null is SQL's NULL. */
export type Parameter = readonly Piece[] | null;

export interface PlannedStatement {
  /** those of one connection run in order on one connection */
  readonly connection: number;
  readonly pool: string;
  readonly text: string;
  readonly name: string | null;
  readonly parameters: readonly Parameter[];
  /** statements with one number were under way at the same time and may be so again */
  readonly group: number;
}

/** How to run the statements of a request again, as often as one likes. */
export interface Plan {
  readonly statements: readonly PlannedStatement[];
  readonly freshUuids: number;
  readonly status: number;
  /** what the request was answered with, as text */
  readonly body: string;
}

const UUID = /[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g;
const TIME = /\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d(?::?\d\d)?)/g;

/**
 * Finds out how a request makes its parameters, from two traces of the same request by the same caller:
 *  - what stands in both at the same place is constant;
 *  - what differs and was returned by an earlier statement of the request is taken from there;
 *  - a UUID that differs and that nothing returned is a fresh one, the same wherever it stands;
 *  - a time that differs moves with the request;
 *  - a large whole number that differs was drawn at random, and is drawn anew;
 *  - anything else that differs (a ciphertext, a number of a trace) stays as the second trace has it.
 * Throws where the two ran other statements.
 */
export function planOf(first: RequestTrace, second: RequestTrace): Plan {
  if (first.statements.length !== second.statements.length) throw new Error('the two traces ran different statements');
  const fresh = new Map<string, number>();
  const returned = new Map<string, Omit<Extract<Piece, { kind: 'result' }>, 'kind'>>();
  const groups = groupsOf(second.statements);

  const statements = second.statements.map((statement, index): PlannedStatement => {
    const twin = first.statements[index];
    if (twin === undefined || twin.text !== statement.text) throw new Error('the two traces ran different statements');
    const parameters = statement.values.map((value, position): Parameter => {
      if (value === null) return null;
      const before = twin.values[position];
      if (value === before) return [{ kind: 'text', text: value }];
      return piecesOf(value, before ?? '', { fresh, returned, at: second.at });
    });
    for (const [row, columns] of statement.rows.entries()) {
      for (const [column, value] of Object.entries(columns)) {
        if (value !== null && !returned.has(value)) returned.set(value, { statement: index, row, column });
      }
    }
    return {
      connection: statement.connection,
      pool: statement.pool,
      text: statement.text,
      name: statement.name,
      parameters,
      group: groups[index] ?? index,
    };
  });
  return { statements, freshUuids: fresh.size, status: second.status, body: second.body };
}

interface Known {
  readonly fresh: Map<string, number>;
  readonly returned: ReadonlyMap<string, Omit<Extract<Piece, { kind: 'result' }>, 'kind'>>;
  readonly at: number;
}

function piecesOf(value: string, before: string, known: Known): Parameter {
  const whole = known.returned.get(value);
  if (whole) return [{ kind: 'result', ...whole }];
  if (LARGE_INTEGER.test(value) && LARGE_INTEGER.test(before)) {
    return [{ kind: 'random_integer', below: 2 ** Math.ceil(Math.log2(Math.max(Number(value), Number(before)))) }];
  }
  const pieces: Piece[] = [];
  let end = 0;
  const text = (until: number): void => {
    if (until > end) pieces.push({ kind: 'text', text: value.slice(end, until) });
  };
  for (const match of [...value.matchAll(UUID), ...value.matchAll(TIME)].sort((a, b) => a.index - b.index)) {
    const [found] = match;
    // Also stands in the other trace: whoever it names is the same in both.
    if (match.index < end || before.includes(found)) continue;
    const piece = isUuid(found) ? uuidPiece(found, known) : timePiece(found, known);
    if (piece === null) continue;
    text(match.index);
    pieces.push(piece);
    end = match.index + found.length;
  }
  text(value.length);
  return pieces;
}

/** Nothing that counts is that large; up to 15 digits a number carries it exactly. */
const LARGE_INTEGER = /^\d{9,15}$/;

const isUuid = (text: string): boolean => text.length === 36 && text[8] === '-';

function uuidPiece(uuid: string, known: Known): Piece {
  // Made by the request before the database gave it back: it stays the fresh one that it is.
  const place = known.fresh.has(uuid) ? undefined : known.returned.get(uuid);
  if (place) return { kind: 'result', ...place };
  const number = known.fresh.get(uuid) ?? known.fresh.size;
  known.fresh.set(uuid, number);
  return { kind: 'fresh_uuid', number };
}

/** A time far from the request (a fixed date in a document) is left alone. */
const NEAR_MILLISECONDS = 400 * 24 * 3600 * 1000;

function timePiece(found: string, known: Known): Piece | null {
  const time = Date.parse(found.replace(' ', 'T').replace(/([+-]\d\d)$/, '$1:00'));
  const offsetMilliseconds = time - known.at;
  if (Number.isNaN(time) || Math.abs(offsetMilliseconds) > NEAR_MILLISECONDS) return null;
  return { kind: 'time', offsetMilliseconds };
}

/** The same number for statements on different connections whose times overlap. */
function groupsOf(statements: readonly TracedStatement[]): number[] {
  const groups: number[] = [];
  let open = { number: -1, endedAt: -1, connections: new Set<number>() };
  for (const { startedAt, endedAt, connection } of statements) {
    if (startedAt < open.endedAt && !open.connections.has(connection)) {
      open.endedAt = Math.min(open.endedAt, endedAt);
      open.connections.add(connection);
    } else {
      open = { number: open.number + 1, endedAt, connections: new Set([connection]) };
    }
    groups.push(open.number);
  }
  return groups;
}
