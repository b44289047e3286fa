import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { insertNodeIdentities, insertNodes } from './fixtures/nodes.js';
import { type BenchmarkRun, runBenchmark } from './harness/benchmark.js';
import { readFlags } from './harness/flags.js';
import { type Program, startProgram } from './harness/programs.js';
import { atMost, measure } from './harness/results.js';
import { type BenchmarkSite, programFile, startSite } from './harness/site.js';
import { median, rounded } from './harness/statistics.js';
import { Dispatch } from './load/dispatch.js';
import type { TaskGiverSetup } from './programs/task-giver.js';

const flags = readFlags({
  hosts: { default: 10_000, help: 'hosts that hold a poll, all on one process' },
  rounds: { default: 5, help: 'times that the dispatch is measured' },
  seconds: { default: 4, help: 'length of one measurement' },
  rate: { default: 100, help: 'tasks given a second' },
  profile: { default: false, help: 'keep a CPU profile of the API process in .data/benchmarks' },
});

/** What a process needs beside the connections of hosts: database connections, files, listeners. */
const SPARE_FILES = 500;
const tasksInRound = Math.round(flags.rate * flags.seconds);
const WARM_UP_TASKS = Math.min(50, flags.hosts);
const HOST_PROGRAMS = 2;
const ALL_HOLD_TIMEOUT_SECONDS = 120;

await runBenchmark({
  name: 'agents',
  title: 'Held polls of hosts',
  method:
    'One API process holds a poll of every host over plain HTTP with the token of its certificate (development mode; ' +
    'TLS would add the memory of its sessions). Hosts live in two other processes, poll again as soon as they are ' +
    'answered and report every result. Another process queues health probes for random hosts through the fleet in ' +
    'transactions of its own; dispatch is the time from the start of that transaction to the arrival at the host.',
  parameters: flags,
  deadlineSeconds: 240 + flags.rounds * (flags.seconds + 30),
  profile: flags.profile,
  async run(run) {
    const site = await startSite(run);
    await insertNodes(site.database, { from: 1, to: flags.hosts });
    await insertNodeIdentities(site.database, flags.hosts);
    await site.database.query(`UPDATE node_heartbeats SET last_seen_at = now() - interval '1 hour'`);
    // A host that had a task keeps a second connection, over which it reported.
    const openFiles = flags.hosts + WARM_UP_TASKS + flags.rounds * tasksInRound + SPARE_FILES;
    const api = await site.startControlPlane({ roles: ['api'], profile: true, openFiles });
    await delay(1000);
    const before = await memoryOf(api.program);

    run.say(`${flags.hosts} hosts begin to poll`);
    const started = performance.now();
    const hosts = await startHosts(run, api.apiUrl);
    await untilAllPolled(site);
    const rampSeconds = (performance.now() - started) / 1000;
    await delay(2000);
    const idle = await watchConnections(site, 3);
    const after = await memoryOf(api.program);

    const file = path.join(run.directory, 'task-giver.json');
    const setup: TaskGiverSetup = { databaseUrl: site.databaseUrl, masterKey: site.masterKey };
    await writeFile(file, JSON.stringify(setup));
    const giver = startProgram({ script: programFile('programs/task-giver.js'), arguments: [file] });
    run.cleanUp(() => giver.stop());
    await giver.ready;

    run.say('tasks');
    const dispatch = new Dispatch(hosts, giver);
    const order = shuffled(Array.from({ length: flags.hosts }, (_, index) => index + 1));
    await dispatch.measure(order.slice(0, WARM_UP_TASKS), flags.rate);
    const rounds = [];
    for (let round = 0; round < flags.rounds; round += 1) {
      const nodes = Array.from(
        { length: tasksInRound },
        (_, index) => order[(WARM_UP_TASKS + round * tasksInRound + index) % order.length] ?? 1,
      );
      rounds.push(await dispatch.measure([...new Set(nodes)], flags.rate));
    }
    const busy = await watchConnections(site, 1);
    const loaded = await memoryOf(api.program);

    run.add(
      measure(
        `dispatch of a task with ${flags.hosts} held polls: p99`,
        'ms',
        rounds.map(({ fromBegin }) => fromBegin.p99),
        atMost(100),
        {
          'p50 ms': rounded(median(rounds.map(({ fromBegin }) => fromBegin.p50))),
          'p50 from commit ms': rounded(median(rounds.map(({ fromCommit }) => fromCommit.p50))),
          'p99 from commit ms': rounded(median(rounds.map(({ fromCommit }) => fromCommit.p99))),
          'largest ms': rounded(Math.max(...rounds.map(({ fromBegin }) => fromBegin.maximum))),
          'tasks a second': flags.rate,
          tasks: rounds.reduce((sum, { fromBegin }) => sum + fromBegin.count, 0),
        },
      ),
    );
    run.add(
      measure('memory of the API process for one held poll', 'KiB', [(after - before) / 1024 / flags.hosts], null, {
        'resident before MiB': rounded(before / 2 ** 20),
        'resident with all polls MiB': rounded(after / 2 ** 20),
        'resident after the tasks MiB': rounded(loaded / 2 ** 20),
        'all polled within s': rounded(rampSeconds),
      }),
    );
    run.add(
      measure('database connections of the API process while all polls wait', '', [idle.open], null, {
        'of them busy, on average': rounded(idle.busy),
        'in a transaction and idle': rounded(idle.idleInTransaction),
        'busy under tasks': rounded(busy.busy),
        'polls for one connection': rounded(flags.hosts / Math.max(1, idle.open)),
      }),
    );
  },
});

