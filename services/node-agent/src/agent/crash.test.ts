import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomInt, randomUUID } from 'node:crypto';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { requirePrograms } from '../../../control-plane/test/harness/prerequisites.js';
import { createSimulatedHost } from '../host/simulated/simulated-host.js';
import { openFileStore } from '../store/file-store.js';
import { FakeControlPlane, NODE_ID } from '../testing/fake-control-plane.js';
import { KEYS } from '../testing/fixtures.js';

const exec = promisify(execFile);
const PACK = fileURLToPath(new URL('../../scripts/pack.mjs', import.meta.url));
const able = requirePrograms(['useradd', 'usermod', 'userdel', 'groupdel', 'getent'], {
  suite: 'the agent that is killed on a linux host',
  root: true,
});

/** The agent as it is shipped, unpacked once for all tests of this file. */
let program = '';
let packageDirectory = '';
beforeAll(async () => {
  packageDirectory = await mkdtemp(join(tmpdir(), 'gpuaas-package-'));
  const tarball = join(packageDirectory, 'agent.tar.gz');
  await exec(process.execPath, [PACK, tarball]);
  await exec('tar', ['-xzf', tarball, '-C', packageDirectory]);
  program = join(packageDirectory, 'gpuaas-node-agent', 'bin', 'gpuaas-node-agent');
});
afterAll(() => rm(packageDirectory, { recursive: true, force: true }));

let fake: FakeControlPlane;
let base: string;
let child: ChildProcess | null = null;
beforeEach(async () => {
  fake = await FakeControlPlane.start({ holdMilliseconds: 1000, leaseMilliseconds: 300 });
  base = await mkdtemp(join(tmpdir(), 'gpuaas-crash-'));
  await exec('chmod', ['755', base]);
});
afterEach(async () => {
  if (child !== null) await end(child, 'SIGKILL');
  await fake.stop();
  await rm(base, { recursive: true, force: true });
});

const stateDirectory = () => join(base, 'state');

async function start(host: string, environment: Record<string, string> = {}): Promise<ChildProcess> {
  const caPath = join(base, 'ca.pem');
  await writeFile(caPath, fake.api.certificatePem);
  await mkdir(join(base, 'home'), { recursive: true });
  child = spawn(program, ['--host', host], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: {
      PATH: process.env.PATH,
      GPUAAS_NODE_BIN: process.execPath,
      GPUAAS_API_URL: fake.url,
      GPUAAS_NODE_ID: NODE_ID,
      GPUAAS_ENROLLMENT_TOKEN: 'token-1',
      GPUAAS_STATE_DIR: stateDirectory(),
      GPUAAS_CA_BUNDLE_PATH: caPath,
      GPUAAS_TASK_SIGNING_PUBKEYS: fake.signingKeys,
      GPUAAS_HOME_ROOT: join(base, 'home'),
      GPUAAS_RUNTIME_DIR: join(base, 'etc', 'runtime'),
      GPUAAS_LOG_LEVEL: 'error',
      ...environment,
    },
  });
  child.stdout?.resume();
  return child;
}

function end(process: ChildProcess, signal: NodeJS.Signals): Promise<number | null> {
  if (process.exitCode !== null || process.signalCode !== null) return Promise.resolve(process.exitCode);
  return new Promise((resolve) => {
    process.once('exit', (code) => resolve(code));
    process.kill(signal);
  });
}

/** Kills and restarts the agent at arbitrary moments until `work` is done. */
async function underKills(
  host: string,
  kills: number,
  environment: Record<string, string>,
  work: Promise<unknown>,
): Promise<number> {
  let done = false;
  const over = () => {
    done = true;
  };
  work.then(over, over);
  let killed = 0;
  while (!done && killed < kills) {
    const running = await start(host, environment);
    const strikeAt = randomInt(1, 7);
    await new Promise<void>((resolve) => {
      let requests = 0;
      fake.interfere = () => {
        requests += 1;
        // Some time after a request came in: before, during or after what it sets off.
        if (requests === strikeAt) setTimeout(resolve, randomInt(0, 40));
        return null;
      };
      work.then(
        () => resolve(),
        () => resolve(),
      );
    });
    fake.interfere = () => null;
    await end(running, 'SIGKILL');
    await fake.until(() => fake.openPolls === 0);
    fake.redeliverAll();
    killed += 1;
  }
  await start(host, environment);
  await work;
  return killed;
}

interface Tenant {
  allocationId: string;
  username: string;
  uid: number;
}

