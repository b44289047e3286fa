import { createLogger, systemClock } from '@gpuaas/kernel';
import { sql } from 'kysely';
import { APPLICATION_ROLE, openDatabase } from '../../src/spine/database.js';
import { startRelay } from '../../src/spine/relay.js';
import { createSignals } from '../../src/spine/signals.js';
import { startWorkflowEngine } from '../../src/spine/workflow-engine.js';
import type { WorkflowRegistration } from '../../src/spine/workflows.js';

// A worker that a test kills. What its workflow does can be read in the table `effects`.

const databaseUrl = process.env.TEST_DATABASE_URL ?? '';
const executorId = process.env.TEST_EXECUTOR ?? '';
const log = createLogger({ program: executorId, level: 'warn' });
const db = openDatabase({ url: databaseUrl, role: APPLICATION_ROLE, poolSize: 10 });

const STEPS = 6;

/** Six steps, each of which may be repeated, but counts once; in the middle it waits for a message. */
const counting: WorkflowRegistration = {
  name: 'test.counting',
  async run({ id }, steps) {
    for (let number = 1; number <= STEPS; number += 1) {
      await steps.step(`count-${number}`, async () => {
        await sql`INSERT INTO tries (workflow, number, executor) VALUES (${id}, ${number}, ${executorId})`.execute(db);
        await sql`INSERT INTO effects (workflow, number) VALUES (${id}, ${number}) ON CONFLICT DO NOTHING`.execute(db);
      });
      if (number === STEPS / 2) {
        const message = await steps.receive('go', { timeoutSeconds: 120 });
        if (message === null) return 'timed_out';
      }
    }
    return 'completed';
  },
};

const signals = createSignals({ url: databaseUrl, log });
const engine = await startWorkflowEngine({
  databaseUrl,
  registrations: [counting],
  executorId,
  applicationVersion: 'test',
  log,
});
startRelay({ db, subscribers: engine.subscribers, signals, clock: systemClock, log, pollMilliseconds: 50 });
console.log('ready');
