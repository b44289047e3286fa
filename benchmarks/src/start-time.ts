import { spawn } from 'node:child_process';
import { createServer } from 'node:net';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type BenchmarkRun, runBenchmark } from './harness/benchmark.js';
import { readFlags } from './harness/flags.js';
import { repository } from './harness/programs.js';
import { atMost, measure } from './harness/results.js';
import { median, rounded } from './harness/statistics.js';

const flags = readFlags({
  rounds: { default: 5, help: 'fresh sites, each started twice' },
  nodes: { default: 8, help: 'simulated hosts, each a process of the real agent' },
});

const READY = 'GPUaaS is ready.';
const READY_TIMEOUT_SECONDS = 120;
const STOP_TIMEOUT_SECONDS = 60;

await runBenchmark({
  name: 'start',
  title: 'Start of a whole site',
  method:
    'The time from `npm start` in an installed and built clone to the line that says that the site is ready: database, ' +
    'control plane, broker, and simulated hosts in service. Cold is the first start on an empty data directory, which ' +
    'makes the database and enrols the hosts; warm is the next one on the same directory. Each start is stopped as ' +
    'Ctrl-C does it.',
  parameters: flags,
  deadlineSeconds: 60 + flags.rounds * 2 * (READY_TIMEOUT_SECONDS + STOP_TIMEOUT_SECONDS),
  async run(run) {
    const cold: number[] = [];
    const warm: number[] = [];
    const stops: number[] = [];
    for (let round = 1; round <= flags.rounds; round += 1) {
      run.say(`site ${round}`);
      const environment = await environmentOf(path.join(run.directory, `site-${round}`));
      for (const times of [cold, warm]) {
        const { readySeconds, stopSeconds } = await startOnce(run, environment);
        times.push(readySeconds);
        stops.push(stopSeconds);
      }
    }
    const stop = { 'stop s': rounded(median(stops)) };
    run.add(measure(`cold start with ${flags.nodes} hosts`, 's', cold, atMost(10), stop));
    run.add(measure(`warm start with ${flags.nodes} hosts`, 's', warm, atMost(10), stop));
  },
});

/** Ports of the site's own: the hosts of a warm start look for the control plane where they left it. */
async function environmentOf(directory: string): Promise<Record<string, string>> {
  const [api, node, metrics, mqtt] = await freePorts(4);
  return {
    GPUAAS_ENV: 'development',
    GPUAAS_DATA_DIR: directory,
    GPUAAS_SIMULATED_NODES: String(flags.nodes),
    GPUAAS_PORT: String(api),
    GPUAAS_NODE_PORT: String(node),
    GPUAAS_METRICS_PORT: String(metrics),
    GPUAAS_MQTT_PORT: String(mqtt),
  };
}

async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer();
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen(0, '127.0.0.1', resolve);
      });
      return server;
    }),
  );
  const ports = servers.map((server) => {
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('no free port');
    return address.port;
  });
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

/** Starts and stops a site; the program and all that it started are gone when this resolves. */
async function startOnce(
  run: BenchmarkRun,
  environment: Record<string, string>,
): Promise<{ readySeconds: number; stopSeconds: number }> {
  const started = performance.now();
  const child = spawn('npm', ['start'], {
    cwd: repository,
    env: { ...process.env, ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
    // A process group of its own, which a terminal's Ctrl-C would reach as one.
    detached: true,
  });
  const group = -(child.pid ?? 0);
  let output = '';
  const exited = new Promise<string>((resolve) => {
    child.once('exit', (code, signal) => resolve(signal ?? `exit ${code}`));
    child.once('error', (error) => resolve(error.message));
  });
  let gone = false;
  void exited.then(() => {
    gone = true;
  });
  const interrupt = async (): Promise<void> => {
    if (gone || group === 0) return;
    process.kill(group, 'SIGINT');
    const late = delay(STOP_TIMEOUT_SECONDS * 1000, true, { ref: false });
    if ((await Promise.race([exited, late])) !== true) return;
    process.kill(group, 'SIGKILL');
    throw new Error(`a site did not stop within ${STOP_TIMEOUT_SECONDS} s`);
  };
  run.cleanUp(interrupt);

  const ready = new Promise<void>((resolve) => {
    child.stdout.on('data', (data: Buffer) => {
      output += data.toString();
      if (output.includes(READY)) resolve();
    });
    child.stderr.on('data', (data: Buffer) => {
      output += data.toString();
    });
  });
  const late = delay(READY_TIMEOUT_SECONDS * 1000, 'too late', { ref: false });
  const how = await Promise.race([ready, exited, late]);
  if (how !== undefined) throw new Error(`npm start: ${how}\n${output.slice(-3000)}`);
  const readySeconds = (performance.now() - started) / 1000;
  const stopping = performance.now();
  await interrupt();
  return { readySeconds, stopSeconds: (performance.now() - stopping) / 1000 };
}
