import { readFileSync } from 'node:fs';
import { connectionConfig } from '@gpuaas/control-plane/spine/database';
import pg from 'pg';
import { announceReady, type Report, serveReports } from '../harness/programs.js';
import type { Plan } from '../replay/plan.js';
import { replay } from '../replay/replayer.js';
import type { REPLAY_REPORT } from './reports.js';

/** What the program is told by its only argument, a file of JSON. */
export interface ReplaySetup {
  readonly databaseUrl: string;
  /** client n follows plan n */
  readonly plans: readonly Plan[];
}

/** Stands in for pgbench where it is not installed: plain `pg`, one connection a client. */
const setup: ReplaySetup = JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8'));
const options = setup.plans[0]?.statements[0]?.pool;
const pool = new pg.Pool({
  ...connectionConfig({ url: setup.databaseUrl, poolSize: setup.plans.length }),
  ...(options !== undefined && { options }),
});

async function run(seconds: number): Promise<Report<(typeof REPLAY_REPORT)[number]>> {
  const started = performance.now();
  const end = started + seconds * 1000;
  let transactions = 0;
  await Promise.all(
    setup.plans.map(async (plan) => {
      while (performance.now() < end) {
        await replay(plan, () => pool);
        transactions += 1;
      }
    }),
  );
  const took = performance.now() - started;
  return {
    transactions,
    transactionsPerSecond: transactions / (took / 1000),
    averageMilliseconds: (took * setup.plans.length) / transactions,
  };
}

serveReports((request) => ('seconds' in request ? run(Number(request.seconds)) : undefined));
announceReady(true);
