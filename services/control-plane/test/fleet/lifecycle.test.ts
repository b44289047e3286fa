import { asId, createLogger, newId } from '@gpuaas/kernel';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { jobContext } from '../../src/spine/periodic-jobs.js';
import { inTransaction } from '../../src/spine/transaction.js';
import { ManualClock } from '../harness/site.js';
import { type FleetSite, startFleetSite } from './hosts.js';

let site: FleetSite;
const clock = new ManualClock(new Date('2026-11-20T12:00:00Z'));
const log = createLogger({ program: 'test', level: 'silent' });
beforeAll(async () => {
  site = await startFleetSite({ clock, roles: ['api'] });
});
afterAll(() => site?.stop());

let keys = 0;
/** The operations of the platform's pages, which demand an idempotency key. */
const platform = (nodeId: string, operation: string) => {
  keys += 1;
  return site.asOperator('POST', `/api/v1/platform/lifecycle/nodes/${nodeId}/${operation}`, undefined, `key-${keys}`);
};
const admin = (method: string, nodeId: string, rest = '') =>
  site.asOperator(method, `/api/v1/admin/nodes/${nodeId}${rest}`);

/** What compute's claims do to a node. */
const setClaims = (nodeId: string, openClaims: number) =>
  site.db.updateTable('nodes').set({ open_claims: openClaims }).where('id', '=', nodeId).execute();
const claimsEnded = (nodeId: string) =>
  inTransaction(site.db, async (tx) => {
    await tx.updateTable('nodes').set({ open_claims: 0 }).where('id', '=', nodeId).execute();
    await site.controlPlane.domains.fleet.claimsEnded(tx, jobContext('test', { clock, log }), asId(nodeId));
  });

describe('cordon and resume', () => {
  it('stops scheduling and starts it again; a repeated cordon changes nothing (check 9)', async () => {
    const { nodeId } = await site.active();
    const cordoned = await platform(nodeId, 'cordon');
    expect(cordoned.status).toBe(200);
    expect(cordoned.body).toMatchObject({
      ok: true,
      operation: 'cordon',
      previous_status: 'active',
      status: 'cordoned',
      task_id: null,
    });
    expect((await platform(nodeId, 'cordon')).body).toMatchObject({ previous_status: 'cordoned', status: 'cordoned' });
    const placed = await inTransaction(site.db, (tx) =>
      site.controlPlane.domains.fleet
        .lockFreeNodes(tx, { sku: '', regionCode: null, count: 1, nodeId: asId(nodeId), now: clock.now() })
        .catch((error: unknown) => error),
    );
    expect(placed).toMatchObject({ code: 'node_offline', status: 409 });
    expect((await platform(nodeId, 'resume-scheduling')).body).toMatchObject({ status: 'active' });
    const twice = await platform(nodeId, 'resume-scheduling');
    expect([twice.status, twice.body.details]).toMatchObject([
      409,
      { reason: 'node_is_active', current_status: 'active' },
    ]);
  });

  it('demands an idempotency key', async () => {
    const { nodeId } = await site.active();
    const answer = await site.asOperator('POST', `/api/v1/platform/lifecycle/nodes/${nodeId}/cordon`);
    expect(answer.status).toBe(400);
    expect(await site.statusOf(nodeId)).toBe('active');
  });
});

