import { generateKeyPairSync } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ManualClock } from '@gpuaas/kernel';
import { signTask } from '@gpuaas/node-protocol';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { createSimulatedHost } from '../host/simulated/simulated-host.js';
import { openFileStore } from '../store/file-store.js';
import { createMemoryStore } from '../store/memory-store.js';
import { createTestAuthority } from '../testing/authority.js';
import { FakeControlPlane, type FakeOptions, NODE_ID } from '../testing/fake-control-plane.js';
import { ALLOCATION_ID, agentFor, deferred, KEYS, provisionParams, recordingTimer } from '../testing/fixtures.js';
import { AgentExitError } from './exit.js';
import type { NodeAgent } from './node-agent.js';

const cleanUp: Array<() => Promise<void>> = [];
afterEach(async () => {
  for (const undo of cleanUp.splice(0).reverse()) await undo();
});

async function controlPlane(options?: FakeOptions): Promise<FakeControlPlane> {
  const fake = await FakeControlPlane.start(options);
  cleanUp.push(() => fake.stop());
  return fake;
}

async function running(fake: FakeControlPlane, changes: Parameters<typeof agentFor>[1] = {}): Promise<NodeAgent> {
  const agent = agentFor(fake, changes);
  cleanUp.push(() => agent.stop());
  await agent.start();
  return agent;
}

const user = { allocation_id: ALLOCATION_ID, username: 'ada', uid: 20_001 };

describe('a node agent', () => {
  it.each([{ plain: false }, { plain: true }])('enrols, polls and reports what it did (%j)', async (options) => {
    const fake = await controlPlane(options);
    await running(fake);
    const taskId = fake.queue(fake.sign('allocation.provision_user', provisionParams()));
    expect(await fake.resultOf(taskId)).toMatchObject({
      status: 'success',
      output: { host: 'node.example', port: 22, authorized_keys: { count: 2, version: 1 } },
    });
    expect(fake.polls[0]?.headers).toMatchObject({
      'x-agent-version': '1.2.3',
      'x-agent-commit': 'abc',
      'x-agent-built-at': '2026-01-01T00:00:00Z',
      'x-agent-boot-id': expect.stringMatching(/^[0-9a-f-]{36}$/),
    });
  });

  it('keeps its identity over a restart and needs no token again', async () => {
    const fake = await controlPlane();
    const store = createMemoryStore();
    const first = await running(fake, { store });
    await fake.until(() => fake.polls.length > 0);
    await first.stop();
    await running(fake, { store, config: { enrollmentToken: null } });
    await fake.until(() => fake.polls.length > 1);
    expect(fake.enrollments).toHaveLength(1);
    expect(fake.polls[1]?.serialNumber).toBe(fake.polls[0]?.serialNumber);
  });

  it('asks with the same key again when the answer to its enrolment was lost', async () => {
    const fake = await controlPlane();
    const store = createMemoryStore();
    let asked = 0;
    fake.interfere = (operation) => {
      if (operation === 'enroll') asked += 1;
      return operation === 'enroll' ? 'break' : null;
    };
    const lost = agentFor(fake, { store });
    const start = lost.start();
    await fake.until(() => asked > 0);
    await lost.stop();
    await expect(start).rejects.toMatchObject({ exit: { reason: 'stopped' } });
    const before = await store.read('pending-key.json');
    fake.interfere = () => null;
    await running(fake, { store });
    const identity: { private_key_pem: string } = JSON.parse((await store.read('identity.json')) ?? '');
    expect(before).toContain(JSON.stringify(identity.private_key_pem));
    expect(await store.read('pending-key.json')).toBeNull();
  });

  it('ends with a request for a new token when its token is refused', async () => {
    const fake = await controlPlane();
    const agent = agentFor(fake, { config: { enrollmentToken: 'stale' } });
    await expect(agent.start()).rejects.toBeInstanceOf(AgentExitError);
    expect(await agent.ended).toMatchObject({
      reason: 'identity_refused',
      message: expect.stringContaining('reissue'),
    });
  });

  it('does not talk to a server that its anchors do not vouch for', async () => {
    const fake = await controlPlane();
    const timer = recordingTimer();
    const other = await createTestAuthority('other');
    const agent = agentFor(fake, { timer, config: { caPem: other.certificatePem } });
    const start = agent.start();
    while (timer.waits.length < 3) await new Promise((resolve) => setImmediate(resolve));
    await agent.stop();
    await expect(start).rejects.toMatchObject({ exit: { reason: 'stopped' } });
    expect(fake.enrollments).toHaveLength(0);
  });

  it('takes no certificate that does not lead to the node authority it was configured with', async () => {
    const fake = await controlPlane();
    const other = await createTestAuthority('other');
    const agent = agentFor(fake, { config: { nodeCaPem: other.certificatePem } });
    await expect(agent.start()).rejects.toMatchObject({ exit: { reason: 'identity_refused' } });
  });
});

