import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ComputeSite, SKU, startComputeSite } from './site-with-hosts.js';

let site: ComputeSite;
beforeAll(async () => {
  site = await startComputeSite();
});
afterAll(() => site?.stop());

describe('one allocation on one host', () => {
  it('is launched, becomes active, is billed, restarted, and released', async () => {
    const { nodeId } = await site.addHost();
    const person = await site.customer();

    const launched = await site.launch(person);
    expect(launched.body).toMatchObject({ requested_count: 1, created_count: 1, failed_count: 0 });
    expect(launched.status).toBe(201);
    const { id } = launched.body.allocation;
    expect(launched.body.allocation).toMatchObject({
      status: 'requested',
      sku: SKU,
      node_id: nodeId,
      connection: null,
    });

    const active = await site.untilStatus(person, id, 'active');
    expect(active.connection).toMatchObject({ port: 22 });
    expect(active.ssh_keys.map((key: { id: string }) => key.id)).toEqual([person.keyId]);

    const usage = await site.as(person, 'GET', '/api/v1/billing/usage');
    expect(usage.body.items).toHaveLength(1);
    expect(usage.body.items[0]).toMatchObject({ allocation_id: id, end_time: null });

    const restarted = await site.as(person, 'POST', `/api/v1/allocations/${id}/restart`);
    expect(restarted.status).toBe(202);
    expect(restarted.body.operation).toMatchObject({
      operation: 'restart',
      previous_status: 'active',
      status: 'restarting',
    });
    await site.untilStatus(person, id, 'active');

    const released = await site.as(person, 'POST', `/api/v1/allocations/${id}/release`);
    expect(released.status).toBe(202);
    expect(released.body.allocation.status).toBe('releasing');
    await site.untilStatus(person, id, 'released');

    const ended = await site.as(person, 'GET', '/api/v1/billing/usage');
    expect(ended.body.items[0].end_time).not.toBeNull();

    const timeline = await site.as(person, 'GET', `/api/v1/allocations/${id}/timeline`);
    expect(timeline.status).toBe(200);
    expect(timeline.body.items.map((item: { name: string }) => item.name)).toEqual(
      expect.arrayContaining([
        'requested',
        'placement_reserved',
        'active',
        'restarted',
        'released',
        'allocation.provision_user',
      ]),
    );
  });
});
