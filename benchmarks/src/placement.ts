import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { freeEverything, insertNodeIdentities, insertNodes, SKU } from './fixtures/nodes.js';
import { headersOf, LAUNCH_BODY, type Person, post, signUp } from './fixtures/people.js';
import { type BenchmarkRun, runBenchmark } from './harness/benchmark.js';
import { readFlags } from './harness/flags.js';
import { findPgbench, type PgbenchResult, runPgbenches } from './harness/pgbench.js';
import { ProcessorMeter } from './harness/processor-time.js';
import { askForReport, type Program, type Report, startProgram } from './harness/programs.js';
import { atLeast, atMost, measure } from './harness/results.js';
import { type BenchmarkSite, costlyStatements, programFile, startSite } from './harness/site.js';
import { median, rounded } from './harness/statistics.js';
import { type LoadResult, startHttpLoad } from './load/http-load.js';
import type { PlacementSetup } from './programs/admissions.js';
import type { SiteSetup } from './programs/journeys.js';
import type { ReplaySetup } from './programs/replay.js';
import { ADMIT_REPORT, JOURNEY_REPORT, REPLAY_REPORT, STORM_REPORT } from './programs/reports.js';
import { pgbenchScripts } from './replay/pgbench-script.js';
import { type Plan, planOf } from './replay/plan.js';
import { recordTwice } from './replay/recorder.js';

const flags = readFlags({
  rounds: { default: 5, help: 'times that each part but the storm is measured' },
  seconds: { default: 3, help: 'length of one measurement' },
  clients: { default: 64, help: 'launches at a time, each of a person of their own' },
  nodes: { default: 10_000, help: 'hosts for launches over HTTP' },
  'many-nodes': { default: 100_000, help: 'hosts for the comparison with pgbench' },
  hosts: { default: 300, help: 'simulated hosts for the way from launch to release' },
  tries: { default: 20_000, help: 'claims tried in the storm; a million for the full proof' },
  'storm-nodes': { default: 100, help: 'hosts that the storm is about' },
  'journey-only': { default: false, help: 'only the way from launch to release' },
  'storm-only': { default: false, help: 'only the storm' },
  statements: { default: false, help: 'print what cost PostgreSQL most from launch to release' },
  profile: { default: false, help: 'keep CPU profiles of the measured programs in .data/benchmarks' },
});

const pgbench = findPgbench();
/** no SKU of the catalogue: launches never meet the hosts of the storm */
const STORM_SKU = 'storm';
/** launches a second that a site of 10,000 hosts should bear */
const ADMISSIONS_AIM = 300;
let files = 0;

await runBenchmark({
  // A part alone does not replace the result of the whole.
  name: flags['storm-only'] ? 'placement-storm' : flags['journey-only'] ? 'placement-journey' : 'placement',
  title: 'Placement of launches',
  method:
    'Launches are whole hosts, one a request, each client a person of their own; every round begins with all hosts ' +
    'free. Over HTTP the launch is POST /allocations with all of its checks, first as fast as the clients can (64 clients ' +
    'that never pause make every answer wait for 63 others), then at the rate that is aimed at. Against SQL by hand the admission runs in ' +
    `process (no HTTP), and ${pgbench ? 'pgbench' : 'a plain driver of pg (pgbench is not installed)'} runs the very ` +
    'same statements, recorded from it, with as many clients. The storm removes the constraints that would catch a ' +
    'double claim and lets two processes claim one to three of a few hosts, a tenth of the tries rolled back; claims ' +
    'that overlap in time on one host are double. From launch to release, hosts speak the node protocol over plain ' +
    'HTTP with their tokens and do at once what they are told; the control plane is one api and one worker process.',
  parameters: flags,
  deadlineSeconds: 420 + flags.rounds * (flags.seconds + 8) * 4 + flags.tries / 50,
  profile: flags.profile,
  async run(run) {
    const site = await startSite(run, { countStatements: flags.statements });
    const api = await site.startControlPlane({ roles: ['api'], profile: true });
    run.say(`${flags.clients} people`);
    const people = await signUp(api, site.database, flags.clients);

    await insertNodes(site.database, { from: 1, to: flags.hosts });
    await insertNodeIdentities(site.database, flags.hosts);
    const [first] = people;
    if (flags['storm-only'] && first) {
      await post(api, '/api/v1/allocations', { headers: headersOf(first), body: JSON.parse(LAUNCH_BODY) });
      await api.program.stop();
      await freeEverything(site.database);
      return storm(run, site, people);
    }
    await journeys(run, site, api.program, { apiUrl: api.apiUrl, hosts: flags.hosts, people });
    if (flags['journey-only']) return;

    await freeEverything(site.database);
    await insertNodes(site.database, { from: flags.hosts + 1, to: flags.nodes });
    await launchesOverHttp(run, site, api.apiUrl, people);
    await api.program.stop();

    await freeEverything(site.database);
    await insertNodes(site.database, { from: flags.nodes + 1, to: flags['many-nodes'] });
    await againstHandWritten(run, site, people);

    await storm(run, site, people);
  },
});

