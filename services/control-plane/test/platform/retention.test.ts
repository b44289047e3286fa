import { randomUUID } from 'node:crypto';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { removeExpired } from '../../src/domains/platform/store/retention.js';
import { cloneDatabase, type TestDatabase } from '../harness/database.js';

let database: TestDatabase;
beforeAll(async () => {
  database = await cloneDatabase();
});
afterAll(() => database.drop());

const DAY = 86_400_000;
const now = new Date('2026-06-01T00:00:00Z');
const ago = (days: number): Date => new Date(now.getTime() - days * DAY);

async function event(status: string, days: number, type = 'gpuaas.provisioning.active'): Promise<string> {
  const id = randomUUID();
  await sql`
    INSERT INTO outbox_events (id, event_type, aggregate_type, aggregate_id, payload, correlation_id, request_id, trace_id,
                               status, occurred_at, published_at)
    VALUES (${id}, ${type}, 'a', ${id}, '{}', 'c', 'r', 't', ${status}, ${ago(days)},
            ${status === 'published' ? ago(days) : null})`.execute(database.db);
  await sql`INSERT INTO inbox (consumer, event_id, handled_at) VALUES ('c', ${id}, ${ago(days)})`.execute(database.db);
  return id;
}

describe('removing what has expired', () => {
  it('keeps what still waits for a decision, however old, and payments longer than the rest', async () => {
    const kept = [
      await event('published', 6),
      await event('published', 29, 'platform.payments.balance_credited'),
      await event('pending', 400),
      await event('failed', 400),
      await event('discarded', 29),
    ];
    const gone = [
      await event('published', 8),
      await event('published', 40, 'platform.payments.balance_credited'),
      await event('discarded', 40),
    ];
    await sql`
      INSERT INTO idempotency_keys (principal, operation, key, body_hash, created_at, expires_at)
      VALUES ('p', 'o', 'old', 'h', ${ago(2)}, ${ago(1)}), ('p', 'o', 'new', 'h', ${ago(0)}, ${ago(-1)})`.execute(
      database.db,
    );
    const letter = (eventId: string, state: string) => sql`
      INSERT INTO dead_letters (subject, event_id, consumer, payload, error, state, created_at, decided_at)
      VALUES ('dlq.x', ${eventId}, ${randomUUID()}, '{}', 'e', ${state}, ${ago(400)}, ${state === 'dead' ? null : ago(40)})`;
    await letter(kept[3] ?? '', 'dead').execute(database.db);
    await letter(kept[3] ?? '', 'discarded').execute(database.db);
    await letter(randomUUID(), 'requeued').execute(database.db);

    await removeExpired(database.db, now, new AbortController().signal);
    await removeExpired(database.db, now, new AbortController().signal);

    const left = await database.db.selectFrom('outbox_events').select('id').execute();
    expect(left.map((row) => row.id).sort()).toEqual([...kept].sort());
    const inbox = await database.db.selectFrom('inbox').select('event_id').execute();
    // An event that may still be delivered keeps its inbox; so does one whose row is younger than the inbox's own term.
    expect(inbox.map((row) => row.event_id).sort()).toEqual([...kept, gone[0] ?? ''].sort());
    const letters = await database.db
      .selectFrom('dead_letters')
      .select(['state', 'event_id'])
      .orderBy('state')
      .execute();
    expect(letters.map((row) => row.state)).toEqual(['dead', 'discarded']);
    const keys = await database.db.selectFrom('idempotency_keys').select('key').execute();
    expect(keys).toEqual([{ key: 'new' }]);
  });

  it('stops at once when it is told to', async () => {
    const aborted = AbortSignal.abort();
    expect(await removeExpired(database.db, now, aborted)).toEqual({});
  });
});
