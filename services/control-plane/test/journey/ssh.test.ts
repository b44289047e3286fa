import { execFile } from 'node:child_process';
import { randomBytes, randomInt } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ComputeSite, SKU, startComputeSite } from '../compute/site-with-hosts.js';
import { requirePrograms } from '../harness/prerequisites.js';
import { type Program, startCommand } from '../harness/program.js';
import type { Person } from '../harness/site.js';
import { until } from '../harness/waiting.js';
import {
  type Key,
  type LoginService,
  newKey,
  type SshTarget,
  ssh,
  sshArguments,
  startLoginService,
} from './login-service.js';
import { startRealAgent } from './real-agent.js';

const exec = promisify(execFile);
const able = requirePrograms(['sshd', 'ssh', 'ssh-keygen', 'useradd', 'usermod', 'userdel', 'groupdel', 'getent'], {
  suite: 'the journey from a launch to a login by ssh',
  root: true,
});

/** Real accounts, logins and processes take their time on a busy machine. */
const PATIENCE = { timeoutMilliseconds: 60_000 } as const;

describe.skipIf(!able)('a tenant on a real host', { timeout: 300_000 }, () => {
  let site: ComputeSite;
  let directory: string;
  let sshd: LoginService;
  let agent: Program;
  let knownHosts: string;
  let nodeId: string;
  let person: Person;
  let [mine, other]: [Key, Key] = [
    { file: '', publicKey: '' },
    { file: '', publicKey: '' },
  ];
  /** the account on this machine; none of that name or user id exists before */
  let account: { username: string; uid: number };

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'gpuaas-journey-'));
    // sshd wants to know that nobody but root can rename what leads to a home; tenants must be able to pass through.
    await chmod(directory, 0o755);
    [mine, other] = [await newKey(directory, 'mine'), await newKey(directory, 'other')];
    sshd = await startLoginService();
    knownHosts = join(directory, 'known_hosts');
    await writeFile(knownHosts, sshd.knownHost);

    site = await startComputeSite({ nodeAuthentication: 'mtls' });
    const uid = await reserveUserId(site.databaseUrl);
    person = await site.signup(`journey-${randomBytes(6).toString('hex')}`);
    account = { username: `u-${person.username}`, uid };
    await site.credit(person, 10_000_000);
    const registered = await site.asOperator('POST', '/api/v1/admin/nodes', {
      host: '127.0.0.1',
      port: sshd.port,
      sku: SKU,
      gpus_total: 8,
      probe: false,
    });
    expect(registered.status).toBe(201);
    nodeId = registered.body.id;
    agent = await startRealAgent(site, { nodeId, directory, sshPort: sshd.port });
  });

  afterAll(async () => {
    await agent?.kill();
    await sshd?.stop();
    if (account !== undefined) await removeAccount(account);
    await site?.stop();
    if (directory !== undefined) await rm(directory, { recursive: true, force: true });
  });

  const addKey = async (name: string, key: Key): Promise<string> => {
    const answer = await site.call({
      method: 'POST',
      path: '/api/v1/ssh-keys',
      token: person.token,
      body: { name, public_key: key.publicKey },
    });
    expect(answer.status).toBe(201);
    return answer.body.key.id;
  };
  const untilStatus = (id: string, status: string) =>
    until(
      async () => {
        const answer = await site.as(person, 'GET', `/api/v1/allocations/${id}`);
        return answer.body.status === status ? answer.body : null;
      },
      { ...PATIENCE, what: `the allocation to be ${status}` },
    );
  const run = (target: SshTarget, key: Key, command: string) => ssh(target, key, knownHosts, command);
  const refused = { exitCode: 255, stderr: expect.stringContaining('Permission denied (publickey)') };

  it('logs in with the launched key and no other, until the release takes the account and all that runs on it', async () => {
    const [myKeyId, otherKeyId] = [await addKey('mine', mine), await addKey('other', other)];
    const launched = await site.launch(person, { ssh_key_ids: [myKeyId], scheduler_request: { sku: SKU } });
    expect(launched.status).toBe(201);
    const { id } = launched.body.allocation;
    const active = await untilStatus(id, 'active');
    expect(active.node_id).toBe(nodeId);

    // What the platform says is all that the client needs to know.
    const target: SshTarget = active.connection;
    expect(target).toMatchObject({ host: '127.0.0.1', port: sshd.port, username_on_node: account.username });
    expect(await run(target, mine, 'id -un; id -u; pwd')).toEqual({
      exitCode: 0,
      stdout: `${account.username}\n${account.uid}\n${join(directory, 'home', account.username)}\n`,
      stderr: '',
    });
    expect(await run(target, other, 'id -un')).toMatchObject(refused);
    expect(await run({ ...target, username_on_node: 'root' }, mine, 'id -un')).toMatchObject(refused);

    const replaced = await site.as(person, 'PUT', `/api/v1/allocations/${id}/ssh-keys`, { ssh_key_ids: [otherKeyId] });
    expect(replaced.status).toBeLessThan(300);
    await until(async () => (await run(target, other, 'true')).exitCode === 0, {
      ...PATIENCE,
      what: 'the new key to be accepted',
    });
    expect(await run(target, mine, 'id -un')).toMatchObject(refused);

    const started = await run(target, other, 'setsid nohup sleep 3600 </dev/null >/dev/null 2>&1 & echo $!');
    expect(started.exitCode).toBe(0);
    const open = startCommand('ssh', sshArguments(target, other, knownHosts, 'echo open; exec sleep 3600'), {
      PATH: process.env.PATH,
    });
    await until(() => open.output() === 'open\n', { ...PATIENCE, what: 'the session to be open' });
    const running = await processesOf(account.uid);
    expect(running).toEqual(expect.arrayContaining(['sleep', 'sleep']));

    const released = await site.as(person, 'POST', `/api/v1/allocations/${id}/release`);
    expect(released.status).toBe(202);
    await untilStatus(id, 'released');
    expect(await processesOf(account.uid)).toEqual([]);
    await open.ended;
    expect(await run(target, other, 'id -un')).toMatchObject(refused);
    expect(await lookUp('passwd', account.username)).toBe('');
    expect(await lookUp('passwd', String(account.uid))).toBe('');
    expect(await lookUp('group', account.username)).toBe('');
    expect(await readdir(join(directory, 'home'))).toEqual([]);
    expect(existsSync(join(directory, 'runtime', id))).toBe(false);
  });

  it('comes back on the same host with the same account and nothing of before', async () => {
    const keyId = await addKey('again', await newKey(directory, 'again'));
    const again: Key = { file: join(directory, 'again'), publicKey: '' };
    const launched = await site.launch(person, { ssh_key_ids: [keyId], scheduler_request: { sku: SKU } });
    const { id } = launched.body.allocation;
    const { connection } = await untilStatus(id, 'active');
    const session = await run(connection, again, 'id -u; touch left-behind; ls');
    expect(session).toMatchObject({ exitCode: 0, stdout: `${account.uid}\nleft-behind\n` });
    expect(await run(connection, other, 'id -un')).toMatchObject(refused);
    await site.as(person, 'POST', `/api/v1/allocations/${id}/release`);
    await untilStatus(id, 'released');
    expect(await run(connection, again, 'id -un')).toMatchObject(refused);
    expect(await readdir(join(directory, 'home'))).toEqual([]);
  });
});

