import { randomUUID } from 'node:crypto';
import fc from 'fast-check';
import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { APPLICATION_ROLE, openDatabase } from '../../src/spine/database.js';
import type { Reader } from '../../src/spine/operation.js';
import { publish } from '../../src/spine/outbox.js';
import { afterFailure, MAXIMUM_ATTEMPTS } from '../../src/spine/outbox-rules.js';
import {
  discardDeadLetter,
  discardFailedEvent,
  lockDeadLetter,
  requeueDeadLetter,
  requeueFailedEvent,
} from '../../src/spine/outbox-store.js';
import { type EventSubscriber, type Relay, type RelayOptions, startRelay } from '../../src/spine/relay.js';
import { createSignals } from '../../src/spine/signals.js';
import { cloneDatabase, type TestDatabase } from '../harness/database.js';
import { type Program, startProgram } from '../harness/program.js';
import { until } from '../harness/waiting.js';
import { fastClock, noSignals, quietLog, systemContext } from './support.js';

let database: TestDatabase;
let db: Reader;
let relays: Relay[] = [];

beforeAll(async () => {
  database = await cloneDatabase({ poolSize: 20 });
  db = database.db;
  const owner = openDatabase({ url: database.url, poolSize: 1 });
  await sql`CREATE TABLE effects (position bigserial PRIMARY KEY, consumer text, aggregate text, number int)`.execute(
    owner,
  );
  await owner.destroy();
});
afterAll(() => database.drop());
beforeEach(async () => {
  for (const table of ['effects', 'inbox', 'dead_letters', 'outbox_events'])
    await sql`DELETE FROM ${sql.table(table)}`.execute(db);
});
afterEach(async () => {
  await Promise.all(relays.map((relay) => relay.stop()));
  relays = [];
});

function relay(subscribers: readonly EventSubscriber[], options: Partial<RelayOptions> = {}): Relay {
  const started = startRelay({
    db,
    subscribers,
    signals: noSignals,
    clock: fastClock(2_000),
    log: quietLog,
    pollMilliseconds: 10,
    leaseMilliseconds: 300,
    ...options,
  });
  relays.push(started);
  return started;
}

const emit = (aggregate: string, number: number, type = 'test.thing.happened'): Promise<string> =>
  db
    .transaction()
    .execute((tx) =>
      publish(tx, systemContext(), { type, aggregateType: 'thing', aggregateId: aggregate, payload: { number } }),
    );

interface Effect {
  consumer: string;
  aggregate: string;
  number: number;
}
const effects = async (): Promise<Effect[]> =>
  (await sql<Effect>`SELECT consumer, aggregate, number FROM effects ORDER BY position`.execute(db)).rows;

/** Writes down what it sees, after `before` and before `after` had their say. */
function recorder(
  name: string,
  hooks: { before?: (number: number) => unknown; after?: (number: number) => unknown } = {},
): EventSubscriber {
  return {
    name,
    eventTypes: ['test.thing.happened'],
    async handle(tx, _ctx, event) {
      const { payload } = event;
      if (payload === null || typeof payload !== 'object' || !('number' in payload)) throw new Error('no number');
      const number = Number(payload.number);
      await hooks.before?.(number);
      await sql`INSERT INTO effects (consumer, aggregate, number) VALUES (${name}, ${event.aggregateId}, ${number})`.execute(
        tx,
      );
      await hooks.after?.(number);
    },
  };
}

const statusOf = async (id: string) =>
  db
    .selectFrom('outbox_events')
    .select(['status', 'retry_count', 'attempts_total', 'error', 'published_at'])
    .where('id', '=', id)
    .executeTakeFirstOrThrow();
const settled = (id: string, status: string) => until(async () => (await statusOf(id)).status === status);
const allPublished = () =>
  until(async () => {
    const { open } = await db
      .selectFrom('outbox_events')
      .select((eb) => eb.fn.countAll<bigint>().as('open'))
      .where('status', '!=', 'published')
      .executeTakeFirstOrThrow();
    return open === 0n;
  });