type Journey = Report<(typeof JOURNEY_REPORT)[number]>;

async function journeys(run: BenchmarkRun, site: BenchmarkSite, api: Program, setup: SiteSetup): Promise<void> {
  run.say('from launch to release');
  const worker = await site.startControlPlane({ roles: ['worker'], profile: true });
  const program = await started(run, 'programs/journeys.js', setup, []);
  const ask = (seconds: number) => askForReport(program, { seconds }, JOURNEY_REPORT);
  await ask(2);
  const postgres = { processId: site.postgresProcessId, family: true };
  const meter = new ProcessorMeter({ api, worker: worker.program, postgres });
  if (flags.statements) await costlyStatements(site, 1);
  meter.start();
  const rounds: Journey[] = [];
  for (let round = 0; round < flags.rounds; round += 1) rounds.push(await ask(flags.seconds));
  const completed = rounds.reduce((sum, round) => sum + round.completed, 0);
  const used = meter.each(completed);
  if (flags.statements) for (const line of await costlyStatements(site, completed)) run.say(line);
  await program.stop();
  await worker.program.stop();
  if (rounds.some(({ problems }) => problems > 0)) throw new Error('hosts had problems');
  const { rows } = await site.database.query<{ status: string; was_active: boolean; count: string }>(
    'SELECT status, active_at IS NOT NULL AS was_active, count(*) AS count FROM allocations GROUP BY 1, 2',
  );
  if (rows.some((row) => row.status !== 'released' || !row.was_active)) {
    throw new Error(`allocations did not come all the way: ${JSON.stringify(rows)}`);
  }
  const middle = (pick: (round: Journey) => number) => rounded(median(rounds.map(pick)));
  run.add(
    measure(
      'launch → active → released',
      'per second',
      rounds.map(({ completed, seconds }) => completed / seconds),
      atLeast(100),
      {
        'to active p50 ms': middle(({ activeP50 }) => activeP50),
        'to active p99 ms': middle(({ activeP99 }) => activeP99),
        'to released p50 ms': middle(({ releasedP50 }) => releasedP50),
        'to released p99 ms': middle(({ releasedP99 }) => releasedP99),
        'CPU ms of the API': rounded(used.api ?? 0),
        'CPU ms of the worker': rounded(used.worker ?? 0),
        'CPU ms of PostgreSQL': rounded(used.postgres ?? 0),
        hosts: setup.hosts,
        tenants: setup.people.length,
      },
    ),
  );
}

async function launchesOverHttp(run: BenchmarkRun, site: BenchmarkSite, apiUrl: string, people: readonly Person[]) {
  run.say(`launches over HTTP, ${flags.nodes} hosts`);
  const load = await startHttpLoad(run);
  const once = (seconds: number, perSecond?: number) =>
    load.send({
      url: `${apiUrl}/api/v1/allocations`,
      method: 'POST',
      headers: people.map(headersOf),
      body: LAUNCH_BODY,
      connections: flags.clients,
      seconds,
      ...(perSecond !== undefined && { perSecond }),
    });
  await once(2);
  const rounds: { full: LoadResult; paced: LoadResult }[] = [];
  for (let round = 0; round < flags.rounds; round += 1) {
    await freeEverything(site.database);
    const full = await once(flags.seconds);
    await freeEverything(site.database);
    rounds.push({ full, paced: await once(flags.seconds, ADMISSIONS_AIM) });
  }
  const middle = (pick: (round: { full: LoadResult; paced: LoadResult }) => number) =>
    rounded(median(rounds.map(pick)));
  const title = `over HTTP, ${flags.nodes} hosts, ${flags.clients} clients`;
  run.add(
    measure(
      `admissions ${title}`,
      'per second',
      rounds.map(({ full }) => full.requestsPerSecond),
      atLeast(ADMISSIONS_AIM),
      { 'p50 ms': middle(({ full }) => full.p50), 'p99 ms': middle(({ full }) => full.p99) },
    ),
  );
  run.add(
    measure(
      `p99 of admissions ${title}, asked for ${ADMISSIONS_AIM} a second`,
      'ms',
      rounds.map(({ paced }) => paced.p99),
      atMost(100),
      {
        'p50 ms': middle(({ paced }) => paced.p50),
        'answered a second': middle(({ paced }) => paced.requestsPerSecond),
      },
    ),
  );
}

