import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { freeEverything, insertNodes } from './fixtures/nodes.js';
import { headersOf, LAUNCH_BODY, type Person, post, signUp } from './fixtures/people.js';
import { type BenchmarkRun, runBenchmark } from './harness/benchmark.js';
import { readFlags } from './harness/flags.js';
import { ProcessorMeter } from './harness/processor-time.js';
import { startProgram } from './harness/programs.js';
import { atLeast, measure } from './harness/results.js';
import { type BenchmarkSite, type ControlPlaneProcess, POOL_SIZE, programFile, startSite } from './harness/site.js';
import { median, rounded } from './harness/statistics.js';
import { type HttpLoad, type LoadResult, startHttpLoad } from './load/http-load.js';
import type { BareRoutes } from './programs/bare-route.js';
import { type Plan, planOf } from './replay/plan.js';
import { recordTwice, requested } from './replay/recorder.js';

const flags = readFlags({
  rounds: { default: 5, help: 'times that each route is measured, ours and bare in turn' },
  seconds: { default: 3, help: 'length of one measurement' },
  connections: { default: 50, help: 'clients at a time, each a person of their own' },
  nodes: { default: 12_000, help: 'free hosts at the start of a round' },
  'show-sql': { default: false, help: 'print the statements of each route' },
  profile: { default: false, help: 'keep CPU profiles of both programs in .data/benchmarks' },
});

interface Route {
  readonly name: string;
  readonly title: string;
  readonly method: 'GET' | 'POST';
  readonly path: string;
  readonly body?: string;
  /** share of the bare route's rate that we aim at */
  readonly aim: number;
}

const ROUTES: readonly Route[] = [
  {
    name: 'list-allocations',
    title: 'GET /allocations, 50 rows',
    method: 'GET',
    path: '/api/v1/allocations',
    aim: 0.6,
  },
  { name: 'me', title: 'GET /users/me', method: 'GET', path: '/api/v1/users/me', aim: 0.5 },
  {
    name: 'create-allocation',
    title: 'POST /allocations',
    method: 'POST',
    path: '/api/v1/allocations',
    body: LAUNCH_BODY,
    aim: 0.5,
  },
];

const ROWS_IN_LIST = 50;

await runBenchmark({
  name: 'api',
  title: 'HTTP API against a bare route with the same SQL',
  method:
    'Each route runs in a control plane that validates every request and every answer against the contract, and in a ' +
    'bare Fastify server that only replays the SQL of the route (recorded from it, statement by statement, with its ' +
    'transactions and its flow of data) on pools of the same size and answers the same JSON. Both have a process of ' +
    'their own, the clients have a third. Rounds alternate; every answer has to be a success.',
  parameters: { ...flags, pool: POOL_SIZE },
  deadlineSeconds: 240 + flags.rounds * (flags.seconds + 6) * ROUTES.length * 2,
  profile: flags.profile,
  async run(run) {
    const site = await startSite(run);
    await insertNodes(site.database, { from: 1, to: flags.nodes });
    const { people, plans } = await prepare(run, site);
    const ours = await site.startControlPlane({ roles: ['api'], profile: true });
    const bare = await startBareRoutes(run, site, plans);
    const postgres = { processId: site.postgresProcessId, family: true };
    const meters = {
      ours: new ProcessorMeter({ program: ours.program, postgres }),
      bare: new ProcessorMeter({ program: bare.program, postgres }),
    };
    const load = await startHttpLoad(run);

    for (const route of ROUTES) {
      run.say(route.title);
      const oursLoad = { url: `${ours.apiUrl}${route.path}`, headers: people.map(headersOf) };
      const bareLoad = { url: `${bare.url}/${route.name}`, headers: people.map((_, n) => ({ 'x-caller': String(n) })) };
      // Both reach the speed that they keep: code compiled, pools open, pages in memory.
      for (const target of [oursLoad, bareLoad]) await once(load, route, target, 1.5, meters.ours);
      const rounds: Round[] = [];
      for (let round = 0; round < flags.rounds; round += 1) {
        if (route.method === 'POST') await freeEverything(site.database);
        const first = await once(load, route, oursLoad, flags.seconds, meters.ours);
        if (route.method === 'POST') await freeEverything(site.database);
        rounds.push({ ours: first, bare: await once(load, route, bareLoad, flags.seconds, meters.bare) });
      }
      const middle = (pick: (round: Round) => number) => rounded(median(rounds.map(pick)));
      run.add(
        measure(
          `${route.title}: share of the bare route's rate`,
          '',
          rounds.map(({ ours: we, bare: they }) => we.requestsPerSecond / they.requestsPerSecond),
          atLeast(route.aim),
          {
            'ours/s': middle(({ ours: we }) => we.requestsPerSecond),
            'bare/s': middle(({ bare: they }) => they.requestsPerSecond),
            'ours p50 ms': middle(({ ours: we }) => we.p50),
            'ours p99 ms': middle(({ ours: we }) => we.p99),
            'bare p50 ms': middle(({ bare: they }) => they.p50),
            'bare p99 ms': middle(({ bare: they }) => they.p99),
            'ours CPU ms': middle(({ ours: we }) => we.programMilliseconds),
            'bare CPU ms': middle(({ bare: they }) => they.programMilliseconds),
            'PostgreSQL CPU ms for ours': middle(({ ours: we }) => we.postgresMilliseconds),
            'PostgreSQL CPU ms for bare': middle(({ bare: they }) => they.postgresMilliseconds),
            statements: plans[route.name]?.[0]?.statements.length ?? 0,
            'answer bytes': plans[route.name]?.[0]?.body.length ?? 0,
          },
        ),
      );
    }
  },
});