describe('draining', () => {
  it('ends when the host has said so and the last claim is gone, not before (check 10)', async () => {
    const host = await site.active();
    await setClaims(host.nodeId, 1);
    const drained = await platform(host.nodeId, 'drain');
    expect(drained.status).toBe(202);
    expect(drained.body).toMatchObject({ status: 'draining', task_type: 'node.drain', recovery_action: null });
    const again = await platform(host.nodeId, 'drain');
    expect(again.body).toMatchObject({ task_id: drained.body.task_id, recovery_action: 'task_already_queued' });

    const task = await host.task('node.drain');
    await host.result(task.task_id, { output: { quiesced: true, remaining_runtimes: [] } });
    expect(await site.statusOf(host.nodeId)).toBe('draining');
    await claimsEnded(host.nodeId);
    expect(await site.statusOf(host.nodeId)).toBe('cordoned');
  });

  it('ends with the task where the claim went first', async () => {
    const host = await site.active();
    await setClaims(host.nodeId, 1);
    await platform(host.nodeId, 'drain');
    await claimsEnded(host.nodeId);
    expect(await site.statusOf(host.nodeId)).toBe('draining');
    const task = await host.task('node.drain');
    await host.result(task.task_id, { output: { quiesced: true, remaining_runtimes: [] } });
    expect(await site.statusOf(host.nodeId)).toBe('cordoned');
  });

  it('asks the host again where it had named work that ran then', async () => {
    const host = await site.active();
    await setClaims(host.nodeId, 1);
    await platform(host.nodeId, 'drain');
    const first = await host.task('node.drain');
    const busy = { quiesced: false, remaining_runtimes: [{ allocation_id: newId(), username: 'someone' }] };
    await host.result(first.task_id, { output: busy });
    await claimsEnded(host.nodeId);
    expect(await site.statusOf(host.nodeId)).toBe('draining');
    const second = await host.task('node.drain');
    expect(second.task_id).not.toBe(first.task_id);
    await host.result(second.task_id, { output: { quiesced: true, remaining_runtimes: [] } });
    expect(await site.statusOf(host.nodeId)).toBe('cordoned');
  });

  it('lets neither end be lost when both come at once', async () => {
    for (let round = 0; round < 5; round += 1) {
      const host = await site.active();
      await setClaims(host.nodeId, 1);
      await platform(host.nodeId, 'drain');
      const task = await host.task('node.drain');
      await Promise.all([
        host.result(task.task_id, { output: { quiesced: true, remaining_runtimes: [] } }),
        claimsEnded(host.nodeId),
      ]);
      expect(await site.statusOf(host.nodeId)).toBe('cordoned');
    }
  });

  it('is resumed by what its task needs (check 14)', async () => {
    const host = await site.active();
    await platform(host.nodeId, 'drain');
    const resume = () => admin('POST', host.nodeId, '/resume-lifecycle');
    expect((await resume()).body).toMatchObject({
      ok: true,
      status: 'draining',
      task_type: 'node.drain',
      recovery_action: 'task_already_queued',
    });
    const task = await host.task('node.drain');
    expect((await resume()).body.recovery_action).toBe('task_in_progress');
    clock.advance(120_000);
    expect((await resume()).body.recovery_action).toBe('task_requeued');
    expect((await host.task('node.drain')).task_id).toBe(task.task_id);
    await host.result(task.task_id, { status: 'failed', error: 'no' });
    expect(await site.statusOf(host.nodeId)).toBe('draining');
    expect((await resume()).body.recovery_action).toBe('task_recreated');
    expect((await host.task('node.drain')).task_id).not.toBe(task.task_id);

    const { nodeId } = await site.active();
    const idle = await admin('POST', nodeId, '/resume-lifecycle');
    expect([idle.status, idle.body.details.current_status]).toEqual([409, 'active']);
  });
});