async function startHosts(run: BenchmarkRun, apiUrl: string): Promise<Program[]> {
  const each = Math.ceil(flags.hosts / HOST_PROGRAMS);
  const programs = Array.from({ length: HOST_PROGRAMS }, (_, index) => {
    const first = index * each + 1;
    const count = Math.min(each, flags.hosts - first + 1);
    return startProgram({
      script: programFile('programs/poll-hosts.js'),
      arguments: [apiUrl, String(first), String(count)],
      openFiles: 2 * each + SPARE_FILES,
    });
  });
  for (const program of programs) run.cleanUp(() => program.stop());
  await Promise.all(programs.map((program) => program.ready));
  return programs;
}

/** A poll is held once it is recorded: the heartbeats that it began with were an hour old. */
async function untilAllPolled(site: BenchmarkSite): Promise<void> {
  const deadline = performance.now() + ALL_HOLD_TIMEOUT_SECONDS * 1000;
  for (;;) {
    const { rows } = await site.database.query<{ count: number }>(
      `SELECT count(*)::int AS count FROM node_heartbeats WHERE last_seen_at > now() - interval '5 minutes'`,
    );
    const count = rows[0]?.count ?? 0;
    if (count >= flags.hosts) return;
    if (performance.now() > deadline) throw new Error(`only ${count} hosts have polled`);
    await delay(250);
  }
}

/** Averages over `seconds` of what the connections of the application do. */
async function watchConnections(site: BenchmarkSite, seconds: number) {
  const samples: { open: number; busy: number; idle_in_transaction: number }[] = [];
  const end = performance.now() + seconds * 1000;
  while (performance.now() < end) {
    const { rows } = await site.database.query<{ open: number; busy: number; idle_in_transaction: number }>(`
      SELECT count(*)::int AS open, count(*) FILTER (WHERE state = 'active')::int AS busy,
             count(*) FILTER (WHERE state LIKE 'idle in transaction%')::int AS idle_in_transaction
      FROM pg_stat_activity
      WHERE datname = current_database() AND backend_type = 'client backend' AND application_name <> 'benchmark'`);
    samples.push(...rows);
    await delay(100);
  }
  const mean = (pick: (sample: (typeof samples)[number]) => number) =>
    samples.reduce((sum, sample) => sum + pick(sample), 0) / samples.length;
  return {
    open: Math.max(...samples.map(({ open }) => open)),
    busy: mean(({ busy }) => busy),
    idleInTransaction: mean((sample) => sample.idle_in_transaction),
  };
}

/** Resident memory in bytes. */
async function memoryOf(program: Program): Promise<number> {
  const status = await readFile(`/proc/${program.processId}/status`, 'utf8');
  const kibibytes = /^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1];
  if (kibibytes === undefined) throw new Error('the memory of a process cannot be read');
  return Number(kibibytes) * 1024;
}

function shuffled<T>(values: readonly T[]): T[] {
  return values
    .map((value) => ({ value, place: Math.random() }))
    .sort((left, right) => left.place - right.place)
    .map(({ value }) => value);
}