describe('the delay after a failure', () => {
  it('doubles, stays within five minutes and ends after twelve attempts', () => {
    let last = 0;
    for (let failures = 1; failures < MAXIMUM_ATTEMPTS; failures += 1) {
      const next = afterFailure(failures);
      if (next.kind !== 'retry') throw new Error(`given up after ${failures}`);
      expect(next.delayMilliseconds).toBeGreaterThanOrEqual(last);
      expect(next.delayMilliseconds).toBeLessThanOrEqual(300_000);
      last = next.delayMilliseconds;
    }
    expect(afterFailure(1)).toEqual({ kind: 'retry', delayMilliseconds: 2_000 });
    expect(afterFailure(MAXIMUM_ATTEMPTS)).toEqual({ kind: 'give_up' });
  });
});

describe('the relay', () => {
  it('delivers every event to each consumer of its type, and events without one to nobody', async () => {
    const heard = await emit('a', 1);
    const unheard = await emit('a', 2, 'test.thing.ignored');
    relay([recorder('left'), recorder('right')]);
    await settled(heard, 'published');
    await settled(unheard, 'published');
    expect((await effects()).map((effect) => effect.consumer).sort()).toEqual(['left', 'right']);
    expect(await statusOf(heard)).toMatchObject({ attempts_total: 1, retry_count: 0 });
  });

  it('does not see what was rolled back', async () => {
    relay([recorder('left')]);
    await expect(
      db.transaction().execute(async (tx) => {
        await publish(tx, systemContext(), {
          type: 'test.thing.happened',
          aggregateType: 'thing',
          aggregateId: 'a',
          payload: { number: 1 },
        });
        throw new Error('no');
      }),
    ).rejects.toThrow('no');
    await settled(await emit('a', 2), 'published');
    expect(await effects()).toEqual([{ consumer: 'left', aggregate: 'a', number: 2 }]);
  });

  it('is woken by a commit in this process and in another, without waiting for its poll', async () => {
    const here = createSignals({ url: database.url, log: quietLog });
    const there = createSignals({ url: database.url, log: quietLog });
    await Promise.all([here.ready(), there.ready()]);
    relay([recorder('left')], { signals: here, pollMilliseconds: 3_600_000 });
    for (const signals of [here, there]) {
      const announcing = openDatabase({
        url: database.url,
        role: APPLICATION_ROLE,
        poolSize: 1,
        afterCommit: signals.afterCommit,
      });
      const id = await announcing.transaction().execute((tx) =>
        publish(tx, systemContext(), {
          type: 'test.thing.happened',
          aggregateType: 'thing',
          aggregateId: 'a',
          payload: { number: 1 },
        }),
      );
      await settled(id, 'published');
      await announcing.destroy();
    }
    await Promise.all([here.close(), there.close()]);
  });

  it('holds back the later events of an aggregate while an earlier one fails, and no others', async () => {
    let failing = true;
    const first = await emit('a', 1);
    await emit('a', 2);
    const other = await emit('b', 1);
    relay(
      [
        recorder('left', {
          before: (number) => {
            if (failing && number === 1) throw new Error('not yet');
          },
        }),
      ],
      { clock: fastClock(1) },
    );
    // b carries number 1 as well: it fails too, but by itself.
    await until(async () => (await statusOf(first)).retry_count > 0 && (await statusOf(other)).retry_count > 0);
    expect(await effects()).toEqual([]);
    failing = false;
    await Promise.all(relays.map((each) => each.stop()));
    relay([recorder('left')]);
    await allPublished();
    expect((await effects()).filter((effect) => effect.aggregate === 'a').map((effect) => effect.number)).toEqual([
      1, 2,
    ]);
  });

  it('does not let one consumer’s failure repeat another’s effect', async () => {
    let attempts = 0;
    const id = await emit('a', 1);
    relay([
      recorder('left'),
      recorder('right', {
        after: () => {
          attempts += 1;
          if (attempts < 4) throw new Error('again');
        },
      }),
    ]);
    await settled(id, 'published');
    expect(attempts).toBe(4);
    expect(await effects()).toEqual([
      { consumer: 'left', aggregate: 'a', number: 1 },
      { consumer: 'right', aggregate: 'a', number: 1 },
    ]);
    expect(await statusOf(id)).toMatchObject({ retry_count: 3, attempts_total: 4, error: null });
  });

  it('shares the work with other relays: everything once, in order', async () => {
    const aggregates = ['a', 'b', 'c', 'd', 'e'];
    for (let number = 1; number <= 30; number += 1)
      await Promise.all(aggregates.map((aggregate) => emit(aggregate, number)));
    for (let count = 0; count < 4; count += 1) relay([recorder('left')], { concurrency: 2 });
    await allPublished();
    for (const aggregate of aggregates) {
      const numbers = (await effects())
        .filter((effect) => effect.aggregate === aggregate)
        .map((effect) => effect.number);
      expect(numbers).toEqual(Array.from({ length: 30 }, (_, index) => index + 1));
    }
  });

  it('gives back what it had taken and not begun when it is stopped', async () => {
    for (let number = 1; number <= 20; number += 1) await emit(`aggregate-${number}`, number);
    let release: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => {
      release = resolve;
    });
    let begun = 0;
    const stopped = relay(
      [
        recorder('left', {
          before: () => {
            begun += 1;
            return gate;
          },
        }),
      ],
      { concurrency: 2 },
    );
    await until(() => begun === 2);
    const stopping = stopped.stop();
    release();
    await stopping;
    const { rows } = await sql<{ status: string; count: number }>`
      SELECT status, count(*)::int AS count FROM outbox_events GROUP BY status ORDER BY status`.execute(db);
    expect(rows).toEqual([
      { status: 'pending', count: 18 },
      { status: 'published', count: 2 },
    ]);
  });
});

