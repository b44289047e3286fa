import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ManualClock } from '../harness/site.js';
import { callWithCertificate, enroll, type FleetSite, hostKeys, hostOf, startFleetSite } from './hosts.js';

let site: FleetSite;
const clock = new ManualClock(new Date('2026-11-20T12:00:00Z'));
beforeAll(async () => {
  site = await startFleetSite({ clock, roles: ['api'] });
});
afterAll(() => site?.stop());

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');
const issueToken = async (nodeId: string): Promise<string> => {
  const answer = await site.asOperator('POST', `/api/v1/admin/nodes/${nodeId}/enrollment-token`);
  expect(answer.status).toBe(201);
  return answer.body.enrollment_token;
};

describe('registering a host', () => {
  it('makes a registered node, and one node a host (check 1)', async () => {
    const host = 'Registered-Once.test';
    const first = await site.asOperator('POST', '/api/v1/admin/nodes', {
      host,
      sku: 'h200-sxm-baremetal-8g',
      gpus_total: 8,
    });
    expect(first.status).toBe(201);
    expect(first.body).toMatchObject({
      status: 'registered',
      host,
      port: 22,
      region_code: 'region-maas-1',
      occupancy_status: 'unavailable',
      in_use: false,
      current_allocation: null,
      resource_name: `gpuaas:default:region-maas-1:::gpuaas/node:${first.body.id}`,
    });
    const second = await site.asOperator('POST', '/api/v1/admin/nodes', {
      host: host.toLowerCase(),
      sku: 'h200-sxm-baremetal-8g',
      gpus_total: 8,
    });
    expect([second.status, second.body.code]).toEqual([409, 'node_already_exists']);
  });

  it('makes one node of twenty equal requests at once', async () => {
    const answers = await Promise.all(
      Array.from({ length: 20 }, () =>
        site.asOperator('POST', '/api/v1/admin/nodes', {
          host: 'crowd.test',
          sku: 'h200-sxm-baremetal-8g',
          gpus_total: 8,
        }),
      ),
    );
    expect(answers.map(({ status }) => status).sort()).toEqual([201, ...Array.from({ length: 19 }, () => 409)]);
  });

  it('refuses an unknown SKU and a host that is none', async () => {
    const unknown = await site.asOperator('POST', '/api/v1/admin/nodes', {
      host: 'a.test',
      sku: 'none',
      gpus_total: 8,
    });
    expect([unknown.status, unknown.body.code]).toEqual([400, 'sku_not_found']);
    const hostile = await site.asOperator('POST', '/api/v1/admin/nodes', {
      host: 'a.test; reboot',
      sku: 'h200-sxm-baremetal-8g',
      gpus_total: 8,
    });
    expect([hostile.status, hostile.body.code]).toEqual([400, 'invalid_request']);
    for (const wrong of [{ gpus_total: 3_000_000_000 }, { region_code: 'a\u0000b' }, { region_code: '' }]) {
      const answer = await site.asOperator('POST', '/api/v1/admin/nodes', {
        host: 'a.test',
        sku: 'h200-sxm-baremetal-8g',
        gpus_total: 8,
        ...wrong,
      });
      expect([wrong, answer.status]).toEqual([wrong, 400]);
    }
  });

  it('shows it in the list, page by page, under filters that cursors belong to', async () => {
    for (let index = 0; index < 3; index += 1) await site.register({ region_code: 'paged' });
    const path = '/api/v1/admin/nodes?region_code=paged&page_size=2';
    const first = await site.asOperator('GET', path);
    expect(first.body.items).toHaveLength(2);
    const cursor = encodeURIComponent(first.body.pagination.next_cursor);
    const second = await site.asOperator('GET', `${path}&cursor=${cursor}`);
    expect(second.body.items).toHaveLength(1);
    expect(second.body.pagination.next_cursor).toBeNull();
    const foreign = await site.asOperator('GET', `/api/v1/admin/nodes?page_size=2&cursor=${cursor}`);
    expect([foreign.status, foreign.body.details.reason]).toEqual([400, 'cursor_invalid']);
    const maintenance = await site.asOperator('GET', '/api/v1/admin/nodes?region_code=paged&status=maintenance');
    expect(maintenance.body.items).toEqual([]);
    const registered = await site.asOperator('GET', '/api/v1/admin/nodes?region_code=paged&status=registered');
    expect(registered.body.items).toHaveLength(3);
  });

  it('is not for tenants (check 20)', async () => {
    const person = await site.signup();
    const answer = await site.call({ path: '/api/v1/admin/nodes', token: person.token });
    expect([answer.status, answer.body.code]).toEqual([403, 'admin_required']);
  });
});