describe('leaving the fleet', () => {
  it('is refused while a claim is open (check 11)', async () => {
    const { nodeId } = await site.active();
    await setClaims(nodeId, 1);
    const refused = await admin('DELETE', nodeId);
    expect([refused.status, refused.body.code]).toEqual([409, 'node_in_use']);
    await setClaims(nodeId, 0);
    expect((await admin('DELETE', nodeId)).status).toBe(204);
    expect((await admin('DELETE', nodeId)).status).toBe(204);
    expect(await site.statusOf(nodeId)).toBe('retired');
  });

  it('fences a retired node; reactivation lets it back to its place', async () => {
    const host = await site.active();
    await admin('POST', host.nodeId, '/slice-topology/discovery');
    await admin('DELETE', host.nodeId);
    const poll = await host.wait();
    expect([poll.status, poll.body.details.reason]).toEqual([403, 'node_fenced']);
    const token = await admin('POST', host.nodeId, '/enrollment-token');
    expect(token.status).toBe(409);
    const discovery = await admin('GET', host.nodeId, '/slice-topology/discovery');
    expect(discovery.body.item).toMatchObject({ status: 'expired', error: 'node_retired' });

    const back = await admin('POST', host.nodeId, '/reactivate');
    expect([back.status, back.body]).toEqual([200, { ok: true, status: 'offline' }]);
    expect((await host.wait()).status).toBe(204);
    expect(await site.statusOf(host.nodeId)).toBe('active');
  });

  it('removes the agent, then the node; the host may be registered anew (check 12)', async () => {
    const host = await site.active({ host: 'comes-again.test' });
    const early = await admin('DELETE', host.nodeId, '/remove');
    expect([early.status, early.body.details.current_status]).toEqual([409, 'active']);
    await admin('DELETE', host.nodeId);
    expect((await admin('DELETE', host.nodeId, '/remove')).status).toBe(204);
    expect(await site.statusOf(host.nodeId)).toBe('removing');
    // A farewell is all that it may do.
    const renewal = await site.call({
      method: 'POST',
      path: `/internal/v1/nodes/${host.nodeId}/cert/renew`,
      token: host.internalToken,
      body: { csr: 'x' },
    });
    expect([400, 403]).toContain(renewal.status);
    const task = await host.task('node.uninstall');
    expect((await host.result(task.task_id, { output: { removed: ['everything'] } })).body).toEqual({ ok: true });

    const gone = await admin('GET', host.nodeId, '/slice-topology/discovery');
    expect([gone.status, gone.body.code]).toEqual([404, 'node_not_found']);
    expect((await host.wait()).status).toBe(401);
    const list = await site.asOperator('GET', '/api/v1/admin/nodes?page_size=200');
    expect(list.body.items.map((item: { id: string }) => item.id)).not.toContain(host.nodeId);
    const anew = await site.register({ host: 'Comes-Again.test' });
    expect(anew).not.toBe(host.nodeId);
  });

  it('takes a node that never enrolled out at once', async () => {
    const nodeId = await site.register();
    await admin('DELETE', nodeId);
    expect((await admin('DELETE', nodeId, '/remove')).status).toBe(204);
    expect(await site.statusOf(nodeId)).toBe('gone');
  });

  it('forces out only what is stuck on its way (check 13)', async () => {
    const host = await site.active();
    const active = await admin('DELETE', host.nodeId, '/force-detach');
    expect([active.status, active.body.details.current_status]).toEqual([409, 'active']);
    await setClaims(host.nodeId, 1);
    await platform(host.nodeId, 'drain');
    expect((await admin('DELETE', host.nodeId, '/force-detach')).body.code).toBe('node_in_use');
    await setClaims(host.nodeId, 0);
    expect((await admin('DELETE', host.nodeId, '/force-detach')).status).toBe(204);
    expect(await site.statusOf(host.nodeId)).toBe('gone');

    const other = await site.active();
    await admin('DELETE', other.nodeId);
    expect((await admin('DELETE', other.nodeId, '/detach')).status).toBe(204);
    expect((await other.wait()).status).toBe(401);
  });

  it('answers 404 for a node that never was', async () => {
    const nodeId = newId();
    for (const [method, rest] of [
      ['DELETE', ''],
      ['DELETE', '/remove'],
      ['POST', '/probe'],
      ['POST', '/reactivate'],
      ['POST', '/enrollment-token'],
      ['POST', '/bootstrap-script'],
    ] as const) {
      const answer = await admin(method, nodeId, rest);
      expect([method, rest, answer.status, answer.body.code]).toEqual([method, rest, 404, 'node_not_found']);
    }
  });

  it('leaves a row in the audit for each step, with its actor', async () => {
    const { nodeId } = await site.active();
    await platform(nodeId, 'drain');
    await admin('DELETE', nodeId, '/force-detach');
    const rows = await site.db
      .selectFrom('audit_logs')
      .select(['action', 'actor_name', 'result'])
      .where('target_id', '=', nodeId)
      .where('action', 'in', ['node.drain', 'node.force_detach'])
      .orderBy('occurred_at')
      .execute();
    expect(rows).toEqual([
      { action: 'node.drain', actor_name: 'operator', result: 'success' },
      { action: 'node.force_detach', actor_name: 'operator', result: 'success' },
    ]);
  });
});

describe('who may', () => {
  it('no tenant, and no platform user without the right (check 20)', async () => {
    const { nodeId } = await site.active();
    const person = await site.signup();
    for (const [method, path] of [
      ['POST', `/api/v1/platform/lifecycle/nodes/${nodeId}/cordon`],
      ['POST', `/api/v1/platform/lifecycle/nodes/${nodeId}/drain`],
      ['DELETE', `/api/v1/admin/nodes/${nodeId}`],
      ['DELETE', `/api/v1/platform/lifecycle/nodes/${nodeId}/remove`],
      ['POST', `/api/v1/admin/nodes/${nodeId}/bootstrap-script`],
    ] as const) {
      const answer = await site.call({ method, path, token: person.token, key: 'tenant' });
      expect([answer.status, answer.body.code]).toEqual([403, 'admin_required']);
    }
    expect(await site.statusOf(nodeId)).toBe('active');
  });
});
