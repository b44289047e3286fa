import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { headersOf, LAUNCH_BODY, type Person, textAt } from '../fixtures/people.js';
import { announceReady, type Report, serveReports } from '../harness/programs.js';
import { quantile } from '../harness/statistics.js';
import { LeanHost, type ReceivedTask } from '../load/hosts.js';
import { HttpConnection } from '../load/http-connection.js';
import type { JOURNEY_REPORT } from './reports.js';

/** What the program is told by its only argument, a file of JSON. */
export interface SiteSetup {
  readonly apiUrl: string;
  readonly hosts: number;
  readonly people: readonly Person[];
}

/**
 * Hosts that do at once what they are told, and tenants who launch one host, release it when it is active, and begin
 * again when it is released. All of it over HTTP; hosts hold their polls the whole time.
 */
const setup: SiteSetup = JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8'));
let problems = 0;
const problem = (text: string): void => {
  problems += 1;
  if (problems <= 5) process.stderr.write(`a host: ${text.slice(0, 500)}\n`);
};

/** What hosts have reported and the control plane has taken, by allocation and type; told to whoever waits for it. */
const reports = new Map<string, { readonly promise: Promise<void>; readonly resolve: () => void }>();

function reportOf(allocationId: string, type: string) {
  const key = `${allocationId} ${type}`;
  const known = reports.get(key);
  if (known) return known;
  let resolve = (): void => undefined;
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  const report = { promise, resolve };
  reports.set(key, report);
  return report;
}

const KEYS = { count: 1, sha256: createHash('sha256').update('').digest('hex') };

function work(task: ReceivedTask): Record<string, unknown> {
  if (task.type === 'allocation.provision_user') {
    return { host: '127.0.0.1', port: 22, authorized_keys: { ...KEYS, version: task.params.key_set_version } };
  }
  return { clean: true, leftovers: [] };
}

const hosts = Array.from(
  { length: setup.hosts },
  (_, index) =>
    new LeanHost({
      url: setup.apiUrl,
      number: index + 1,
      work,
      reported: (task) => reportOf(String(task.params.allocation_id), task.type).resolve(),
      problem,
    }),
);

const connections = new Map(setup.people.map((person) => [person.userId, new HttpConnection(setup.apiUrl)]));

async function journey(person: Person): Promise<{ active: number; released: number }> {
  const connection = connections.get(person.userId);
  if (connection === undefined) throw new Error('a person without a connection');
  const started = performance.now();
  const created = await connection.request('POST', '/api/v1/allocations', headersOf(person), LAUNCH_BODY);
  if (created.status !== 201) throw new Error(`a launch was answered ${created.status}: ${created.body.slice(0, 300)}`);
  const id = textAt(JSON.parse(created.body), 'allocation', 'id');
  const provisioned = 'allocation.provision_user';
  await reportOf(id, provisioned).promise;
  const active = performance.now() - started;
  const released = await connection.request('POST', `/api/v1/allocations/${id}/release`, headersOf(person), '{}');
  if (released.status !== 202)
    throw new Error(`a release was answered ${released.status}: ${released.body.slice(0, 300)}`);
  const deprovisioned = 'allocation.deprovision_user';
  await reportOf(id, deprovisioned).promise;
  for (const type of [provisioned, deprovisioned]) reports.delete(`${id} ${type}`);
  return { active, released: performance.now() - started };
}

async function run(seconds: number): Promise<Report<(typeof JOURNEY_REPORT)[number]>> {
  const started = performance.now();
  const end = started + seconds * 1000;
  const active: number[] = [];
  const released: number[] = [];
  await Promise.all(
    setup.people.map(async (person) => {
      while (performance.now() < end) {
        const times = await journey(person);
        active.push(times.active);
        released.push(times.released);
      }
    }),
  );
  return {
    completed: released.length,
    seconds: (performance.now() - started) / 1000,
    activeP50: quantile(active, 0.5),
    activeP99: quantile(active, 0.99),
    releasedP50: quantile(released, 0.5),
    releasedP99: quantile(released, 0.99),
    problems,
  };
}

serveReports((request) => ('seconds' in request ? run(Number(request.seconds)) : undefined));
for (const host of hosts) host.start();
announceReady(true);