/** Makes the site hand out a user id that nobody on this machine has, and that no other run of this test will pick. */
async function reserveUserId(databaseUrl: string): Promise<number> {
  const uid = randomInt(1_600_000_000, 1_700_000_000);
  expect(await lookUp('passwd', String(uid))).toBe('');
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  await client.query(`ALTER SEQUENCE posix_uids RESTART WITH ${uid}`);
  await client.end();
  return uid;
}

/** The entry of the account database; empty where there is none. */
async function lookUp(database: 'passwd' | 'group', key: string): Promise<string> {
  try {
    return (await exec('getent', [database, key])).stdout;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 2) return '';
    throw error;
  }
}

/** Names of the living programs that a user runs. */
async function processesOf(uid: number): Promise<string[]> {
  const found: string[] = [];
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    // A process that ends meanwhile has no status to read.
    const status = await readFile(`/proc/${entry}/status`, 'utf8').catch(() => '');
    if (!new RegExp(`^Uid:.*\\b${uid}\\b`, 'm').test(status) || /^State:\s+Z/m.test(status)) continue;
    found.push(/^Name:\s+(.*)$/m.exec(status)?.[1] ?? entry);
  }
  return found;
}

/** What a test that failed half-way leaves on the machine. */
async function removeAccount({ username, uid }: { username: string; uid: number }): Promise<void> {
  if (!(await lookUp('passwd', username)).includes(`:${uid}:`)) return;
  for (const entry of await readdir('/proc')) {
    const status = /^\d+$/.test(entry) ? await readFile(`/proc/${entry}/status`, 'utf8').catch(() => '') : '';
    if (!new RegExp(`^Uid:\\s+${uid}\\b`, 'm').test(status)) continue;
    try {
      process.kill(Number(entry), 'SIGKILL');
    } catch {
      // It has ended by itself.
    }
  }
  await exec('userdel', ['--force', username]).catch(() => undefined);
}
