import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ComputeSite, SKU, startComputeSite } from './site-with-hosts.js';

let site: ComputeSite;
beforeAll(async () => {
  site = await startComputeSite({ roles: ['api'] });
});
afterAll(() => site?.stop());

const newSku = (given: Record<string, unknown> = {}) => ({
  sku: `test-${randomUUID().slice(0, 8)}`,
  vendor: 'nvidia',
  display_name: 'Test host',
  resource_class: 'gpu_baremetal',
  billing_unit: 'gpu_hour',
  scheduling_unit: 'node',
  resources: { accelerator_count: 8, accelerator_vendor: 'nvidia', allowed_accelerator_counts: [] },
  unit_price: { amount_minor: 100, currency: 'USD' },
  ...given,
});
const codes = (answer: { body: { items: { sku: string }[] } }) => answer.body.items.map((item) => item.sku);

describe('SKUs', () => {
  it('are listed to customers only while they are on sale, by code', async () => {
    const person = await site.signup();
    const shown = await site.call({ path: '/api/v1/skus', token: person.token });
    expect(codes(shown)).toEqual(['h200-sxm-baremetal-8g', 'h200-sxm-slice']);
    expect(shown.body.items[1].unit_price).toEqual({ amount_minor: 450, currency: 'USD' });
    const all = await site.asOperator('GET', '/api/v1/admin/skus?page_size=200');
    expect(codes(all)).toEqual([...codes(all)].sort());
    expect(codes(all)).toContain('mi300x');
    expect((await site.call({ path: '/api/v1/admin/skus', token: person.token })).body.code).toBe('admin_required');
  });

  it('are created on sale, with a price for history, and never twice', async () => {
    const body = newSku({ family_id: 'test-family' });
    const created = await site.asOperator('POST', '/api/v1/admin/skus', body);
    expect(created.status).toBe(201);
    expect(created.body).toMatchObject({ sku: body.sku, active: true, family_display_name: 'test-family' });
    const again = await site.asOperator('POST', '/api/v1/platform/config/skus', body);
    expect([again.status, again.body.details.reason]).toEqual([409, 'sku_already_exists']);
    const changed = await site.asOperator('PATCH', `/api/v1/admin/skus/${body.sku}`, {
      ...newSku({ unit_price: { amount_minor: 200, currency: 'USD' } }),
      sku: undefined,
    });
    expect(changed.body.unit_price.amount_minor).toBe(200);
    const prices = await site.db
      .selectFrom('sku_prices')
      .select('unit_price_minor')
      .where('sku', '=', body.sku)
      .orderBy('effective_from')
      .orderBy('id')
      .execute();
    expect(prices.map((price) => price.unit_price_minor).sort()).toEqual([100n, 200n]);
  });

  it.each([
    [{ scheduling_unit: 'slice' }, 'scheduling_unit_mismatch'],
    [{ billing_unit: 'vcpu_hour' }, 'billing_unit_mismatch'],
    [{ unit_price: { amount_minor: 0, currency: 'USD' } }, 'price_not_positive'],
    [{ sku: '../etc' }, 'sku_malformed'],
  ])('are refused with %o', async (fault, reason) => {
    const answer = await site.asOperator('POST', '/api/v1/admin/skus', newSku(fault));
    expect([answer.status, answer.body.details.reason]).toEqual([400, reason]);
  });

  it('are unknown to operators by 404', async () => {
    const missing = await site.asOperator('POST', '/api/v1/admin/skus/none/activate');
    expect([missing.status, missing.body.code]).toEqual([404, 'sku_not_found']);
  });

  it('stop launches when they are taken off sale, and leave what runs at its price', async () => {
    const body = newSku();
    await site.asOperator('POST', '/api/v1/admin/skus', body);
    await site.addSilentHost({ sku: body.sku });
    await site.addSilentHost({ sku: body.sku });
    const person = await site.customer();
    const launch = () => site.launch(person, { scheduler_request: { sku: body.sku } });
    const running = await launch();
    expect(running.status).toBe(201);
    expect((await site.asOperator('POST', `/api/v1/admin/skus/${body.sku}/deactivate`)).body.active).toBe(false);
    const refused = await launch();
    expect([refused.status, refused.body.code, refused.body.details.reason]).toEqual([
      409,
      'sku_unavailable',
      'sku_inactive',
    ]);
    await site.asOperator('PATCH', `/api/v1/admin/skus/${body.sku}`, {
      ...newSku({ unit_price: { amount_minor: 999, currency: 'USD' } }),
      sku: undefined,
    });
    const row = await site.db
      .selectFrom('allocations')
      .select('unit_price_minor')
      .where('id', '=', running.body.allocation.id)
      .executeTakeFirstOrThrow();
    expect(row.unit_price_minor).toBe(100n);
  });
});