describe('hostile and unsuitable tasks', () => {
  const forger = { keyId: 'signer-1', privateKey: generateKeyPairSync('ed25519').privateKey };

  it('are refused with a reason, and nothing happens', async () => {
    const fake = await controlPlane();
    const store = createMemoryStore();
    const host = createSimulatedHost({ nodeId: NODE_ID, store });
    await running(fake, { store, host });
    const good = fake.sign('allocation.provision_user', provisionParams());
    const cases: Array<[string, ReturnType<typeof fake.sign>]> = [
      [
        'bad_signature',
        { ...fake.sign('node.drain', {}), ...signTask({ ...good, task_id: fake.sign('x', {}).task_id }, forger) },
      ],
      ['unknown_signing_key', signTask(fake.sign('node.drain', {}), { ...fake.signer, keyId: 'nobody' })],
      ['wrong_node', fake.sign('allocation.provision_user', provisionParams(), { node_id: 'other' })],
      ['expired', fake.sign('allocation.provision_user', provisionParams(), { expires_at: '2020-01-01T00:00:00Z' })],
      ['unknown_task_type', fake.sign('allocation.become_root', {})],
      ['invalid_params', fake.sign('allocation.provision_user', provisionParams({ username: 'root' }))],
      ['unsupported_by_this_host', fake.sign('power.limit.clear', { generation: 1, cause: 'test' })],
    ];
    for (const [reason, envelope] of cases) {
      fake.queue(envelope);
      const result = await fake.resultOf(envelope.task_id);
      expect([reason, result]).toMatchObject([reason, { status: 'rejected', output: { reason } }]);
    }
    expect(await host.runtimeUsers()).toEqual([]);
  });

  it('cannot speak for a real task of the same id', async () => {
    const fake = await controlPlane();
    await running(fake);
    const real = fake.sign('allocation.provision_user', provisionParams());
    const forged = signTask({ ...real, params: provisionParams({ username: 'eve' }) }, forger);
    fake.queue(forged);
    expect(await fake.resultOf(real.task_id)).toMatchObject({ status: 'rejected' });
    fake.queue(real);
    expect(await fake.resultOf(real.task_id, 2)).toMatchObject({ status: 'success' });
    fake.queue(forged);
    const next = fake.queue(fake.sign('diag.health_probe', {}));
    await fake.resultOf(next);
    expect(fake.results.get(real.task_id)).toHaveLength(2);
  });
});

