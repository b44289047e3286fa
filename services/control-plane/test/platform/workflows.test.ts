import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestSite, type TestSite } from '../harness/site.js';

let site: TestSite;
let operator: string;
beforeAll(async () => {
  site = await startTestSite({ roles: ['api'] });
  operator = await site.operator();
});
afterAll(() => site?.stop());

async function run(values: Partial<Record<string, unknown>> = {}): Promise<string> {
  const id = randomUUID();
  await site.db
    .insertInto('workflow_runs')
    .values({ workflow_id: id, name: 'test.workflow', family: 'provisioning', resource_type: 'allocation', ...values })
    .execute();
  return id;
}
const search = (query: string) => site.call({ path: `/api/v1/platform/workflows?${query}`, token: operator });
const idsOf = (body: { items: { workflow_id: string }[] }) => body.items.map((item) => item.workflow_id);

describe.each(['', '/v3'])('GET /api/v1%s/platform/workflows', (prefix) => {
  const ask = (query: string) => site.call({ path: `/api/v1${prefix}/platform/workflows?${query}`, token: operator });

  it('refuses a search over everything', async () => {
    for (const query of [
      '',
      'family=provisioning',
      'time_range=24h',
      'status=running',
      'status=running&time_range=7d',
    ]) {
      const answer = await ask(query);
      expect([query, answer.status, answer.body.details?.reason]).toEqual([query, 400, 'filter_required']);
    }
    expect((await ask('family=provisioning&time_range=7d')).status).toBe(200);
  });

  it('refuses ranges that contradict themselves', async () => {
    const reasons: [string, string][] = [
      ['family=provisioning&from=2026-01-01T00:00:00Z&to=2026-01-09T00:00:00Z', 'time_range_too_long'],
      ['family=provisioning&from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z', 'time_range_empty'],
      ['family=provisioning&time_range=24h&from=2026-01-02T00:00:00Z', 'time_range_conflict'],
      ['family=provisioning&time_range=custom', 'time_range_incomplete'],
    ];
    for (const [query, reason] of reasons) {
      const answer = await ask(query);
      expect([query, answer.status, answer.body.details?.reason]).toEqual([query, 400, reason]);
    }
  });

  it('finds by each owner, target and correlation, and by nothing that is not its own', async () => {
    const correlation_id = randomUUID();
    const owner = { tenant_id: randomUUID(), project_id: randomUUID(), actor_user_id: randomUUID() };
    const target = { allocation_id: randomUUID(), node_id: randomUUID() };
    const id = await run({ ...owner, ...target, correlation_id, run_id: randomUUID() });
    await run({ correlation_id: randomUUID() });
    for (const query of [
      `workflow_id=${id}`,
      `org_id=${owner.tenant_id}`,
      `project_id=${owner.project_id}`,
      `actor_user_id=${owner.actor_user_id}`,
      `allocation_id=${target.allocation_id}`,
      `node_id=${target.node_id}`,
      `correlation_id=${correlation_id}`,
    ]) {
      expect([query, idsOf((await ask(query)).body)]).toEqual([query, [id]]);
    }
    expect(idsOf((await ask(`correlation_id=${correlation_id}&family=reconciliation`)).body)).toEqual([]);
    expect(idsOf((await ask('node_id=not-a-uuid')).body)).toEqual([]);
  });
});

describe('the status of a workflow', () => {
  it('is told in the words of the contract and filtered by them', async () => {
    const correlation_id = randomUUID();
    const cases = {
      pending: 'running',
      compensating: 'running',
      reconciled: 'completed',
      failed_manual_intervention: 'failed',
      failed_retryable: 'failed',
      timed_out: 'timed_out',
      terminated: 'terminated',
      cancelled: 'cancelled',
    };
    for (const status of Object.keys(cases)) await run({ correlation_id, status });
    const { body } = await search(`correlation_id=${correlation_id}`);
    expect(body.items.map((item: { status: string }) => item.status).sort()).toEqual(Object.values(cases).sort());
    expect((await search(`correlation_id=${correlation_id}&status=running`)).body.items.length).toBe(2);
    expect((await search(`correlation_id=${correlation_id}&status=unknown`)).body.items).toEqual([]);
  });
});

describe('the pages of a search', () => {
  it('cover everything once, newest first, and their cursor holds for this search only', async () => {
    const correlation_id = randomUUID();
    const ids: string[] = [];
    const now = Date.now();
    for (let age = 0; age < 7; age += 1)
      ids.push(await run({ correlation_id, created_at: new Date(now - age * 1000) }));
    const walked: string[] = [];
    let cursor: string | null = null;
    do {
      const query: string = cursor === null ? '' : `&cursor=${encodeURIComponent(cursor)}`;
      const { body } = await search(`correlation_id=${correlation_id}&page_size=3${query}`);
      walked.push(...idsOf(body));
      expect(body.meta).toMatchObject({ sources: ['product_record'], temporal_search_attributes_enabled: false });
      cursor = body.pagination.next_cursor ?? null;
      if (cursor !== null) {
        expect((await search(`correlation_id=other&cursor=${encodeURIComponent(cursor)}`)).status).toBe(400);
      }
    } while (cursor !== null);
    expect(walked).toEqual(ids);
  });
});