type Measured = LoadResult & {
  /** processor time for one request */
  readonly programMilliseconds: number;
  readonly postgresMilliseconds: number;
};

interface Round {
  readonly ours: Measured;
  readonly bare: Measured;
}

async function once(
  load: HttpLoad,
  route: Route,
  target: { readonly url: string; readonly headers: readonly Record<string, string>[] },
  seconds: number,
  meter: ProcessorMeter<'program' | 'postgres'>,
): Promise<Measured> {
  meter.start();
  const result = await load.send({
    ...target,
    method: route.method,
    ...(route.body !== undefined && { body: route.body }),
    connections: flags.connections,
    seconds,
  });
  const { program = 0, postgres = 0 } = meter.each(result.answered);
  return { ...result, programMilliseconds: program, postgresMilliseconds: postgres };
}

/** People with a project of 50 allocations each, and what their requests run, taken from a control plane that records. */
async function prepare(
  run: BenchmarkRun,
  site: BenchmarkSite,
): Promise<{ people: Person[]; plans: Record<string, Plan[]> }> {
  run.say('people, their allocations and the recording');
  const recording = await site.startControlPlane({ roles: ['api'], records: true });
  const people = await signUp(recording, site.database, flags.connections);
  await Promise.all(people.map((person) => fillList(recording, person)));
  await freeEverything(site.database);
  const plans: Record<string, Plan[]> = {};
  for (const route of ROUTES) {
    const ofRoute: Plan[] = [];
    for (const person of people) {
      const headers = { ...headersOf(person), ...(route.body !== undefined && { 'content-type': 'application/json' }) };
      const [first, second] = await recordTwice(recording.program, () =>
        requested(route.method, `${recording.apiUrl}${route.path}`, {
          headers,
          ...(route.body !== undefined && { body: route.body }),
        }),
      );
      ofRoute.push(planOf(first, second));
    }
    plans[route.name] = ofRoute;
    if (flags['show-sql']) for (const { text } of ofRoute[0]?.statements ?? []) run.say(`${route.name}: ${text}`);
  }
  await recording.program.stop();
  await freeEverything(site.database);
  return { people, plans };
}

/** Several at a time in one request each, so that 50 people are done soon. */
async function fillList(address: ControlPlaneProcess, person: Person): Promise<void> {
  const perRequest = 10;
  const body = { ...JSON.parse(LAUNCH_BODY), requested_count: perRequest };
  for (let made = 0; made < ROWS_IN_LIST; made += perRequest) {
    await post(address, '/api/v1/allocations', { headers: headersOf(person), body });
  }
}

async function startBareRoutes(run: BenchmarkRun, site: BenchmarkSite, routes: BareRoutes['routes']) {
  const told: BareRoutes = { databaseUrl: site.databaseUrl, poolSize: POOL_SIZE, routes };
  const file = path.join(run.directory, 'bare-routes.json');
  await writeFile(file, JSON.stringify(told));
  const program = startProgram({
    script: programFile('programs/bare-route.js'),
    arguments: [file],
    profileDirectory: run.profileDirectory,
  });
  run.cleanUp(() => program.stop());
  const ready = await program.ready;
  if (typeof ready !== 'object' || ready === null || !('url' in ready))
    throw new Error('the bare server has no address');
  return { url: String(ready.url), program };
}