describe('delivery', () => {
  it('runs a redelivered task once and posts the same result again', async () => {
    const fake = await controlPlane();
    await running(fake);
    const taskId = fake.queue(fake.sign('allocation.restart', user));
    expect(await fake.resultOf(taskId)).toMatchObject({
      status: 'failed',
      output: { reason: 'allocation_not_provisioned' },
    });
    const provision = fake.queue(fake.sign('allocation.provision_user', provisionParams()));
    await fake.resultOf(provision);
    fake.redeliver(taskId);
    expect(await fake.resultOf(taskId, 2)).toEqual(fake.results.get(taskId)?.[0]);
  });

  it('answers a finished task that comes again after its expiry with what became of it', async () => {
    const fake = await controlPlane();
    const clock = new ManualClock(new Date());
    const store = createMemoryStore();
    const agent = await running(fake, { clock, store });
    const taskId = fake.queue(fake.sign('allocation.provision_user', provisionParams()));
    const first = await fake.resultOf(taskId);
    await agent.stop();
    await fake.until(() => fake.openPolls === 0);
    clock.advance(3_600_000);
    fake.redeliver(taskId);
    await running(fake, { clock, store });
    expect(await fake.resultOf(taskId, 2)).toEqual(first);
  });

  it('posts a result until it is answered, over failures and restarts', async () => {
    const fake = await controlPlane();
    const store = createMemoryStore();
    const timer = recordingTimer();
    fake.interfere = (operation, attempt) =>
      operation === 'result' ? (attempt % 2 === 0 ? 'break' : { status: 503 }) : null;
    const agent = await running(fake, { store, timer });
    const taskId = fake.queue(fake.sign('allocation.provision_user', provisionParams()));
    while (timer.waits.length < 5) await new Promise((resolve) => setImmediate(resolve));
    expect(agent.heldTasks()).toEqual([taskId]);
    await agent.stop();
    expect(fake.results.size).toBe(0);
    fake.interfere = () => null;
    await running(fake, { store });
    expect(await fake.resultOf(taskId)).toMatchObject({ status: 'success' });
  });

  it('reports a failure in the place of a result that the control plane finds malformed', async () => {
    const fake = await controlPlane();
    fake.interfere = (operation, attempt) =>
      operation === 'result' && attempt === 1 ? { status: 400, code: 'validation_error' } : null;
    await running(fake);
    const taskId = fake.queue(fake.sign('allocation.provision_user', provisionParams()));
    expect(await fake.resultOf(taskId)).toMatchObject({ status: 'failed', output: { reason: 'result_refused' } });
  });

  it('stops asking about a result that nobody knows', async () => {
    const fake = await controlPlane();
    fake.interfere = (operation, attempt) =>
      operation === 'result' && attempt === 1 ? { status: 404, code: 'invalid_request' } : null;
    const agent = await running(fake);
    fake.queue(fake.sign('diag.health_probe', {}));
    const other = fake.queue(fake.sign('diag.health_probe', { allocation_id: ALLOCATION_ID }));
    await fake.resultOf(other);
    await vi.waitFor(() => expect(agent.heldTasks()).toEqual([]));
    expect(fake.results.size).toBe(1);
  });

  it('names what it runs in its polls, so that leases go on', async () => {
    const fake = await controlPlane({ holdMilliseconds: 50, leaseMilliseconds: 200 });
    const store = createMemoryStore();
    const gate = deferred();
    const host = createSimulatedHost({ nodeId: NODE_ID, store });
    await running(fake, { store, timer: recordingTimer(), host: { ...host, beforeTask: () => gate.promise } });
    const taskId = fake.queue(fake.sign('allocation.provision_user', provisionParams()));
    const named = () => fake.polls.filter((poll) => poll.headers['x-agent-running-tasks'] === taskId).length;
    await fake.until(() => named() > 8);
    gate.resolve();
    await fake.resultOf(taskId);
    expect(fake.results.get(taskId)).toHaveLength(1);
  });

  it('runs at most eight tasks at once, goes on polling, and one at a time for one thing', async () => {
    const fake = await controlPlane();
    const store = createMemoryStore();
    const gate = deferred();
    let [running_, most] = [0, 0];
    const host = createSimulatedHost({ nodeId: NODE_ID, store });
    await running(fake, {
      store,
      host: {
        ...host,
        beforeTask: async () => {
          running_ += 1;
          most = Math.max(most, running_);
          await gate.promise;
          running_ -= 1;
        },
      },
    });
    const ids = Array.from({ length: 12 }, (_, index) =>
      fake.queue(fake.sign('diag.health_probe', { allocation_id: ALLOCATION_ID.slice(0, -2) + (10 + index) })),
    );
    const same = Array.from({ length: 3 }, () =>
      fake.queue(fake.sign('slice.topology_discover', { schema_version: 1 })),
    );
    await fake.until(() => fake.polls.length > ids.length + same.length);
    expect(most).toBe(8);
    gate.resolve();
    for (const id of [...ids, ...same]) expect(await fake.resultOf(id)).toMatchObject({ status: 'success' });
  });
});