describe('the first boot', () => {
  it('fetches exactly the script whose digest was promised (check 2)', async () => {
    const nodeId = await site.register();
    const issued = await site.asOperator('POST', `/api/v1/admin/nodes/${nodeId}/bootstrap-script`);
    expect(issued.status).toBe(201);
    expect(await site.statusOf(nodeId)).toBe('bootstrap_issued');
    expect(sha256(issued.body.script)).toBe(issued.body.script_sha256);
    expect(issued.body.metadata.package_digest).toBe(`sha256:${sha256(await readFile(site.packagePath, 'utf8'))}`);

    const fetched = await site.call({ path: `/api/v1/bootstrap/nodes/${issued.body.bootstrap_token}/script` });
    expect(fetched.status).toBe(200);
    expect(fetched.headers.get('content-type')).toMatch(/^text\/plain/);
    expect(sha256(fetched.body)).toBe(issued.body.script_sha256);
    expect(await site.statusOf(nodeId)).toBe('enrolling');
  });

  it('does so for cloud-init too, and names another address only if it is plain', async () => {
    const nodeId = await site.register();
    const path = `/api/v1/platform/lifecycle/nodes/${nodeId}/bootstrap-script`;
    const issued = await site.asOperator(
      'POST',
      `${path}?mode=cloud_init&runtime_api_url=${encodeURIComponent('https://nodes.example.net:9000/')}`,
    );
    expect(issued.body.script).toMatch(/^#cloud-config\n/);
    expect(issued.body.metadata.runtime_api_url).toBe('https://nodes.example.net:9000');
    const fetched = await site.call({ path: `/api/v1/bootstrap/nodes/${issued.body.bootstrap_token}/script` });
    expect(sha256(fetched.body)).toBe(issued.body.script_sha256);

    const hostile = await site.asOperator(
      'POST',
      `${path}?runtime_api_url=${encodeURIComponent("https://x.test/';id;'")}`,
    );
    expect([hostile.status, hostile.body.details.reason]).toEqual([400, 'url_not_plain']);
  });

  it('downloads the package, finds no registry, and reports', async () => {
    const nodeId = await site.register();
    const issued = await site.asOperator('POST', `/api/v1/admin/nodes/${nodeId}/bootstrap-script`);
    const base = `/api/v1/bootstrap/nodes/${issued.body.bootstrap_token}`;
    const download = await fetch(`${site.url}${base}/package?arch=x86_64`);
    expect(download.status).toBe(200);
    expect(download.headers.get('content-type')).toBe('application/gzip');
    expect(await download.text()).toBe(await readFile(site.packagePath, 'utf8'));

    expect((await site.call({ path: `${base}/registry-credential` })).status).toBe(204);
    const reported = await site.call({
      method: 'POST',
      path: `${base}/progress`,
      body: { phase: 'node_bootstrap', state: 'running', message: 'half way' },
    });
    expect([reported.status, reported.body.recorded]).toEqual([202, false]);
    const oversize = await site.call({
      method: 'POST',
      path: `${base}/progress`,
      body: { phase: 'node_bootstrap', state: 'running', message: 'x'.repeat(70_000) },
    });
    expect(oversize.status).toBe(413);
  });

  it('tells strangers, latecomers and holders of a used token the same', async () => {
    const nodeId = await site.register();
    const issued = await site.asOperator('POST', `/api/v1/admin/nodes/${nodeId}/bootstrap-script`);
    const token: string = issued.body.bootstrap_token;
    const keys = await hostKeys();
    expect((await enroll(site, nodeId, keys.csr, token)).status).toBe(200);
    const used = await site.call({ path: `/api/v1/bootstrap/nodes/${token}/script` });
    const stranger = await site.call({ path: '/api/v1/bootstrap/nodes/nonsense/script' });
    expect([used.status, used.body.code]).toEqual([401, 'token_invalid']);
    expect({ ...used.body, correlation_id: '' }).toEqual({ ...stranger.body, correlation_id: '' });
    const report = { method: 'POST', path: `/api/v1/bootstrap/nodes/${token}/progress` };
    const body = { phase: 'node_enrollment', state: 'done' };
    expect((await site.call({ ...report, body })).status).toBe(202);
    clock.advance(3_600_000);
    expect((await site.call({ ...report, body })).status).toBe(401);
  });

  it('has no package to offer where none was built', async () => {
    const bare = await startFleetSite({ roles: ['api'], domains: { agentPackagePath: '/nonexistent/package.tar.gz' } });
    try {
      const nodeId = await bare.register();
      const refused = await bare.asOperator('POST', `/api/v1/admin/nodes/${nodeId}/bootstrap-script`);
      expect([refused.status, refused.body.details.reason]).toEqual([503, 'node_package_unbuilt']);
    } finally {
      await bare.stop();
    }
  });
});

describe('enrolment', () => {
  it('gives one certificate to one of two hosts that race with different keys (check 3)', async () => {
    const nodeId = await site.register();
    const token = await issueToken(nodeId);
    const keys = await Promise.all([hostKeys(), hostKeys(), hostKeys(), hostKeys()]);
    const answers = await Promise.all(keys.map(({ csr }) => enroll(site, nodeId, csr, token)));
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 401, 401, 401]);
    const certificates = await site.db
      .selectFrom('node_certificates')
      .select('id')
      .where('node_id', '=', nodeId)
      .execute();
    expect(certificates).toHaveLength(1);
  });

  it('answers a host again that did not hear the answer, for ten minutes', async () => {
    const nodeId = await site.register();
    const token = await issueToken(nodeId);
    const { csr, privateKey } = await hostKeys();
    const first = await enroll(site, nodeId, csr, token);
    const again = await enroll(site, nodeId, csr, token);
    expect(again.status).toBe(200);
    expect(again.body.certificate).toBe(first.body.certificate);
    expect((await hostOf(site, nodeId, again, privateKey).wait()).status).toBe(204);
    clock.advance(600_001);
    expect((await enroll(site, nodeId, csr, token)).status).toBe(401);
  });

  it('is for the node of the token and no other, and needs one (check 4)', async () => {
    const [mine, other] = [await site.register(), await site.register()];
    const token = await issueToken(mine);
    const { csr } = await hostKeys();
    const foreign = await enroll(site, other, csr, token);
    expect([foreign.status, foreign.body.code]).toEqual([403, 'insufficient_permissions']);
    const nobody = await enroll(site, mine, csr, undefined);
    expect([nobody.status, nobody.body.code]).toEqual([401, 'token_missing']);
    const wrong = await enroll(site, mine, csr, 'nonsense');
    expect([wrong.status, wrong.body.code]).toEqual([401, 'token_invalid']);
    const broken = await enroll(site, mine, 'not a request', token);
    expect([broken.status, broken.body.details.reason]).toEqual([400, 'csr_invalid']);
    expect((await enroll(site, mine, csr, token)).status).toBe(200);
  });

  it('ends an earlier unused token when a new one is issued, and every one with time', async () => {
    const nodeId = await site.register();
    const first = await issueToken(nodeId);
    const second = await issueToken(nodeId);
    const { csr } = await hostKeys();
    expect((await enroll(site, nodeId, csr, first)).status).toBe(401);
    clock.advance(900_000);
    expect((await enroll(site, nodeId, csr, second)).status).toBe(401);
  });

  it('hands the same secret out again to a repeated request, sealed meanwhile', async () => {
    const nodeId = await site.register();
    const path = `/api/v1/admin/nodes/${nodeId}/enrollment-token`;
    const first = await site.asOperator('POST', path, undefined, 'same-key');
    const again = await site.asOperator('POST', path, undefined, 'same-key');
    expect(again.body.enrollment_token).toBe(first.body.enrollment_token);
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    const stored = await site.db.selectFrom('idempotency_keys').selectAll().where('key', '=', 'same-key').execute();
    expect(JSON.stringify(stored)).not.toContain(first.body.enrollment_token);
  });

  it('is reissued only to what was enrolled before', async () => {
    const host = await site.enrolled();
    const path = `/api/v1/admin/nodes/${host.nodeId}/reissue-enrollment`;
    const issued = await site.asOperator('POST', path);
    expect(issued.status).toBe(201);
    expect(issued.body.recovery_bundle.restart_command).toBe('systemctl restart gpuaas-node-agent.service');
    const never = await site.asOperator('POST', `/api/v1/admin/nodes/${await site.register()}/reissue-enrollment`);
    expect([never.status, never.body.details.reason]).toEqual([409, 'node_never_enrolled']);
  });

  it('leaves no secret in the audit', async () => {
    const nodeId = await site.register();
    const token = await issueToken(nodeId);
    const { csr } = await hostKeys();
    const answer = await enroll(site, nodeId, csr, token);
    const rows = await site.db.selectFrom('audit_logs').selectAll().where('target_id', '=', nodeId).execute();
    expect(rows.map((row) => row.action).sort()).toEqual(['node.create', 'node.enroll', 'node.enrollment.token_issue']);
    const text = JSON.stringify(rows);
    expect(text).not.toContain(token);
    expect(text).not.toContain(answer.headers.get('x-node-internal-token'));
  });
});

