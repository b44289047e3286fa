import { setTimeout as delay } from 'node:timers/promises';
import { errorChain, type Logger } from '@gpuaas/kernel';
import pg from 'pg';
import { type AfterCommit, type Notification, notifyQuery } from './after-commit.js';
import { connectionConfig } from './database.js';
import type { Reader } from './operation.js';

/** PostgreSQL refuses longer ones. */
const MAXIMUM_PAYLOAD_BYTES = 7_999;
/** While the server is away; beyond it hints are dropped, and those who wait find out by looking. */
const MAXIMUM_OUTGOING = 10_000;

export interface Signals {
  /**
   * Announces on `channel` once the transaction is committed, and not at all if it is rolled back. `tx` may be the
   * pool: then at once. For wake-ups only: an announcement may be lost, and whoever waits looks for himself as well.
   */
  notify(tx: Reader, channel: string, payload?: string): Promise<void>;
  /** Calls `listener` for each announcement, from this process or another; returns how to stop that. */
  subscribe(channel: string, listener: (payload: string) => void): () => void;
  /**
   * Calls `listener` whenever announcements may have been lost (the connection came back after a break): whoever
   * waits for one should look for himself now.
   */
  onGap(listener: () => void): () => void;
  /** To be given to openDatabase as `afterCommit`. */
  readonly afterCommit: AfterCommit;
  /** Resolves once announcements of other processes arrive. */
  ready(): Promise<void>;
  close(): Promise<void>;
}

/** A wake-up of this process reaches its own listeners in memory; others learn of it by LISTEN/NOTIFY. */
export function createSignals(options: { readonly url: string; readonly log: Logger }): Signals {
  const { log } = options;
  const listeners = new Map<string, Set<(payload: string) => void>>();
  const gapListeners = new Set<() => void>();
  const outgoing = new Map<string, Notification>();
  let connection: pg.Client | null = null;
  let closed = false;
  let sending = false;
  const stopWaiting = new AbortController();
  let becomeReady: () => void = () => undefined;
  const firstConnection = new Promise<void>((resolve) => {
    becomeReady = resolve;
  });

  const tell = (channel: string, payload: string): void => {
    for (const listener of [...(listeners.get(channel) ?? [])]) {
      try {
        listener(payload);
      } catch (error) {
        log.error({ channel, error: errorChain(error) }, 'a listener of a signal failed');
      }
    }
  };

  const listen = (client: pg.Client, channel: string): Promise<unknown> =>
    client.query(`LISTEN ${client.escapeIdentifier(channel)}`);

  const connect = async (): Promise<void> => {
    for (let attempt = 0; !closed; attempt += 1) {
      // No statement of its own may be cancelled here, and nothing it commits needs the disk.
      const config = connectionConfig({ url: options.url, poolSize: 1, applicationName: 'gpuaas-signals' });
      const client = new pg.Client({ ...config, options: `${config.options ?? ''} -c synchronous_commit=off` });
      try {
        client.on('error', (error) => log.warn({ error: errorChain(error) }, 'the connection for signals broke'));
        await client.connect();
        client.on('notification', (message) => {
          // What this process announced has reached its listeners already.
          if (message.processId === processIdOf(client)) return;
          tell(message.channel, message.payload ?? '');
        });
        client.once('end', () => {
          if (connection !== client) return;
          connection = null;
          if (!closed) void connect();
        });
        for (const channel of listeners.keys()) await listen(client, channel);
        if (closed) {
          await client.end();
          return;
        }
        connection = client;
        becomeReady();
        if (attempt > 0 || outgoing.size > 0) log.info('the connection for signals is back');
        for (const listener of [...gapListeners]) listener();
        void send();
        return;
      } catch (error) {
        await client.end().catch(() => undefined);
        if (attempt === 0) log.warn({ error: errorChain(error) }, 'signals cannot connect to the database');
        await delay(Math.min(5_000, 50 * 2 ** attempt), undefined, { signal: stopWaiting.signal }).catch(
          () => undefined,
        );
      }
    }
  };

  // One statement for all that has gathered while the last one was under way.
  const send = async (): Promise<void> => {
    if (sending || connection === null) return;
    sending = true;
    try {
      while (outgoing.size > 0 && connection !== null) {
        const batch = [...outgoing.values()];
        outgoing.clear();
        await connection.query(
          'SELECT pg_notify(channel, payload) FROM unnest($1::text[], $2::text[]) AS n (channel, payload)',
          [batch.map((notification) => notification.channel), batch.map((notification) => notification.payload)],
        );
      }
    } catch (error) {
      log.warn({ error: errorChain(error) }, 'signals could not be sent');
    } finally {
      sending = false;
    }
  };

  const afterCommit: AfterCommit = (notifications) => {
    for (const notification of notifications) {
      tell(notification.channel, notification.payload);
      if (!closed && outgoing.size < MAXIMUM_OUTGOING)
        outgoing.set(`${notification.channel}\n${notification.payload}`, notification);
    }
    void send();
  };

  void connect();

  return {
    afterCommit,
    async notify(tx, channel, payload = '') {
      if (Buffer.byteLength(payload) > MAXIMUM_PAYLOAD_BYTES)
        throw new RangeError('the payload of a signal is too long');
      await tx.executeQuery(notifyQuery(channel, payload));
    },
    subscribe(channel, listener) {
      const known = listeners.get(channel);
      const set = known ?? new Set();
      if (!known) {
        listeners.set(channel, set);
        if (connection !== null) {
          listen(connection, channel).catch((error: unknown) =>
            log.warn({ channel, error: errorChain(error) }, 'a channel could not be listened to'),
          );
        }
      }
      set.add(listener);
      // The channel stays listened to: nobody hears it is cheaper than asking the server twice.
      return () => {
        set.delete(listener);
      };
    },
    onGap(listener) {
      gapListeners.add(listener);
      return () => {
        gapListeners.delete(listener);
      };
    },
    ready: () => firstConnection,
    async close() {
      closed = true;
      stopWaiting.abort();
      const last = connection;
      connection = null;
      await last?.end().catch(() => undefined);
    },
  };
}

/** The server's number of a connection, which its own notifications carry. */
function processIdOf(client: pg.Client): number | undefined {
  const value: unknown = Reflect.get(client, 'processID');
  return typeof value === 'number' ? value : undefined;
}
