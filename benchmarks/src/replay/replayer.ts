import { newId } from '@gpuaas/kernel';
import type pg from 'pg';
import type { Parameter, Piece, Plan, PlannedStatement } from './plan.js';

type Rows = readonly Readonly<Record<string, unknown>>[];

/** How the pool of a planned statement is found: by the start-up options of its connections. */
export type PoolOf = (options: string) => pg.Pool;

const BEGIN = /^\s*(begin|start\s+transaction)\b/i;
const END = /^\s*(commit|rollback)\s*;?\s*$/i;

/**
 * Runs the statements of a plan with plain `pg`: a transaction on one connection of its pool, any other statement on
 * whichever is free, and those that were under way together again together. Throws what PostgreSQL throws; a transaction is then rolled back.
 */
export async function replay(plan: Plan, poolOf: PoolOf): Promise<void> {
  const fresh = Array.from({ length: plan.freshUuids }, () => newId());
  const now = Date.now();
  const results: Rows[] = [];
  const held = new Map<number, pg.PoolClient>();

  const runOne = async (statement: PlannedStatement, index: number): Promise<void> => {
    const values = statement.parameters.map((parameter) => parameterValue(parameter, fresh, results, now));
    const pool = poolOf(statement.pool);
    if (BEGIN.test(statement.text)) held.set(statement.connection, await pool.connect());
    const client = held.get(statement.connection);
    const { text, name } = statement;
    const result = await (client ?? pool).query<Record<string, unknown>>({
      text,
      values,
      ...(name !== null && { name }),
    });
    results[index] = result.rows;
    if (client && END.test(statement.text)) {
      held.delete(statement.connection);
      client.release();
    }
  };

  try {
    for (let index = 0; index < plan.statements.length; ) {
      const first = plan.statements[index];
      if (first === undefined) break;
      const together: Promise<void>[] = [];
      for (; plan.statements[index]?.group === first.group; index += 1) {
        const statement = plan.statements[index];
        if (statement) together.push(runOne(statement, index));
      }
      if (together.length === 1) await together[0];
      else await Promise.all(together);
    }
  } finally {
    // Left over only after an error: closing the connection rolls back.
    for (const client of held.values()) client.release(true);
  }
}

function parameterValue(
  parameter: Parameter,
  fresh: readonly string[],
  results: readonly Rows[],
  now: number,
): unknown {
  if (parameter === null) return null;
  const [only] = parameter;
  // As `pg` read it: a time stays a Date, JSON stays an object, exactly what a program would hand on.
  if (parameter.length === 1 && only?.kind === 'result') return resultOf(only, results);
  return parameter.map((piece) => textOf(piece, fresh, results, now)).join('');
}

function textOf(piece: Piece, fresh: readonly string[], results: readonly Rows[], now: number): string {
  switch (piece.kind) {
    case 'text':
      return piece.text;
    case 'fresh_uuid':
      return fresh[piece.number] ?? '';
    case 'random_integer':
      return String(Math.floor(Math.random() * piece.below));
    case 'time':
      return new Date(now + piece.offsetMilliseconds).toISOString();
    case 'result':
      return String(resultOf(piece, results));
  }
}

function resultOf(
  place: { readonly statement: number; readonly row: number; readonly column: string },
  results: readonly Rows[],
): unknown {
  const row = results[place.statement]?.[place.row];
  if (row === undefined) throw new Error(`statement ${place.statement} returned no row ${place.row} this time`);
  return row[place.column];
}