describe('an event that fails for good', () => {
  const poison = (name: string, broken: { now: boolean }): EventSubscriber =>
    recorder(name, {
      after: () => {
        if (broken.now) throw new Error('token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdefghij');
      },
    });
  const by = { now: new Date(), userId: randomUUID() };

  async function dead(broken: { now: boolean }, names = ['right']): Promise<{ id: string; letters: bigint[] }> {
    const id = await emit('a', 1);
    relay([recorder('left'), ...names.map((name) => poison(name, broken))]);
    await settled(id, 'failed');
    const letters = await db
      .selectFrom('dead_letters')
      .select(['stream_seq', 'subject', 'original_topic', 'error', 'state'])
      .where('event_id', '=', id)
      .where('state', '=', 'dead')
      .orderBy('consumer')
      .execute();
    for (const letter of letters) {
      expect(letter).toMatchObject({ subject: 'dlq.test.thing.happened', original_topic: 'test.thing.happened' });
      expect(letter.error).not.toContain('eyJ');
    }
    return { id, letters: letters.map((letter) => letter.stream_seq) };
  }

  it('becomes a dead letter after twelve attempts and lets the next event of its aggregate pass', async () => {
    const broken = { now: true };
    const { id, letters } = await dead(broken);
    expect(letters.length).toBe(1);
    expect(await statusOf(id)).toMatchObject({ retry_count: MAXIMUM_ATTEMPTS, attempts_total: MAXIMUM_ATTEMPTS });
    broken.now = false;
    await settled(await emit('a', 2), 'published');
  });

  it('is delivered exactly once more by a requeue of its letter, to the consumer that had failed', async () => {
    const broken = { now: true };
    const { id, letters } = await dead(broken);
    broken.now = false;
    const requeue = () =>
      db.transaction().execute(async (tx) => {
        const letter = await lockDeadLetter(tx, letters[0] ?? 0n);
        if (letter) await requeueDeadLetter(tx, letter, by);
        return letter !== null;
      });
    const answers = await Promise.all([requeue(), requeue()]);
    expect(answers.filter(Boolean).length).toBe(1);
    await settled(id, 'published');
    expect((await effects()).map((effect) => effect.consumer)).toEqual(['left', 'right']);
    expect(await requeue()).toBe(false);
  });

  it('gets a new letter with a new number when it fails again after a requeue', async () => {
    const broken = { now: true };
    const { id, letters } = await dead(broken);
    await db.transaction().execute((tx) => requeueFailedEvent(tx, id, by));
    await until(async () => {
      const row = await db
        .selectFrom('dead_letters')
        .select('stream_seq')
        .where('event_id', '=', id)
        .where('state', '=', 'dead')
        .executeTakeFirst();
      return row !== undefined && row.stream_seq > (letters[0] ?? 0n);
    });
    expect(await statusOf(id)).toMatchObject({ retry_count: MAXIMUM_ATTEMPTS, attempts_total: 2 * MAXIMUM_ATTEMPTS });
  });

  it('stays failed while another consumer’s letter is open, and is done when that one is let go', async () => {
    const broken = { now: true };
    const { id, letters } = await dead(broken, ['middle', 'right']);
    expect(letters.length).toBe(2);
    broken.now = false;
    await db.transaction().execute(async (tx) => {
      const letter = await lockDeadLetter(tx, letters[0] ?? 0n);
      if (letter) await requeueDeadLetter(tx, letter, by);
    });
    await until(async () => (await effects()).length === 2);
    await settled(id, 'failed');
    expect((await effects()).map((effect) => effect.consumer)).toEqual(['left', 'middle']);
    await db.transaction().execute(async (tx) => {
      const letter = await lockDeadLetter(tx, letters[1] ?? 0n);
      if (letter) await discardDeadLetter(tx, letter, by);
    });
    expect((await statusOf(id)).status).toBe('discarded');
  });

  it('can be requeued or discarded once: of two at the same time the second finds it no longer failed', async () => {
    const { id } = await dead({ now: true });
    const decide = (action: typeof requeueFailedEvent) => db.transaction().execute((tx) => action(tx, id, by));
    await Promise.all(relays.map((each) => each.stop()));
    const answers = await Promise.all([decide(discardFailedEvent), decide(requeueFailedEvent)]);
    expect(answers.map((answer) => answer.kind).sort()).toEqual(['done', 'not_failed']);
    expect(await db.selectFrom('dead_letters').select('stream_seq').where('state', '=', 'dead').execute()).toEqual([]);
    expect(await db.transaction().execute((tx) => requeueFailedEvent(tx, randomUUID(), by))).toEqual({
      kind: 'unknown',
    });
  });
});