type Admissions = Report<(typeof ADMIT_REPORT)[number]>;

async function againstHandWritten(run: BenchmarkRun, site: BenchmarkSite, people: readonly Person[]): Promise<void> {
  run.say(`admissions in process against ${pgbench ?? 'a plain driver'}, ${flags['many-nodes']} hosts`);
  const setup = placementSetup(site, people, SKU, null);
  const plans = await recordAdmissions(run, setup);
  await freeEverything(site.database);
  const ours = await started(run, 'programs/admissions.js', setup, []);
  const theirs = await handWritten(run, site, plans);
  await askForReport(ours, { admit: 1.5 }, ADMIT_REPORT);
  await theirs(1.5);

  const postgres = { processId: site.postgresProcessId, family: true };
  const meters = {
    ours: new ProcessorMeter({ program: ours, postgres }),
    theirs: new ProcessorMeter({ postgres }),
  };
  const rounds: {
    ours: Admissions;
    theirs: PgbenchResult;
    cpu: Record<'program' | 'forOurs' | 'forTheirs', number>;
  }[] = [];
  for (let round = 0; round < flags.rounds; round += 1) {
    await freeEverything(site.database);
    meters.ours.start();
    const first = await askForReport(ours, { admit: flags.seconds }, ADMIT_REPORT);
    const { program = 0, postgres: forOurs = 0 } = meters.ours.each(first.admitted);
    await freeEverything(site.database);
    meters.theirs.start();
    const second = await theirs(flags.seconds);
    const { postgres: forTheirs = 0 } = meters.theirs.each(second.transactions);
    rounds.push({ ours: first, theirs: second, cpu: { program, forOurs, forTheirs } });
  }
  await ours.stop();
  const rate = ({ admitted, seconds }: Admissions) => admitted / seconds;
  const middle = (pick: (round: (typeof rounds)[number]) => number) => rounded(median(rounds.map(pick)));
  run.add(
    measure(
      `admissions, ${flags['many-nodes']} hosts: share of the rate of the same transaction by ${pgbench ? 'pgbench' : 'plain pg'}`,
      '',
      rounds.map((round) => rate(round.ours) / round.theirs.transactionsPerSecond),
      atLeast(0.7),
      {
        'ours/s': middle((round) => rate(round.ours)),
        'by hand/s': middle((round) => round.theirs.transactionsPerSecond),
        'ours p50 ms': middle((round) => round.ours.p50),
        'ours p99 ms': middle((round) => round.ours.p99),
        'by hand average ms': middle((round) => round.theirs.averageMilliseconds),
        'ours CPU ms': middle(({ cpu }) => cpu.program),
        'PostgreSQL CPU ms for ours': middle(({ cpu }) => cpu.forOurs),
        'PostgreSQL CPU ms by hand': middle(({ cpu }) => cpu.forTheirs),
        statements: plans[0]?.statements.length ?? 0,
      },
    ),
  );
}

/** The statements of one admission of each person, taken from the program that runs them. */
async function recordAdmissions(run: BenchmarkRun, setup: PlacementSetup): Promise<Plan[]> {
  const hook = new URL('./replay/recording-hook.js', import.meta.url).href;
  const program = await started(run, 'programs/admissions.js', setup, [hook]);
  const plans: Plan[] = [];
  for (const person of setup.people.keys()) {
    const [first, second] = await recordTwice(program, async () => {
      await askForReport(program, { admitOnce: person }, []);
      return { status: 200, body: '' };
    });
    plans.push(planOf(first, second));
  }
  await program.stop();
  return plans;
}

/** Runs the plans by pgbench, client n following plan n; without pgbench by plain `pg` in a process of its own. */
async function handWritten(
  run: BenchmarkRun,
  site: BenchmarkSite,
  plans: readonly Plan[],
): Promise<(seconds: number) => Promise<PgbenchResult>> {
  if (pgbench === null) {
    const setup: ReplaySetup = { databaseUrl: site.databaseUrl, plans };
    const program = await started(run, 'programs/replay.js', setup, []);
    return (seconds) => askForReport(program, { seconds }, REPLAY_REPORT);
  }
  const scripts = await Promise.all(
    pgbenchScripts(plans).map(async ({ text, clients }, index) => {
      const file = path.join(run.directory, `admissions-${index}.sql`);
      await writeFile(file, text);
      return { file, clients };
    }),
  );
  const connectionOptions = plans[0]?.statements[0]?.pool ?? '';
  return (seconds) =>
    runPgbenches({ program: pgbench, databaseUrl: site.databaseUrl, connectionOptions, seconds }, scripts);
}

