import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type FleetSite, SKU, startFleetSite } from '../fleet/hosts.js';
import type { Person } from '../harness/site.js';
import { publicKey } from '../identity/keys.js';

/** The pages of the product call some operations by other names: each does what its twin does. */
let site: FleetSite;
beforeAll(async () => {
  site = await startFleetSite({ roles: ['api'] });
});
afterAll(() => site?.stop());

const as = (person: Person, method: string, path: string, body?: unknown) =>
  site.call({
    method,
    path: `/api/v1${path}`,
    token: person.token,
    project: person.projectId,
    ...(body !== undefined && { body }),
  });
const asOperator = (method: string, path: string, body?: unknown) => site.asOperator(method, `/api/v1${path}`, body);

describe('of a service account', () => {
  it('show it, renew its key, stop and end it', async () => {
    const owner = await site.signup();
    const accounts = '/v3/access/service-accounts';
    const made = await as(owner, 'POST', accounts, { name: 'Robot', slug: 'robot' });
    expect(made.status).toBe(201);
    const account = `${accounts}/${made.body.service_account.id}`;
    const twin = `/projects/${owner.projectId}/service-accounts/${made.body.service_account.id}`;
    expect((await as(owner, 'GET', account)).body).toEqual((await as(owner, 'GET', twin)).body);
    const rotated = await as(owner, 'POST', `${account}/rotate-key`);
    expect(rotated.status).toBe(200);
    expect(rotated.body.credential.key_id).not.toBe(made.body.initial_credential.key_id);
    expect((await as(owner, 'POST', `${account}/disable`)).status).toBe(200);
    expect((await as(owner, 'POST', `${twin}/rotate-key`)).status).toBe(409);
    expect((await as(owner, 'DELETE', account)).status).toBe(200);
    expect((await as(owner, 'GET', twin)).body.state).toBe('deleted');
  });

  it('find nothing of another project', async () => {
    const [owner, stranger] = [await site.signup(), await site.signup()];
    const made = await as(owner, 'POST', '/v3/access/service-accounts', { name: 'Robot', slug: 'robot' });
    const account = `/v3/access/service-accounts/${made.body.service_account.id}`;
    for (const [method, path] of [
      ['GET', account],
      ['POST', `${account}/rotate-key`],
      ['POST', `${account}/disable`],
      ['DELETE', account],
    ] as const)
      expect([path, (await as(stranger, method, path)).status]).toEqual([path, 404]);
  });
});

describe('of a personal key', () => {
  it('add it once, prefer it, and remove it', async () => {
    const person = await site.signup();
    // Without a project they are the person's own.
    const mine = (method: string, path: string, body?: unknown) =>
      site.call({ method, path: `/api/v1${path}`, token: person.token, ...(body !== undefined && { body }) });
    const keys = '/v3/account/security/ssh-keys';
    const first = await mine('POST', keys, { name: 'first', public_key: publicKey() });
    const line = publicKey();
    const second = await mine('POST', keys, { name: 'second', public_key: line });
    expect([first.status, second.status]).toEqual([201, 201]);
    expect((await mine('POST', '/ssh-keys', { name: 'again', public_key: line })).status).toBe(409);
    expect((await mine('PUT', `${keys}/${second.body.key.id}/default`)).status).toBe(200);
    expect((await mine('DELETE', `${keys}/${first.body.key.id}`)).status).toBe(200);
    const left = await mine('GET', '/ssh-keys');
    expect(left.body.items).toMatchObject([{ id: second.body.key.id, is_default: true }]);
    expect((await mine('DELETE', `${keys}/${first.body.key.id}`)).status).toBe(404);
  });
});

describe('of the catalogue', () => {
  it('sell a SKU, change it, take it off sale and put it back', async () => {
    const skus = '/v3/platform/config/skus';
    const terms = {
      vendor: 'nvidia',
      display_name: 'Test host',
      resource_class: 'gpu_baremetal',
      billing_unit: 'gpu_hour',
      scheduling_unit: 'node',
      resources: { accelerator_count: 8, accelerator_vendor: 'nvidia', allowed_accelerator_counts: [] },
      unit_price: { amount_minor: 100, currency: 'USD' },
    };
    const sku = `test-${randomUUID().slice(0, 8)}`;
    expect((await asOperator('POST', skus, { ...terms, sku })).body).toMatchObject({ sku, active: true });
    const renamed = await asOperator('PATCH', `${skus}/${sku}`, { ...terms, display_name: 'Renamed' });
    expect([renamed.status, renamed.body.display_name]).toEqual([200, 'Renamed']);
    const switched = async (path: string) => (await asOperator('POST', path)).body.active;
    expect(await switched(`${skus}/${sku}/deactivate`)).toBe(false);
    expect(await switched(`/admin/skus/${sku}/activate`)).toBe(true);
    expect(await switched(`/admin/skus/${sku}/deactivate`)).toBe(false);
    expect(await switched(`${skus}/${sku}/activate`)).toBe(true);
    expect((await asOperator('PATCH', `${skus}/none`, terms)).status).toBe(404);
  });

  it('add an OS image and remove it', async () => {
    const images = '/v3/platform/config/os-images';
    const made = await asOperator('POST', images, {
      slug: `image-${randomUUID().slice(0, 8)}`,
      display_name: 'Test image',
      target: 'baremetal',
      image_format: 'raw',
      source_uri: 'https://images.test/ubuntu.raw',
      digest_sha256: 'a'.repeat(64),
      default_username: 'ubuntu',
    });
    expect(made.status).toBe(201);
    expect((await asOperator('DELETE', `${images}/${made.body.id}`)).status).toBe(204);
    expect((await asOperator('DELETE', `/admin/os-images/${made.body.id}`)).status).toBe(404);
  });

  it('set how many allocations one may hold, and show it', async () => {
    const quota = '/v3/platform/config/quotas/allocation-concurrency';
    expect((await asOperator('PUT', quota, { value: 7 })).status).toBe(200);
    const shown = await asOperator('GET', quota);
    expect([shown.status, shown.body]).toEqual([
      200,
      (await asOperator('GET', '/admin/allocations/limits/policy')).body,
    ]);
    expect(JSON.stringify(shown.body)).toContain('7');
  });
});