describe('the identity of a host', () => {
  it('is its certificate on the node listener, and of that node alone (check 4)', async () => {
    const [host, other] = [await site.enrolled(), await site.enrolled()];
    const own = await callWithCertificate(site, host, 'GET', `/internal/v1/nodes/${host.nodeId}/tasks/wait`);
    expect(own.status).toBe(204);
    const foreign = await callWithCertificate(site, host, 'GET', `/internal/v1/nodes/${other.nodeId}/tasks/wait`);
    expect(foreign.status).toBe(403);
    const nobody = await callWithCertificate(site, null, 'GET', `/internal/v1/nodes/${host.nodeId}/tasks/wait`);
    expect([nobody.status, nobody.body]).toMatchObject([401, { code: 'token_missing' }]);
  });

  it('is not an internal token where only certificates count', async () => {
    const strict = await startFleetSite({ roles: ['api'], nodeAuthentication: 'mtls' });
    try {
      const host = await strict.enrolled();
      expect((await host.wait()).status).toBe(401);
      const own = await callWithCertificate(strict, host, 'GET', `/internal/v1/nodes/${host.nodeId}/tasks/wait`);
      expect(own.status).toBe(204);
    } finally {
      await strict.stop();
    }
  });

  it('is renewed with a new key; the old certificate lives until the new one polls', async () => {
    const host = await site.active();
    const { csr, privateKey } = await hostKeys();
    const renew = () =>
      site.call({
        method: 'POST',
        path: `/internal/v1/nodes/${host.nodeId}/cert/renew`,
        token: host.internalToken,
        body: { csr },
      });
    const renewed = await renew();
    expect(renewed.status).toBe(200);
    // Not heard, asked again: one new certificate, not two.
    const again = await renew();
    expect(again.body.certificate).toBe(renewed.body.certificate);
    expect((await host.wait()).status).toBe(204);
    const next = hostOf(site, host.nodeId, again, privateKey);
    expect((await next.wait()).status).toBe(204);
    expect((await host.wait()).status).toBe(401);
    expect((await next.wait()).status).toBe(204);
  });

  it('ends with the certificate', async () => {
    const host = await site.active();
    clock.advance(7 * 24 * 3_600_000);
    const late = await host.wait();
    expect([late.status, late.body.code]).toEqual([401, 'token_expired']);
  });
});