describe('the certificate', () => {
  const DAY = 24 * 3600 * 1000;

  it('is renewed after two thirds of its life, and the old one serves until the new one has polled', async () => {
    const clock = new ManualClock(new Date());
    const fake = await controlPlane({
      holdMilliseconds: 20,
      life: (issued) => ({ notBefore: new Date(), notAfter: new Date(Date.now() + (issued === 1 ? 7 : 30) * DAY) }),
    });
    const store = createMemoryStore();
    await running(fake, { clock, store, timer: recordingTimer() });
    await fake.until(() => fake.polls.length > 2);
    expect(fake.renewals).toHaveLength(0);
    clock.advance(5 * DAY);
    await fake.until(() => new Set(fake.polls.map((poll) => poll.serialNumber)).size === 2);
    const polls = fake.polls.length;
    await fake.until(() => fake.polls.length > polls + 1);
    expect(fake.renewals).toHaveLength(1);
    expect(await store.read('identity.next.json')).toBeNull();
    const expires_at = new Date(clock.now().getTime() + 60_000).toISOString();
    const taskId = fake.queue(fake.sign('diag.health_probe', {}, { expires_at }));
    expect(await fake.resultOf(taskId)).toMatchObject({ status: 'success' });
  });

  it('stays in use while renewal fails, and renewal is tried again', async () => {
    const clock = new ManualClock(new Date());
    const fake = await controlPlane({ holdMilliseconds: 20 });
    fake.interfere = (operation, attempt) => (operation === 'renew' && attempt < 4 ? { status: 503 } : null);
    await running(fake, { clock, timer: recordingTimer() });
    clock.advance(5 * DAY);
    await fake.until(() => {
      clock.advance(1000);
      return fake.renewals.length > 0;
    });
    await fake.until(() => new Set(fake.polls.map((poll) => poll.serialNumber)).size === 2);
  });

  it('is found again by a process that died between renewal and first poll', async () => {
    const fake = await controlPlane({ holdMilliseconds: 20 });
    const store = createMemoryStore();
    const first = await running(fake, { store });
    await fake.until(() => fake.polls.length > 0);
    // From the renewal on, no poll gets through.
    fake.interfere = (operation) => (operation === 'wait' && fake.renewals.length > 0 ? 'break' : null);
    const { output } = await fake.resultOf(fake.queue(fake.sign('agent.renew_cert', { reason: null })));
    await first.stop();
    expect(await store.read('identity.next.json')).not.toBeNull();
    fake.interfere = () => null;
    await running(fake, { store });
    const renewed = String(output.serial_number).toLowerCase();
    await fake.until(() => fake.polls.some((poll) => poll.serialNumber === renewed));
    await vi.waitFor(async () => expect(await store.read('identity.next.json')).toBeNull());
  });

  it('that is refused after renewal gives way to the current one', async () => {
    const fake = await controlPlane({ holdMilliseconds: 20 });
    const store = createMemoryStore();
    await running(fake, { store, timer: recordingTimer() });
    await fake.until(() => fake.polls.length > 0);
    const serial = fake.polls[0]?.serialNumber;
    fake.welcome = (candidate) => candidate === serial;
    const taskId = fake.queue(fake.sign('agent.renew_cert', { reason: null }));
    await fake.resultOf(taskId);
    await fake.until(() => fake.renewals.length === 1);
    const polls = fake.polls.length;
    await fake.until(() => fake.polls.length > polls + 2);
    expect(fake.polls.at(-1)?.serialNumber).toBe(serial);
    expect(await store.read('identity.next.json')).toBeNull();
  });

  it('that ran out ends the agent with a request for a new token, and a reissued token heals it', async () => {
    const clock = new ManualClock(new Date());
    const fake = await controlPlane({ holdMilliseconds: 20 });
    fake.interfere = (operation) => (operation === 'renew' ? { status: 503 } : null);
    const store = createMemoryStore();
    const agent = await running(fake, { clock, store, timer: recordingTimer() });
    clock.advance(8 * DAY);
    expect(await agent.ended).toMatchObject({
      reason: 'identity_expired',
      message: expect.stringContaining('reissue'),
    });
    fake.tokens.set('token-2', null);
    await expect(agentFor(fake, { clock, store }).start()).rejects.toMatchObject({
      exit: { reason: 'identity_expired' },
    });
    clock.advance(-8 * DAY);
    const polls = fake.polls.length;
    for (const poll of fake.polls) if (poll.serialNumber !== null) fake.revoked.add(poll.serialNumber);
    await running(fake, { clock, store, config: { enrollmentToken: 'token-2' } });
    await fake.until(() => fake.polls.length > polls);
    expect(fake.enrollments).toHaveLength(2);
  });
});

