import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type FleetSite, startFleetSite, type TestHost } from '../fleet/hosts.js';

// The answer that carries a task may be lost: the process that sent it was killed, or the host died with it in hand.

let site: FleetSite;
beforeAll(async () => {
  site = await startFleetSite({ roles: ['api'] });
});
afterAll(() => site?.stop());

const handedOut = async (): Promise<{ host: TestHost; taskId: string }> => {
  const host = await site.active();
  const asked = await site.asOperator('POST', `/api/v1/admin/nodes/${host.nodeId}/slice-topology/discovery`);
  const task = await host.task('slice.topology_discover');
  expect(task.task_id).toBe(asked.body.item.task_id);
  return { host, taskId: task.task_id };
};
const named = (taskId: string) => ({ 'x-agent-running-tasks': taskId });

describe('a task that a host was sent', () => {
  it('is sent again at the next poll of a host that does not name it, long before its lease runs out', async () => {
    const { host, taskId } = await handedOut();
    const again = await host.wait();
    expect([again.status, again.body?.task_id]).toEqual([200, taskId]);
    expect((await host.result(taskId)).body).toEqual({ ok: true });
  });

  it('stays with a host that names it', async () => {
    const { host, taskId } = await handedOut();
    expect((await host.wait(named(taskId))).status).toBe(204);
    expect((await host.result(taskId)).body).toEqual({ ok: true });
  });

  it('may be answered although it was taken for lost', async () => {
    const { host, taskId } = await handedOut();
    const poll = host.wait();
    expect((await host.result(taskId)).body).toEqual({ ok: true });
    await poll;
    expect((await host.result(taskId)).body).toEqual({ ok: true });
  });

  it('has to wait for its lease once it was lost again and again: something is wrong with that host', async () => {
    const { host, taskId } = await handedOut();
    let sent = 1;
    while (sent < 20 && (await host.wait()).status === 200) sent += 1;
    expect(sent).toBe(5);
    const row = await site.db
      .selectFrom('node_tasks')
      .select('status')
      .where('id', '=', taskId)
      .executeTakeFirstOrThrow();
    expect(row.status).toBe('dispatched');
  });
});
