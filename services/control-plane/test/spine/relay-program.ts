import { setTimeout as delay } from 'node:timers/promises';
import { createLogger, systemClock } from '@gpuaas/kernel';
import { sql } from 'kysely';
import { APPLICATION_ROLE, openDatabase } from '../../src/spine/database.js';
import type { EventSubscriber } from '../../src/spine/relay.js';
import { startRelay } from '../../src/spine/relay.js';
import { createSignals } from '../../src/spine/signals.js';

// A worker that a test kills while it delivers. Its effects can be read in the table `effects`.

const databaseUrl = process.env.TEST_DATABASE_URL ?? '';
const log = createLogger({ program: 'relay', level: 'warn' });
const signals = createSignals({ url: databaseUrl, log });
const db = openDatabase({ url: databaseUrl, role: APPLICATION_ROLE, poolSize: 8, afterCommit: signals.afterCommit });

const consumer = (name: string): EventSubscriber => ({
  name,
  eventTypes: ['test.thing.happened'],
  async handle(tx, _ctx, event) {
    // Somewhere in the middle of this a SIGKILL arrives.
    await delay(Math.random() * 5);
    await sql`
      INSERT INTO effects (consumer, aggregate, number)
      VALUES (${name}, ${event.aggregateId}, ${sql.lit(Number(Reflect.get(Object(event.payload), 'number')))})`.execute(
      tx,
    );
    await delay(Math.random() * 5);
  },
});

startRelay({
  db,
  subscribers: [consumer('left'), consumer('right')],
  signals,
  clock: systemClock,
  log,
  leaseMilliseconds: 1_000,
  pollMilliseconds: 100,
});
console.log('ready');