describe('the control plane being away', () => {
  it('is met with polls that back off up to a minute and return at once when it is back', async () => {
    const fake = await controlPlane();
    const timer = recordingTimer();
    fake.interfere = (operation, attempt) => (operation === 'wait' && attempt <= 10 ? { status: 502 } : null);
    await running(fake, { timer, random: () => 1 });
    await fake.until(() => fake.polls.length === 1);
    expect(timer.waits).toEqual([1, 2, 4, 8, 16, 32, 60, 60, 60, 60].map((seconds) => seconds * 1000));
  });

  it('waits for as long as it is told to', async () => {
    const fake = await controlPlane();
    const timer = recordingTimer();
    fake.interfere = (operation, attempt) =>
      operation === 'wait' && attempt === 1 ? { status: 429, headers: { 'retry-after': '42' } } : null;
    await running(fake, { timer });
    await fake.until(() => fake.polls.length === 1);
    expect(timer.waits).toEqual([42_000]);
  });

  it('does not spin when polls are not held', async () => {
    const fake = await controlPlane({ holdMilliseconds: 0 });
    const timer = recordingTimer();
    await running(fake, { timer, random: () => 1 });
    await fake.until(() => fake.polls.length === 6);
    expect(timer.waits.slice(0, 3)).toEqual([1000, 2000, 4000]);
  });

  it('does not spin on a task that comes back again and again, nor hesitate over many that come back once', async () => {
    const fake = await controlPlane();
    const timer = recordingTimer();
    await running(fake, { timer, random: () => 1 });
    const ids = Array.from({ length: 12 }, (_, index) =>
      fake.queue(fake.sign('diag.health_probe', { allocation_id: ALLOCATION_ID.slice(0, -2) + (10 + index) })),
    );
    for (const id of ids) await fake.resultOf(id);
    fake.redeliverAll();
    for (const id of ids) await fake.resultOf(id, 2);
    expect(timer.waits).toEqual([]);
    const [first = ''] = ids;
    for (let number = 3; number < 9; number += 1) {
      fake.redeliver(first);
      await fake.resultOf(first, number);
    }
    expect(timer.waits[0]).toBe(1000);
  });

  it('keeps a fenced node asking until it is welcome again', async () => {
    const fake = await controlPlane();
    const timer = recordingTimer();
    fake.interfere = (operation, attempt) =>
      operation === 'wait' && attempt <= 20 ? { status: 403, code: 'insufficient_permissions' } : null;
    const agent = await running(fake, { timer });
    await fake.until(() => fake.polls.length === 1);
    const taskId = fake.queue(fake.sign('diag.health_probe', {}));
    expect(await fake.resultOf(taskId)).toMatchObject({ status: 'success' });
    expect(timer.waits).toHaveLength(20);
    await vi.waitFor(() => expect(agent.heldTasks()).toEqual([]));
  });
});

