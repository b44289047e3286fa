import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { until } from '../harness/waiting.js';
import { liveAsTenant, nothingTold } from './journey.js';
import { type ProcessSite, startProcessSite } from './process-site.js';
import { type Random, seededRandom } from './random.js';
import type { Mishap } from './supervised.js';
import { findOpenEnds, findUntruths } from './truths.js';

const KILLS = Number(process.env.GPUAAS_KILLS ?? 50);
/** Chooses whom to kill and when; a run is told apart by it, though not repeated to the microsecond. */
const SEED = Number(process.env.GPUAAS_KILL_SEED ?? Math.floor(Math.random() * 2 ** 31));
const TENANTS = 5;
const HOSTS = 4;
const REST_MILLISECONDS = 90_000;
/** A run of fifty takes one to three minutes on two busy cores. */
const TIMEOUT_MILLISECONDS = 360_000 * Math.max(1, KILLS / 50);

let site: ProcessSite;
beforeAll(async () => {
  site = await startProcessSite({ planes: 2, hosts: HOSTS });
}, 120_000);
afterAll(() => site?.stop());

it(`loses and doubles nothing when processes are killed at ${KILLS} random points of the journey`, {
  timeout: TIMEOUT_MILLISECONDS,
}, async ({ signal }) => {
  const random = seededRandom(SEED);
  const told = nothingTold();
  const happenings = new Happenings();
  let over = false;
  const tenants = Array.from({ length: TENANTS }, (_unused, index) =>
    liveAsTenant(
      { site, told, random: seededRandom(SEED + 1 + index), happened: () => happenings.report() },
      () => over || signal.aborted,
    ),
  );
  // A tenant that fails ends the test, and not only after all the kills.
  const failed = Promise.all(tenants);
  failed.catch(() => undefined);

  const started = performance.now();
  const deaths = new Map<string, number>();
  const victims = [...killers(site)];
  for (let kill = 0; kill < KILLS && !signal.aborted; kill += 1) {
    await Promise.race([happenings.wait(random.below(7)), failed]);
    await delay(random.below(60));
    // Mostly what serves; now and then what is just coming back.
    const serving = victims.filter((victim) => victim.serves());
    const victim = choose(serving.length === 0 || random.chance(0.2) ? victims : serving, random);
    await victim.kill();
    deaths.set(victim.name, (deaths.get(victim.name) ?? 0) + 1);
  }
  const killed = performance.now();
  over = true;
  await failed;
  await site.untilReady();
  const rest = await until(async () => (await findOpenEnds(site.db)).length === 0, {
    timeoutMilliseconds: REST_MILLISECONDS,
  }).catch(async () => findOpenEnds(site.db));
  const seconds = (from: number, to: number) => Math.round((to - from) / 100) / 10;
  process.stdout.write(
    `${JSON.stringify({
      seed: SEED,
      kills: Object.fromEntries(deaths),
      launches: told.launches.size,
      refused: told.refusals.length,
      restarts: told.restarts.size,
      key_changes: told.keyChanges.size,
      retried: { connections: site.retries.connections, unavailable: site.retries.unavailable },
      replayed: site.retries.replays,
      seconds: { kills: seconds(started, killed), rest: seconds(killed, performance.now()) },
    })}\n`,
  );

  expect({ rest, untruths: await findUntruths(site, told) }).toEqual({ rest: true, untruths: [] });
  expect(site.retries.internalErrors, said(site, 'request failed')).toEqual([]);
  expect(mishapsOf(site)).toEqual([]);
  // Or there was no journey to be killed on.
  expect(told.launches.size).toBeGreaterThan(KILLS / 10);
});

interface Killer {
  readonly name: string;
  readonly weight: number;
  serves(): boolean;
  kill(): Promise<void>;
}

function* killers({ planes, hosts, database }: ProcessSite): Generator<Killer> {
  for (const plane of planes)
    yield { name: plane.name, weight: 6, serves: () => plane.ready, kill: () => plane.kill() };
  for (const { agent } of hosts) {
    yield { name: 'agent', weight: 2, serves: () => agent.ready, kill: () => agent.kill() };
  }
  yield { name: 'database', weight: 4, serves: () => database.ready, kill: () => database.kill() };
}

function choose(victims: readonly Killer[], random: Random): Killer {
  return random.pick(victims.flatMap((victim) => Array.from({ length: victim.weight }, () => victim)));
}

/** The lines of the control planes that carry these words, for whoever has to find out. */
function said({ planes }: ProcessSite, words: string): string {
  return planes.flatMap((plane) => plane.output.split('\n').filter((line) => line.includes(words))).join('\n');
}

/** A program may end by itself only while it starts and its database is away: then it is started again. */
function mishapsOf({ planes, hosts }: ProcessSite): Mishap[] {
  const all = [...planes, ...hosts.map(({ agent }) => agent)].flatMap(({ mishaps }) => mishaps);
  return all.filter((mishap) => mishap.wasReady);
}

/** Counts what happens on the journey, so that a kill can be aimed at some point of it. */
class Happenings {
  #count = 0;
  #waiting: { at: number; go: () => void }[] = [];

  report(): void {
    this.#count += 1;
    this.#waiting = this.#waiting.filter(({ at, go }) => {
      if (at > this.#count) return true;
      go();
      return false;
    });
  }

  /** Until `more` further things have happened: the site recovers by itself, so they do. */
  wait(more: number): Promise<void> {
    if (more === 0) return Promise.resolve();
    return new Promise((go) => this.#waiting.push({ at: this.#count + more, go }));
  }
}