describe('a payload', () => {
  it('with something that looks like a secret is refused before it is stored', async () => {
    const leak = (payload: Record<string, unknown>) =>
      db
        .transaction()
        .execute((tx) => publish(tx, systemContext(), { type: 't', aggregateType: 'x', aggregateId: 'y', payload }));
    await expect(leak({ password: 'x' })).rejects.toThrow(/would carry a secret/);
    await expect(leak({ note: '-----BEGIN PRIVATE KEY-----' })).rejects.toThrow(/would carry a secret/);
    await expect(leak({ at: new Date(0), left: undefined, count: 3 })).resolves.toBeTypeOf('string');
  });
});

describe('under faults at any moment', () => {
  const plans = fc.record({
    events: fc.array(fc.record({ aggregate: fc.constantFrom('a', 'b', 'c'), fails: fc.nat(3) }), {
      minLength: 5,
      maxLength: 25,
    }),
    kills: fc.array(fc.nat(40), { maxLength: 6 }),
    relays: fc.integer({ min: 1, max: 3 }),
  });

  it('every event has its effect once for each consumer, in the order of its aggregate', {
    timeout: 120_000,
  }, async () => {
    await fc.assert(
      fc.asyncProperty(plans, async (plan) => {
        for (const table of ['effects', 'inbox', 'dead_letters', 'outbox_events'])
          await sql`DELETE FROM ${sql.table(table)}`.execute(db);
        const wanted = new Map<string, number[]>();
        const fails = new Map<number, number>();
        for (const [number, event] of plan.events.entries()) {
          await emit(event.aggregate, number);
          wanted.set(event.aggregate, [...(wanted.get(event.aggregate) ?? []), number]);
          fails.set(number, event.fails);
        }
        // Fails before and after its effect, inside the transaction, as often as the plan says.
        const unsteady = (number: number): void => {
          const left = fails.get(number) ?? 0;
          fails.set(number, left - 1);
          if (left > 0) throw new Error('unsteady');
        };
        const name = `fault-${randomUUID()}`;
        const pools = Array.from({ length: plan.relays }, () =>
          openDatabase({ url: database.url, role: APPLICATION_ROLE, poolSize: 6, applicationName: name }),
        );
        const running = pools.map((pool) =>
          startRelay({
            db: pool,
            subscribers: [recorder('left'), recorder('right', { before: unsteady, after: unsteady })],
            signals: noSignals,
            clock: fastClock(2_000),
            log: quietLog,
            pollMilliseconds: 5,
            leaseMilliseconds: 150,
            concurrency: 3,
          }),
        );
        let looks = 0;
        const kills = new Set(plan.kills);
        await until(
          async () => {
            looks += 1;
            if (kills.has(looks)) {
              await sql`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = ${name}`.execute(
                owner,
              );
            }
            const { open } = await db
              .selectFrom('outbox_events')
              .select((eb) => eb.fn.countAll<bigint>().as('open'))
              .where('status', '!=', 'published')
              .executeTakeFirstOrThrow();
            return open === 0n && looks > 40;
          },
          { timeoutMilliseconds: 30_000, what: 'all events to be published' },
        );
        await Promise.all(running.map((each) => each.stop()));
        await Promise.all(pools.map((pool) => pool.destroy()));
        const seen = await effects();
        for (const [aggregate, numbers] of wanted) {
          for (const consumer of ['left', 'right']) {
            const got = seen.filter((effect) => effect.aggregate === aggregate && effect.consumer === consumer);
            expect(got.map((effect) => effect.number)).toEqual(numbers);
          }
        }
      }),
      { numRuns: 12 },
    );
  });

  const ownerOptions = { poolSize: 1 };
  let owner: Reader;
  beforeAll(() => {
    owner = openDatabase({ url: database.url, ...ownerOptions });
  });
  afterAll(() => owner.destroy());
});