describe('tasks that concern the agent itself', () => {
  it('a trust bundle changes whom it obeys, and an older one does not', async () => {
    const fake = await controlPlane();
    const store = createMemoryStore();
    const agent = await running(fake, { store });
    const second = generateKeyPairSync('ed25519');
    const { formatSigningKeys } = await import('@gpuaas/node-protocol');
    const both = formatSigningKeys([
      [fake.signer.keyId, fake.signer.privateKey],
      ['signer-2', second.publicKey],
    ]);
    const update = fake.queue(
      fake.sign('agent.trust_bundle_update', { version: 2, signing_pubkeys: both, ca_pem: fake.api.certificatePem }),
    );
    expect(await fake.resultOf(update)).toMatchObject({
      status: 'success',
      output: { version: 2, signing_key_ids: ['signer-1', 'signer-2'] },
    });
    const bySecond = signTask(fake.sign('diag.health_probe', {}), { keyId: 'signer-2', privateKey: second.privateKey });
    fake.queue(bySecond);
    expect(await fake.resultOf(bySecond.task_id)).toMatchObject({ status: 'success' });
    const older = fake.queue(fake.sign('agent.trust_bundle_update', { version: 1, signing_pubkeys: fake.signingKeys }));
    expect(await fake.resultOf(older)).toMatchObject({ status: 'rejected', output: { reason: 'trust_bundle_older' } });
    await agent.stop();
    await fake.until(() => fake.openPolls === 0);
    await running(fake, { store });
    const again = signTask(fake.sign('diag.health_probe', {}), { keyId: 'signer-2', privateKey: second.privateKey });
    fake.queue(again);
    expect(await fake.resultOf(again.task_id)).toMatchObject({ status: 'success' });
  });

  it('a trust bundle that would cut the host off is refused', async () => {
    const fake = await controlPlane();
    await running(fake);
    const { formatSigningKeys } = await import('@gpuaas/node-protocol');
    const other = await createTestAuthority('other');
    const stranger = formatSigningKeys([['stranger', generateKeyPairSync('ed25519').publicKey]]);
    const cases: Array<[string, Record<string, unknown>]> = [
      ['api_not_trusted', { version: 2, ca_pem: other.certificatePem }],
      ['trust_bundle_invalid', { version: 2, ca_pem: 'no certificate' }],
      ['trust_bundle_invalid', { version: 2, signing_pubkeys: stranger }],
    ];
    for (const [reason, params] of cases) {
      const taskId = fake.queue(fake.sign('agent.trust_bundle_update', params));
      expect(await fake.resultOf(taskId)).toMatchObject({ status: 'rejected', output: { reason } });
    }
    const probe = fake.queue(fake.sign('diag.health_probe', {}));
    expect(await fake.resultOf(probe)).toMatchObject({ status: 'success' });
  });

  it('a drain tells what still runs here', async () => {
    const fake = await controlPlane();
    await running(fake);
    await fake.resultOf(fake.queue(fake.sign('allocation.provision_user', provisionParams())));
    const params = { reason: null, intent: 'maintenance' };
    const busy = fake.queue(fake.sign('node.drain', params));
    expect(await fake.resultOf(busy)).toMatchObject({
      output: { quiesced: false, remaining_runtimes: [{ allocation_id: ALLOCATION_ID, username: 'ada' }] },
    });
    await fake.resultOf(fake.queue(fake.sign('allocation.deprovision_user', user)));
    const empty = fake.queue(fake.sign('node.drain', params));
    expect(await fake.resultOf(empty)).toMatchObject({ output: { quiesced: true, remaining_runtimes: [] } });
  });

  it('an uninstall takes everything away, is reported, and only then ends the agent', async () => {
    const fake = await controlPlane();
    const store = createMemoryStore();
    const agent = await running(fake, { store });
    await fake.resultOf(fake.queue(fake.sign('allocation.provision_user', provisionParams())));
    const taskId = fake.queue(fake.sign('node.uninstall', { purge_data: true, reason: null }));
    expect(await fake.resultOf(taskId)).toMatchObject({ status: 'success', output: { removed: ['account:ada'] } });
    expect(await agent.ended).toMatchObject({ reason: 'uninstalled' });
    expect(await store.read('identity.json')).toBeNull();
  });

  it('a key set that arrives late does not bring a key back', async () => {
    const fake = await controlPlane();
    await running(fake);
    await fake.resultOf(fake.queue(fake.sign('allocation.provision_user', provisionParams())));
    const install = (version: number, keys: unknown[]) =>
      fake.resultOf(
        fake.queue(fake.sign('allocation.install_authorized_keys', { ...user, keys, key_set_version: version })),
      );
    expect(await install(3, KEYS.slice(0, 1))).toMatchObject({ output: { count: 1, version: 3 } });
    expect(await install(2, KEYS)).toMatchObject({ status: 'success', output: { count: 1, version: 3 } });
    expect(await install(3, KEYS)).toMatchObject({ status: 'failed', output: { reason: 'key_set_conflict' } });
  });

  it('a restart is over when the boot id has changed', async () => {
    const fake = await controlPlane();
    await running(fake);
    await fake.resultOf(fake.queue(fake.sign('allocation.provision_user', provisionParams())));
    const result = await fake.resultOf(fake.queue(fake.sign('allocation.restart', user)));
    expect(result.status).toBe('success');
    expect(result.output.boot_id).not.toBe(result.output.previous_boot_id);
  });
});

