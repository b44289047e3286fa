import { readFileSync } from 'node:fs';
import type { AdmissionIntent } from '@gpuaas/control-plane/domains/compute/index';
import { jobContext } from '@gpuaas/control-plane/spine/periodic-jobs';
import { inTransaction, sqlState } from '@gpuaas/control-plane/spine/transaction';
import { asId, newId } from '@gpuaas/kernel';
import { sql } from 'kysely';
import type { Person } from '../fixtures/people.js';
import { announceReady, type Report, serveReports } from '../harness/programs.js';
import { quantile } from '../harness/statistics.js';
import { openDomains } from './control-plane-parts.js';
import type { ADMIT_REPORT, STORM_REPORT } from './reports.js';

/** What the program is told by its only argument, a file of JSON. */
export interface PlacementSetup {
  readonly databaseUrl: string;
  readonly masterKey: string;
  readonly clients: number;
  readonly sku: string;
  readonly people: readonly Person[];
  /** an allocation that claims may point at; for the storm */
  readonly allocationId: string | null;
}

const setup: PlacementSetup = JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8'));
const { db, domains, clock, log } = await openDomains({ ...setup, poolSize: setup.clients });

function intentOf(person: Person): AdmissionIntent {
  return {
    projectId: asId(person.projectId),
    userId: asId(person.userId),
    serviceAccountId: null,
    sku: setup.sku,
    resourceClass: null,
    shape: 'baremetal',
    gpuCount: null,
    count: 1,
    atLeast: 1,
    nodeId: null,
    regionCode: null,
    osImageSlug: null,
    sshKeyIds: null,
    runtimeBundle: null,
    schedulerType: 'bare_metal',
    schedulerRequest: {},
    name: null,
  };
}

async function admitOnce(person: Person): Promise<void> {
  await inTransaction(db, (tx) => domains.compute.admit(tx, jobContext('benchmark', { clock, log }), intentOf(person)));
}

async function admit(seconds: number): Promise<Report<(typeof ADMIT_REPORT)[number]>> {
  const started = performance.now();
  const end = started + seconds * 1000;
  const latencies: number[] = [];
  await Promise.all(
    setup.people.slice(0, setup.clients).map(async (person) => {
      for (let at = performance.now(); at < end; at = performance.now()) {
        await admitOnce(person);
        latencies.push(performance.now() - at);
      }
    }),
  );
  return {
    admitted: latencies.length,
    seconds: (performance.now() - started) / 1000,
    p50: quantile(latencies, 0.5),
    p99: quantile(latencies, 0.99),
  };
}

class RolledBackOnPurpose extends Error {}

/** The algorithm of placement and the claim alone, as hard as the clients can. One try in ten is rolled back. */
async function storm(tries: number): Promise<Report<(typeof STORM_REPORT)[number]>> {
  const { allocationId } = setup;
  if (allocationId === null) throw new Error('a storm needs an allocation to claim for');
  const report = { tries: 0, placed: 0, short: 0, rolledBack: 0, failed: 0, hosts: 0 };
  let left = tries;

  const tryOnce = async (): Promise<void> => {
    const wanted = 1 + Math.floor(Math.random() * 3);
    const giveUp = Math.random() < 0.1;
    try {
      const claims = await inTransaction(db, async (tx) => {
        const wish = { sku: setup.sku, regionCode: null, nodeId: null, count: wanted, now: clock.now() };
        const hosts = await domains.fleet.lockFreeNodes(tx, wish);
        const ids = hosts.map(() => newId());
        if (hosts.length > 0) {
          await sql`
            INSERT INTO placement_claims (id, allocation_id, node_id, kind, status, created_at)
            SELECT id, ${allocationId}, node_id, 'node_exclusive', 'active', clock_timestamp()
            FROM unnest(${ids}::uuid[], ${hosts.map(({ nodeId }) => nodeId)}::uuid[]) AS claim (id, node_id)`.execute(
            tx,
          );
        }
        if (giveUp) throw new RolledBackOnPurpose();
        return ids;
      });
      if (claims.length === wanted) report.placed += 1;
      else report.short += 1;
      report.hosts += claims.length;
      // One host at a time, as releases are: several in one statement would be locked in no particular order.
      for (const claim of claims) {
        await sql`
          UPDATE placement_claims SET status = 'released', released_at = clock_timestamp() WHERE id = ${claim}`.execute(
          db,
        );
      }
    } catch (error) {
      if (error instanceof RolledBackOnPurpose) report.rolledBack += 1;
      else if (sqlState(error) === undefined) throw error;
      else {
        report.failed += 1;
        if (report.failed <= 3) process.stderr.write(`a try was ended: ${String(error)}\n`);
      }
    }
  };

  await Promise.all(
    Array.from({ length: setup.clients }, async () => {
      while (left > 0) {
        left -= 1;
        report.tries += 1;
        await tryOnce();
      }
    }),
  );
  return report;
}

/** Both kinds of work, and `{ admitOnce: n }`: one launch of person n, to be recorded. */
serveReports((request) => {
  if ('admit' in request) return admit(Number(request.admit));
  if ('storm' in request) return storm(Number(request.storm));
  const person = 'admitOnce' in request ? setup.people[Number(request.admitOnce)] : undefined;
  return person && admitOnce(person).then(() => ({}));
});
announceReady(true);