describe('relays in processes of their own', () => {
  it('lose nothing and double nothing when they are killed in the middle', { timeout: 120_000 }, async () => {
    const aggregates = ['a', 'b', 'c', 'd'];
    const wanted = Array.from({ length: 40 }, (_, index) => index);
    const programs: Program[] = [];
    const begin = () =>
      programs.push(startProgram(new URL('relay-program.ts', import.meta.url), { TEST_DATABASE_URL: database.url }));
    const done = async () => (await effects()).length;
    try {
      begin();
      begin();
      for (const number of wanted) await Promise.all(aggregates.map((aggregate) => emit(aggregate, number)));
      for (let kills = 1; kills <= 3; kills += 1) {
        const before = kills * 40;
        await until(async () => (await done()) > before, {
          what: programs.map((program) => program.output()).join('\n'),
        });
        await programs.shift()?.kill();
        begin();
      }
      await until(async () => (await done()) === aggregates.length * wanted.length * 2, {
        timeoutMilliseconds: 60_000,
      });
      await allPublished();
    } finally {
      await Promise.all(programs.map((program) => program.kill()));
    }
    const seen = await effects();
    for (const aggregate of aggregates) {
      for (const consumer of ['left', 'right']) {
        const numbers = seen
          .filter((effect) => effect.aggregate === aggregate && effect.consumer === consumer)
          .map((effect) => effect.number);
        expect(numbers).toEqual(wanted);
      }
    }
  });
});