describe('OS images', () => {
  const newImage = (given: Record<string, unknown> = {}) => ({
    slug: `image-${randomUUID().slice(0, 8)}`,
    display_name: 'Test image',
    target: 'baremetal',
    image_format: 'raw',
    source_uri: 'https://images.test/ubuntu.raw',
    digest_sha256: 'a'.repeat(64),
    default_username: 'ubuntu',
    ...given,
  });

  it('are created, listed by filter, deprecated, reactivated and removed', async () => {
    const created = await site.asOperator('POST', '/api/v1/admin/os-images', newImage({ compatible_skus: [SKU] }));
    expect(created.status).toBe(201);
    const { id, slug } = created.body;
    const twice = await site.asOperator('POST', '/api/v1/admin/os-images', newImage({ slug }));
    expect([twice.status, twice.body.details.reason]).toEqual([409, 'os_image_already_exists']);
    const list = await site.asOperator('GET', `/api/v1/admin/os-images?target=baremetal&sku=${SKU}`);
    expect(list.body.items.map((item: { slug: string }) => item.slug)).toEqual([slug]);
    const change = (path: string) => site.asOperator('POST', `/api/v1/v3/platform/config/os-images/${id}/${path}`);
    expect((await change('deprecate')).body.status).toBe('deprecated');
    expect((await change('reactivate')).body.status).toBe('active');
    const renamed = await site.asOperator('PATCH', `/api/v1/v3/platform/config/os-images/${id}`, {
      display_name: 'Other',
    });
    expect(renamed.body).toMatchObject({ display_name: 'Other', slug });
    expect((await site.asOperator('DELETE', `/api/v1/admin/os-images/${id}`)).status).toBe(204);
    expect((await site.asOperator('DELETE', `/api/v1/admin/os-images/${id}`)).status).toBe(404);
  });

  it('never carry credentials in their address', async () => {
    for (const source_uri of [
      'https://user:secret@images.test/x.raw',
      'https://bucket.s3.test/x.raw?X-Amz-Signature=abc',
      'https://images.test/x.raw?token=abc',
    ]) {
      const answer = await site.asOperator('POST', '/api/v1/admin/os-images', newImage({ source_uri }));
      expect([answer.status, answer.body.details.reason]).toEqual([400, 'source_uri_has_credentials']);
    }
  });

  it('that were used are kept, but nothing is launched from them any more', async () => {
    const image = (await site.asOperator('POST', '/api/v1/admin/os-images', newImage())).body;
    await site.addSilentHost({ region: 'images' });
    await site.addSilentHost({ region: 'images' });
    const person = await site.customer();
    const launch = () =>
      site.launch(person, { scheduler_request: { sku: SKU, region_code: 'images', os_image_slug: image.slug } });
    expect((await launch()).status).toBe(201);
    expect((await site.asOperator('DELETE', `/api/v1/admin/os-images/${image.id}`)).status).toBe(204);
    const refused = await launch();
    expect([refused.status, refused.body.details.reason]).toEqual([409, 'os_image_disabled']);
  });
});

describe('the limit of allocations', () => {
  it('is read with its bounds, set within them, and remembers who set it', async () => {
    const path = '/api/v1/admin/allocations/limits/policy';
    expect((await site.asOperator('GET', path)).body).toMatchObject({
      value: 50,
      default_value: 50,
      bounds: { min_value: 1, max_value: 500 },
      created_by_user_id: null,
    });
    const set = await site.asOperator('PUT', '/api/v1/v3/platform/config/quotas/allocation-concurrency', {
      value: 7,
      reason: 'a small site',
    });
    expect(set.body).toMatchObject({ value: 7, reason: 'a small site', created_by_user_id: expect.any(String) });
    expect((await site.asOperator('GET', path)).body).toEqual(set.body);
    const tooHigh = await site.asOperator('PUT', path, { value: 501 });
    expect([tooHigh.status, tooHigh.body.details.reason]).toEqual([400, 'policy_bound_violation']);
    await site.setLimit(50);
  });
});