describe('stopping', () => {
  it('at any moment of the start ends the agent and frees its state', async () => {
    const fake = await controlPlane();
    const directory = await mkdtemp(join(tmpdir(), 'gpuaas-agent-'));
    for (let turns = 0; turns < 600; turns += 40) {
      const store = await openFileStore(directory);
      const agent = agentFor(fake, { store });
      const start = agent.start().catch((error: unknown) => error);
      for (let turn = 0; turn < turns; turn += 1) await new Promise((resolve) => setImmediate(resolve));
      await agent.stop();
      await start;
      expect(await agent.ended).toMatchObject({ reason: 'stopped' });
    }
    const last = await running(fake, { store: await openFileStore(directory) });
    await fake.until(() => fake.openPolls > 0);
    await last.stop();
    await rm(directory, { recursive: true });
  });

  it('lets what runs end, reports it, and resolves', async () => {
    const fake = await controlPlane();
    const store = createMemoryStore();
    const [begun, gate] = [deferred(), deferred()];
    const host = createSimulatedHost({ nodeId: NODE_ID, store });
    const agent = await running(fake, {
      store,
      host: {
        ...host,
        beforeTask: () => {
          begun.resolve();
          return gate.promise;
        },
      },
    });
    const taskId = fake.queue(fake.sign('allocation.provision_user', provisionParams()));
    await begun.promise;
    const stopped = agent.stop();
    gate.resolve();
    await stopped;
    expect(fake.results.get(taskId)).toMatchObject([{ status: 'success' }]);
    expect(await agent.ended).toMatchObject({ reason: 'stopped' });
  });

  it('does not hold up the restart of the machine that a task asked for', async () => {
    const fake = await controlPlane();
    const store = createMemoryStore();
    const host = createSimulatedHost({ nodeId: NODE_ID, store });
    const told = deferred();
    const agent = await running(fake, {
      store,
      // A real machine: the command returns, and the process is told to stop some time later.
      host: { ...host, reboot: async () => told.resolve() },
      config: { shutdownGraceMilliseconds: 600_000 },
    });
    await fake.resultOf(fake.queue(fake.sign('allocation.provision_user', provisionParams())));
    const taskId = fake.queue(fake.sign('allocation.restart', user));
    await told.promise;
    await agent.stop();
    expect(fake.results.has(taskId)).toBe(false);
    await host.reboot();
    await running(fake, { store });
    expect(await fake.resultOf(taskId)).toMatchObject({ status: 'success', output: { boot_id: await host.bootId() } });
  });

  it('leaves what does not end to the next start, which runs it again', async () => {
    const fake = await controlPlane();
    const store = createMemoryStore();
    const begun = deferred();
    const host = createSimulatedHost({ nodeId: NODE_ID, store });
    const agent = await running(fake, {
      store,
      config: { shutdownGraceMilliseconds: 10 },
      host: {
        ...host,
        beforeTask: (_type, signal) => {
          begun.resolve();
          return new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
        },
      },
    });
    const taskId = fake.queue(fake.sign('allocation.provision_user', provisionParams()));
    await begun.promise;
    await agent.stop();
    expect(fake.results.size).toBe(0);
    await running(fake, { store });
    expect(await fake.resultOf(taskId)).toMatchObject({ status: 'success' });
  });
});