/** What the control plane asks for one tenant, one step after the other. Returns the tasks' ids. */
async function serve(tenant: Tenant, leave: boolean): Promise<string[]> {
  const user = { allocation_id: tenant.allocationId, username: tenant.username, uid: tenant.uid };
  const steps: Array<[string, Record<string, unknown>]> = [
    ['allocation.provision_user', { ...user, authorized_keys: KEYS, key_set_version: 1 }],
    ['allocation.install_authorized_keys', { ...user, keys: KEYS.slice(0, 1), key_set_version: 2 }],
    ['runtime_bundle.apply', { allocation_id: tenant.allocationId, slug: 'cuda', version: '1', env: { A: 'b' } }],
    ...(leave ? [['allocation.deprovision_user', user] satisfies [string, Record<string, unknown>]] : []),
  ];
  const ids: string[] = [];
  for (const [type, params] of steps) {
    const id = fake.queue(fake.sign(type, params));
    ids.push(id);
    expect([type, await fake.resultOf(id)]).toMatchObject([type, { status: 'success', output: expect.anything() }]);
  }
  return ids;
}

function expectOneOutcomeEach(ids: readonly string[]): void {
  for (const id of ids) {
    const results = (fake.results.get(id) ?? []).map((result) => JSON.stringify(result));
    expect(new Set(results).size).toBe(1);
  }
}

describe('an agent that is killed at any point', () => {
  it('delivers every result, has one outcome for each task, and leaves the host as it was told', async () => {
    const faults = join(base, 'faults.json');
    await writeFile(faults, JSON.stringify({ faults: [{ id: 'slow', task: '*', delay_ms: 10 }] }));
    const tenants = Array.from({ length: 8 }, (_, index) => ({
      allocationId: randomUUID(),
      username: `user${index}`,
      uid: 20_000 + index,
    }));
    const work = Promise.all(tenants.map((tenant, index) => serve(tenant, index % 2 === 0)));
    const killed = await underKills('simulated', 25, { GPUAAS_SIMULATED_FAULTS_FILE: faults }, work);
    expect(killed).toBeGreaterThan(3);
    expectOneOutcomeEach((await work).flat());
    await fake.until(() => fake.openPolls > 0);
    if (child !== null) expect(await end(child, 'SIGTERM')).toBe(0);

    const store = await openFileStore(stateDirectory());
    const host = createSimulatedHost({ nodeId: NODE_ID, store });
    const stayed = tenants.filter((_tenant, index) => index % 2 === 1);
    const found = await host.runtimeUsers();
    expect(found.sort((left, right) => left.uid - right.uid)).toEqual(stayed);
    for (const tenant of stayed) {
      expect(await host.ensureAuthorizedKeys(tenant, { version: 1, keys: [] })).toMatchObject({ version: 2, count: 1 });
    }
    await store.close();
  });

  it.skipIf(!able)('does so on a real host, too', async () => {
    const number = randomInt(100_000, 1_000_000);
    const tenant = { allocationId: randomUUID(), username: `gpuaas-t${number}`, uid: 1_500_000_000 + number };
    try {
      const work = serve(tenant, true);
      await underKills('linux', 6, {}, work);
      expectOneOutcomeEach(await work);
      await expect(exec('getent', ['passwd', tenant.username])).rejects.toMatchObject({ code: 2 });
      expect(await readdir(join(base, 'home'))).toEqual([]);
    } finally {
      await exec('userdel', ['--force', tenant.username]).catch(() => undefined);
    }
  });
});

describe('the program', () => {
  it('ends cleanly on SIGTERM while it polls', async () => {
    const running = await start('simulated');
    await fake.until(() => fake.openPolls > 0);
    expect(await end(running, 'SIGTERM')).toBe(0);
  });

  it('ends with 77 when its token is refused', async () => {
    const running = await start('simulated', { GPUAAS_ENROLLMENT_TOKEN: 'stale', GPUAAS_LOG_LEVEL: 'silent' });
    expect(await new Promise((resolve) => running.once('exit', resolve))).toBe(77);
  });

  it('does not share its state directory', async () => {
    await start('simulated');
    await fake.until(() => fake.openPolls > 0);
    const first = child;
    const second = await start('simulated', { GPUAAS_LOG_LEVEL: 'silent' });
    expect(await new Promise((resolve) => second.once('exit', resolve))).toBe(74);
    if (first !== null) expect(await end(first, 'SIGTERM')).toBe(0);
  });

  it('ends with 0 after an uninstall, and leaves no state', async () => {
    const running = await start('simulated');
    const taskId = fake.queue(fake.sign('node.uninstall', { purge_data: true, reason: null }));
    expect(await new Promise((resolve) => running.once('exit', resolve))).toBe(0);
    expect(await fake.resultOf(taskId)).toMatchObject({ status: 'success' });
    expect(await readdir(stateDirectory())).toEqual([]);
  });
});