describe('lists', () => {
  it('page through a project newest first, refuse foreign cursors, and filter by status', async () => {
    const person = await site.customer();
    for (let count = 0; count < 3; count += 1) {
      const nodeId = await site.addSilentHost({ region: 'lists' });
      expect((await site.launch(person, { node_id: nodeId })).status).toBe(201);
    }
    const first = await site.as(person, 'GET', '/api/v1/allocations?page_size=2');
    expect(first.body.items).toHaveLength(2);
    const cursor = first.body.pagination.next_cursor;
    const second = await site.as(person, 'GET', `/api/v1/allocations?page_size=2&cursor=${cursor}`);
    expect(second.body.items).toHaveLength(1);
    expect(second.body.pagination.next_cursor).toBeNull();
    const ids = [...first.body.items, ...second.body.items].map((item: { id: string }) => item.id);
    expect(new Set(ids).size).toBe(3);
    expect(first.body.items[0].resource_name).toBe(
      `gpuaas:default:lists:${person.tenantId}:${person.projectId}:gpuaas/allocation:${ids[0]}`,
    );
    const other = await site.as(person, 'GET', `/api/v1/allocations?status=active&cursor=${cursor}`);
    expect(other.status).toBe(400);
    expect((await site.as(person, 'GET', '/api/v1/allocations?status=active')).body.items).toEqual([]);
    expect((await site.as(person, 'GET', '/api/v1/allocations?status=requested')).body.items).toHaveLength(3);

    const org = await site.as(person, 'GET', `/api/v1/orgs/${person.tenantId}/allocations`);
    expect(org.body.items).toHaveLength(3);
    expect(org.body.items[0]).not.toHaveProperty('placement_claims');
    expect((await site.as(person, 'GET', `/api/v1/orgs/${person.tenantId}/allocations/${ids[0]}`)).body.id).toBe(
      ids[0],
    );
    const project = await site.as(person, 'GET', `/api/v1/projects/${person.projectId}/allocations`);
    expect(project.body.items).toHaveLength(3);
    const admin = await site.asOperator('GET', `/api/v1/admin/allocations?user_id=${person.userId}`);
    expect(admin.body.items).toHaveLength(3);
    expect(admin.body.items[0].placement_claims).toMatchObject([{ claim_kind: 'node_exclusive', status: 'reserved' }]);
  });

  it('show hosts to anyone, without address or tenant, with what stands against a launch', async () => {
    const person = await site.customer();
    const [free, taken, stale, cordoned] = await Promise.all(
      [1, 2, 3, 4].map(() => site.addSilentHost({ region: 'nodes' })),
    );
    if (!free || !taken || !stale || !cordoned) throw new Error('no hosts');
    await site.launch(person, { node_id: taken });
    await site.db
      .updateTable('node_heartbeats')
      .set({ last_seen_at: new Date(0) })
      .where('node_id', '=', stale)
      .execute();
    await site.db.updateTable('nodes').set({ status: 'cordoned' }).where('id', '=', cordoned).execute();
    const list = await site.call({ path: '/api/v1/nodes?region_code=nodes', token: person.token });
    const shown = new Map(list.body.items.map((node: { id: string }) => [node.id, node]));
    expect(shown.get(free)).toMatchObject({
      occupancy_status: 'available',
      in_use: false,
      readiness: { state: 'ready' },
    });
    expect(shown.get(taken)).toMatchObject({
      occupancy_status: 'reserved',
      in_use: true,
      readiness: { state: 'capacity_exhausted', schedulable: false },
    });
    expect(shown.get(stale)).toMatchObject({ readiness: { state: 'agent_unreachable' } });
    expect(shown.get(cordoned)).toMatchObject({ readiness: { state: 'cordoned' } });
    expect(JSON.stringify(list.body)).not.toMatch(/\.test|host-/);
    const of = async (status: string) =>
      (
        await site.call({ path: `/api/v1/nodes?region_code=nodes&status=${status}`, token: person.token })
      ).body.items.map((node: { id: string }) => node.id);
    expect((await of('online')).sort()).toEqual([free, taken].sort());
    expect(await of('offline')).toEqual([stale]);
    expect(await of('maintenance')).toEqual([cordoned]);
  });
});
