import { CompiledQuery, type PostgresPool, type PostgresPoolClient } from 'kysely';
import type pg from 'pg';
import { statementOf } from './prepared-statements.js';

/** A wake-up for whoever listens on `channel`. Carries hints only: a lost one costs time, never data. */
export interface Notification {
  readonly channel: string;
  readonly payload: string;
}

/** Told after each commit what the transaction announced; never after a rollback. */
export type AfterCommit = (notifications: readonly Notification[]) => void;

/** Announced by every transaction that wrote an event, so that a relay need not wait for its poll. */
export const OUTBOX_CHANNEL = 'outbox';

const NOTIFY = 'select pg_notify($1, $2)';

/** The query that announces; on a deferring pool it never reaches the server as part of the transaction. */
export function notifyQuery(channel: string, payload: string): CompiledQuery {
  return CompiledQuery.raw(NOTIFY, [channel, payload]);
}

/**
 * A pool whose transactions hold their notifications back until they are committed and then hand them to
 * `afterCommit`. NOTIFY inside a transaction takes a lock that lets only one transaction of the whole server commit
 * at a time, which would undo group commit for every command; outside it costs nothing.
 */
export function deferringPool(pool: pg.Pool, afterCommit: AfterCommit): PostgresPool {
  const clients = new WeakMap<pg.PoolClient, PostgresPoolClient>();
  return {
    async connect() {
      const client = await pool.connect();
      const known = clients.get(client);
      if (known) return known;
      const fresh = deferringClient(client, afterCommit);
      clients.set(client, fresh);
      return fresh;
    },
    end: () => pool.end(),
  };
}

function deferringClient(client: pg.PoolClient, afterCommit: AfterCommit): PostgresPoolClient {
  let inTransaction = false;
  let held = new Map<string, Notification>();

  const announce = (channel: string, payload: string): void => {
    held.set(`${channel}\n${payload}`, { channel, payload });
  };
  const handOver = (): void => {
    if (held.size === 0) return;
    const notifications = [...held.values()];
    held = new Map();
    afterCommit(notifications);
  };

  const query = async (text: string, parameters: readonly unknown[]): Promise<unknown> => {
    if (text === NOTIFY) {
      announce(String(parameters[0]), String(parameters[1]));
      if (!inTransaction) handOver();
      return { command: 'SELECT', rowCount: 0, rows: [] };
    }
    if (text === 'begin' || text.startsWith('start transaction')) {
      inTransaction = true;
      held = new Map();
    }
    if (text === 'rollback') {
      inTransaction = false;
      held = new Map();
    }
    const result = await client.query(statementOf(text, parameters));
    if (text.startsWith('insert into "outbox_events"')) {
      announce(OUTBOX_CHANNEL, '');
      if (!inTransaction) handOver();
    }
    if (text === 'commit') {
      inTransaction = false;
      // The server answers a COMMIT of a failed transaction with ROLLBACK, and without an error.
      if (result.command === 'COMMIT') handOver();
      else held = new Map();
    }
    return result;
  };

  return {
    // Kysely asks for two forms; this product opens no cursors.
    query: query as PostgresPoolClient['query'],
    release: () => client.release(),
  };
}