async function storm(run: BenchmarkRun, site: BenchmarkSite, people: readonly Person[]): Promise<void> {
  run.say(`storm of ${flags.tries} tries`);
  const { database } = site;
  const from = flags['many-nodes'] + 1;
  await insertNodes(database, { from, to: from + flags['storm-nodes'] - 1, sku: STORM_SKU });
  await database.query('TRUNCATE placement_claims');
  // What would turn a double claim into an error, so that it cannot hide in a retry.
  await database.query('DROP INDEX placement_claims_one_exclusive');
  await database.query('ALTER TABLE placement_claims DROP CONSTRAINT placement_claims_one_kind_a_node');
  // Nothing is learned about locks from waiting for the disk.
  await database.query('ALTER DATABASE gpuaas SET synchronous_commit = off');
  const { rows } = await database.query<{ id: string }>('SELECT id FROM allocations LIMIT 1');
  const processes = 2;
  const setup: PlacementSetup = {
    ...placementSetup(site, people, STORM_SKU, rows[0]?.id ?? null),
    clients: Math.ceil(flags.clients / processes),
  };
  const programs = await Promise.all(
    Array.from({ length: processes }, () => started(run, 'programs/admissions.js', setup, [])),
  );
  const begun = performance.now();
  const reports = await Promise.all(
    programs.map((program) => askForReport(program, { storm: Math.ceil(flags.tries / processes) }, STORM_REPORT)),
  );
  const seconds = (performance.now() - begun) / 1000;
  await Promise.all(programs.map((program) => program.stop()));
  const sum = (pick: (report: Report<(typeof STORM_REPORT)[number]>) => number) =>
    reports.reduce((total, report) => total + pick(report), 0);

  const overlaps = await database.query<{ count: number }>(`
    SELECT count(*)::int AS count
    FROM (SELECT created_at, lag(coalesce(released_at, 'infinity')) OVER (PARTITION BY node_id ORDER BY created_at) AS freed
          FROM placement_claims) AS claim
    WHERE freed > created_at`);
  const leftOpen = await database.query<{ count: number }>(
    'SELECT count(*)::int AS count FROM nodes WHERE sku = $1 AND open_claims <> 0',
    [STORM_SKU],
  );
  const written = await database.query<{ count: number }>('SELECT count(*)::int AS count FROM placement_claims');
  const claimed = sum(({ hosts }) => hosts);
  if (written.rows[0]?.count !== claimed) throw new Error(`${written.rows[0]?.count} claims of ${claimed} were kept`);
  if (leftOpen.rows[0]?.count !== 0) {
    const open = await database.query('SELECT FROM placement_claims WHERE released_at IS NULL');
    throw new Error(
      `${leftOpen.rows[0]?.count} hosts still count as taken; ${open.rowCount} claims are open; ` +
        `PostgreSQL ended ${sum(({ failed }) => failed)} tries`,
    );
  }
  run.add(
    measure('double claims in the storm', '', [overlaps.rows[0]?.count ?? Number.NaN], atMost(0), {
      tries: sum(({ tries }) => tries),
      'tries/s': rounded(sum(({ tries }) => tries) / seconds),
      'hosts claimed': claimed,
      placed: sum(({ placed }) => placed),
      'no room': sum(({ short }) => short),
      'rolled back on purpose': sum(({ rolledBack }) => rolledBack),
      'failed after retries': sum(({ failed }) => failed),
      hosts: flags['storm-nodes'],
    }),
  );
}

function placementSetup(
  site: BenchmarkSite,
  people: readonly Person[],
  sku: string,
  allocationId: string | null,
): PlacementSetup {
  const { databaseUrl, masterKey } = site;
  return { databaseUrl, masterKey, clients: flags.clients, sku, people, allocationId };
}

async function started(run: BenchmarkRun, script: string, setup: unknown, preload: string[]): Promise<Program> {
  files += 1;
  const file = path.join(run.directory, `setup-${files}.json`);
  await writeFile(file, JSON.stringify(setup));
  const profileDirectory = preload.length === 0 ? run.profileDirectory : null;
  const program = startProgram({ script: programFile(script), arguments: [file], preload, profileDirectory });
  run.cleanUp(() => program.stop());
  await program.ready;
  return program;
}
