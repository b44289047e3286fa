import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ComputeSite, startComputeSite } from '../compute/site-with-hosts.js';
import { until } from '../harness/waiting.js';

let site: ComputeSite;
let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'gpuaas-maintenance-'));
  const agentPackagePath = join(directory, 'package.tar.gz');
  await writeFile(agentPackagePath, 'the bytes of a package');
  site = await startComputeSite({ domains: { agentPackagePath } });
});
afterAll(async () => {
  await site?.stop();
  await rm(directory, { recursive: true, force: true });
});

let keys = 0;
const platform = async (nodeId: string, operation: string) => {
  keys += 1;
  return site.call({
    method: 'POST',
    path: `/api/v1/platform/lifecycle/nodes/${nodeId}/${operation}`,
    token: await site.operator(),
    key: `maintenance-${keys}`,
  });
};
const statusOf = async (nodeId: string) => {
  const row = await site.db.selectFrom('nodes').select('status').where('id', '=', nodeId).executeTakeFirstOrThrow();
  return row.status;
};

describe('maintenance of a host in use', () => {
  it('sells nothing on a cordoned node (check 9)', async () => {
    const { nodeId } = await site.addHost();
    const person = await site.customer();
    expect((await platform(nodeId, 'cordon')).status).toBe(200);
    const refused = await site.launch(person, { node_id: nodeId });
    expect([refused.status, refused.body.code]).toEqual([409, 'node_offline']);
    expect((await platform(nodeId, 'resume-scheduling')).status).toBe(200);
    const launched = await site.launch(person, { node_id: nodeId });
    expect([launched.status, launched.body.code]).toEqual([201, undefined]);
    await site.untilStatus(person, launched.body.allocation.id, 'active');
  });

  it('drains only when the tenant has released, and refuses to retire before (checks 10 and 11)', async () => {
    const { nodeId } = await site.addHost();
    const person = await site.customer();
    const launched = await site.launch(person, { node_id: nodeId });
    expect([launched.status, launched.body.code]).toEqual([201, undefined]);
    const { id } = launched.body.allocation;
    await site.untilStatus(person, id, 'active');

    const list = await site.asOperator('GET', '/api/v1/admin/nodes?page_size=200');
    expect(list.body.items.find((item: { id: string }) => item.id === nodeId)).toMatchObject({
      occupancy_status: 'assigned',
      in_use: true,
      current_allocation: { allocation_id: id, user_id: person.userId, status: 'active' },
    });

    const retire = await site.asOperator('DELETE', `/api/v1/admin/nodes/${nodeId}`);
    expect([retire.status, retire.body.code]).toEqual([409, 'node_in_use']);

    const drained = await platform(nodeId, 'drain');
    expect(drained.status).toBe(202);
    // The host answers the drain, and the tenant's work goes on all the same.
    await until(async () => {
      const task = await site.db
        .selectFrom('node_tasks')
        .select('status')
        .where('id', '=', drained.body.task_id)
        .executeTakeFirst();
      return task?.status === 'completed';
    });
    expect(await statusOf(nodeId)).toBe('draining');
    expect((await site.as(person, 'GET', `/api/v1/allocations/${id}`)).body.status).toBe('active');

    expect((await site.as(person, 'POST', `/api/v1/allocations/${id}/release`)).status).toBe(202);
    await site.untilStatus(person, id, 'released');
    await until(async () => (await statusOf(nodeId)) === 'cordoned', { what: 'the end of the drain' });
  });
});