describe('of allocations', () => {
  it('show one in its project, its group, and its history to operators', async () => {
    await site.active({ region_code: 'other-names' });
    const person = await site.signup();
    await site.credit(person, 10_000_000);
    await as(person, 'POST', '/ssh-keys', { name: 'key', public_key: publicKey() });
    const groups = `/projects/${person.projectId}/allocation-groups`;
    const made = await as(person, 'POST', groups, {
      display_name: 'one',
      group_kind: 'cluster',
      sku: SKU,
      scheduler_type: 'slurm',
      member_intents: [{ requested_count: 1, required: true }],
      scheduler_request: { region_code: 'other-names' },
    });
    expect(made.status).toBe(202);
    const group = `${groups}/${made.body.allocation_group.id}`;
    expect((await as(person, 'GET', group)).body).toMatchObject({
      id: made.body.allocation_group.id,
      status: 'requested',
    });
    const [{ id }] = (await as(person, 'GET', '/allocations')).body.items;
    const inProject = `/projects/${person.projectId}/allocations/${id}`;
    expect((await as(person, 'GET', inProject)).body).toEqual((await as(person, 'GET', `/allocations/${id}`)).body);
    const history = await asOperator('GET', `/admin/allocations/${id}/timeline`);
    const own = await as(person, 'GET', `/allocations/${id}/timeline`);
    expect([history.status, history.body.items]).toEqual([200, own.body.items]);

    const stranger = await site.signup();
    const elsewhere = (path: string) => path.replace(person.projectId, stranger.projectId);
    expect((await as(stranger, 'GET', elsewhere(inProject))).status).toBe(404);
    expect((await as(stranger, 'GET', elsewhere(group))).status).toBe(404);
    expect((await asOperator('GET', `/admin/allocations/${stranger.projectId}/timeline`)).status).toBe(404);
  });
});

describe('of a node', () => {
  const node = (method: string, nodeId: string, rest = '') =>
    asOperator(method, `/v3/platform/lifecycle/nodes/${nodeId}${rest}`);

  it('look into it, let it enrol again, retire it, take it back', async () => {
    const { nodeId } = await site.active();
    expect((await node('POST', nodeId, '/slice-topology/discovery')).status).toBe(202);
    const reissued = await node('POST', nodeId, '/reissue-enrollment');
    expect([reissued.status, typeof reissued.body.enrollment_token]).toEqual([201, 'string']);
    expect((await node('DELETE', nodeId)).status).toBe(204);
    expect(await site.statusOf(nodeId)).toBe('retired');
    expect((await node('POST', nodeId, '/reactivate')).body).toEqual({ ok: true, status: 'offline' });
  });

  it('resume what it was doing, force it out, and take it away', async () => {
    const { nodeId } = await site.active();
    expect((await node('POST', nodeId, '/resume-lifecycle')).status).toBe(409);
    expect((await node('DELETE', nodeId, '/force-detach')).status).toBe(409);
    await site.asOperator('POST', `/api/v1/v3/platform/lifecycle/nodes/${nodeId}/drain`, undefined, 'drain');
    expect((await node('POST', nodeId, '/resume-lifecycle')).body).toMatchObject({ ok: true, status: 'draining' });
    expect((await node('DELETE', nodeId, '/force-detach')).status).toBe(204);
    expect(await site.statusOf(nodeId)).toBe('gone');

    for (const leave of ['/remove', '/detach']) {
      const registered = await site.register();
      expect((await node('DELETE', registered, leave)).status).toBe(409);
      await node('DELETE', registered);
      expect((await node('DELETE', registered, leave)).status).toBe(204);
      expect(await site.statusOf(registered)).toBe('gone');
    }
  });
});

describe('of the audit', () => {
  it('export it', async () => {
    const [one, other] = [
      await asOperator('GET', '/v3/platform/evidence/audit/export?action=node.drain'),
      await asOperator('GET', '/admin/audit-logs/export?action=node.drain'),
    ];
    expect([one.status, one.headers.get('content-type')]).toEqual([200, other.headers.get('content-type')]);
    expect(one.body).toContain('node.drain');
    expect(one.body).toBe(other.body);
  });
});
