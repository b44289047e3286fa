import { CompiledQuery, type PostgresPool, type PostgresPoolClient } from 'kysely';
import type pg from 'pg';

/** Only texts that the code names itself: their number is bounded, so each connection may keep all of them. */
const names = new Map<string, string>();

/**
 * A query that each connection parses and plans once and then only executes: for the few that run before every
 * request, where planning costs more than the lookup itself. `name` is unique in the program.
 */
export function preparedQuery<Row>(name: string, text: string): (parameters: readonly unknown[]) => CompiledQuery<Row> {
  for (const [known, taken] of names) {
    if (taken === name && known !== text) throw new Error(`two prepared queries are called ${name}`);
  }
  names.set(text, name);
  return (parameters) => CompiledQuery.raw(text, [...parameters]);
}

/** What `pg` executes for a text: with a name where it is one of the prepared ones. */
export function statementOf(text: string, values: readonly unknown[]): pg.QueryConfig {
  const name = names.get(text);
  return name === undefined ? { text, values: [...values] } : { name, text, values: [...values] };
}

/** The pool as Kysely uses it, with prepared queries prepared. */
export function preparingPool(pool: pg.Pool): PostgresPool {
  return {
    async connect() {
      const client = await pool.connect();
      const query = (text: string, parameters: readonly unknown[]): Promise<unknown> =>
        client.query(statementOf(text, parameters));
      return {
        // Kysely asks for two forms; this product opens no cursors.
        query: query as PostgresPoolClient['query'],
        release: () => client.release(),
      };
    },
    end: () => pool.end(),
  };
}
