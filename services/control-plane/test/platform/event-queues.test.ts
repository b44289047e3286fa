import { randomUUID } from 'node:crypto';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { startTestSite, type TestSite } from '../harness/site.js';
import { until } from '../harness/waiting.js';

let site: TestSite;
let operator: string;
beforeAll(async () => {
  // Without a worker: nobody delivers, so that rows stay as the test has put them.
  site = await startTestSite({ roles: ['api'] });
  operator = await site.operator();
});
afterAll(() => site?.stop());
beforeEach(async () => {
  for (const table of ['dead_letters', 'outbox_events']) await sql`DELETE FROM ${sql.table(table)}`.execute(site.db);
});

interface Seed {
  readonly status?: string;
  readonly type?: string;
  readonly payload?: unknown;
  readonly minutesAgo?: number;
}

async function failedEvent(seed: Seed = {}): Promise<string> {
  const id = randomUUID();
  await sql`
    INSERT INTO outbox_events (id, event_type, aggregate_type, aggregate_id, payload, correlation_id, request_id,
                               trace_id, status, retry_count, attempts_total, occurred_at)
    VALUES (${id}, ${seed.type ?? 'gpuaas.provisioning.requested'}, 'allocation', ${randomUUID()},
            ${JSON.stringify(seed.payload ?? { allocation_id: 'a' })}, 'corr', 'req', 'trace',
            ${seed.status ?? 'failed'}, 12, 12, clock_timestamp() - ${seed.minutesAgo ?? 0} * interval '1 minute')`.execute(
    site.db,
  );
  return id;
}

async function deadLetter(
  eventId: string,
  seed: { consumer?: string; type?: string; payload?: unknown } = {},
): Promise<number> {
  const type = seed.type ?? 'platform.workflow.requested';
  const { rows } = await sql<{ stream_seq: bigint }>`
    INSERT INTO dead_letters (subject, original_topic, event_id, consumer, event_type, correlation_id, payload, error, occurred_at)
    VALUES (${`dlq.${type}`}, ${type}, ${eventId}, ${seed.consumer ?? 'workflow-engine'}, ${type}, 'corr',
            ${JSON.stringify(seed.payload ?? { workflow_id: 'w' })}, 'it failed', clock_timestamp())
    RETURNING stream_seq`.execute(site.db);
  return Number(rows[0]?.stream_seq);
}

const statusOf = async (id: string) =>
  await site.db
    .selectFrom('outbox_events')
    .select(['status', 'retry_count', 'attempts_total'])
    .where('id', '=', id)
    .executeTakeFirstOrThrow();
const get = (path: string, token: string | undefined = operator) => site.call({ path: `/api/v1${path}`, token });
const post = (path: string, key?: string, token: string | undefined = operator) =>
  site.call({ method: 'POST', path: `/api/v1${path}`, token, ...(key !== undefined && { key }) });

const OUTBOX_SPELLINGS = ['/admin/outbox', '/platform/ops/outbox', '/v3/platform/ops/outbox'];
const DLQ_SPELLINGS = ['/admin/dlq/messages', '/platform/ops/dlq/messages', '/v3/platform/ops/dlq/messages'];

describe.each(OUTBOX_SPELLINGS)('failed events under %s', (base) => {
  it('are listed newest first, page by page, without secrets and without those that are not failed', async () => {
    await failedEvent({ status: 'pending' });
    await failedEvent({ status: 'discarded' });
    const ids: string[] = [];
    for (let minutesAgo = 0; minutesAgo < 5; minutesAgo += 1) {
      ids.push(
        await failedEvent({
          minutesAgo,
          payload: { note: 'Bearer abcdefghijklmnop', password: 'hunter2', n: minutesAgo },
        }),
      );
    }
    const walked: string[] = [];
    let cursor: string | null = null;
    do {
      const query: string = cursor === null ? '' : `&cursor=${encodeURIComponent(cursor)}`;
      const page = await get(`${base}/failed?page_size=2${query}`);
      expect(page.status).toBe(200);
      for (const item of page.body.items) {
        expect(JSON.stringify(item.payload)).not.toMatch(/hunter2|abcdefghijklmnop/);
        walked.push(item.id);
      }
      cursor = page.body.pagination.next_cursor;
    } while (cursor !== null);
    expect(walked).toEqual(ids);
  });

  it('go back to the queue or away, once, and leave an audit row', async () => {
    const requeued = await failedEvent();
    const answer = await post(`${base}/${requeued}/requeue`);
    expect(answer.body).toEqual({ ok: true, outbox_event_id: requeued, status: 'pending' });
    expect(await statusOf(requeued)).toEqual({ status: 'pending', retry_count: 0, attempts_total: 12 });
    const discarded = await failedEvent();
    expect((await post(`${base}/${discarded}/discard`)).body.status).toBe('discarded');
    const again = await post(`${base}/${discarded}/requeue`);
    expect(again.status).toBe(409);
    expect(again.body.details.reason).toBe('outbox_event_not_failed');
    const rows = await site.db
      .selectFrom('audit_logs')
      .select(['action', 'result'])
      .where('target_id', 'in', [requeued, discarded])
      .orderBy('occurred_at')
      .execute();
    expect(rows).toEqual([
      { action: 'platform.outbox.requeued', result: 'success' },
      { action: 'platform.outbox.discarded', result: 'success' },
    ]);
  });

  it('are decided once when two operators come at the same time', async () => {
    const id = await failedEvent();
    const answers = await Promise.all([post(`${base}/${id}/requeue`), post(`${base}/${id}/requeue`)]);
    expect(answers.map((answer) => answer.status).sort()).toEqual([200, 409]);
  });

  it('answer 404 for an unknown id and repeat the first answer for a repeated key', async () => {
    const unknown = await post(`${base}/${randomUUID()}/requeue`);
    expect([unknown.status, unknown.body.code, unknown.body.details.reason]).toEqual([
      404,
      'invalid_request',
      'outbox_event_not_found',
    ]);
    const id = await failedEvent();
    const key = randomUUID();
    const first = await post(`${base}/${id}/requeue`, key);
    const second = await post(`${base}/${id}/requeue`, key);
    expect([first.status, second.status]).toEqual([200, 200]);
    expect(second.headers.get('idempotency-replayed')).toBe('true');
    expect(second.body).toEqual(first.body);
  });

  it('are closed to everybody else', async () => {
    const person = await site.signup();
    const id = await failedEvent();
    expect((await get(`${base}/failed`, person.token)).status).toBe(403);
    expect((await post(`${base}/${id}/discard`, undefined, person.token)).status).toBe(403);
    expect((await statusOf(id)).status).toBe('failed');
  });
});

describe.each(DLQ_SPELLINGS)('dead letters under %s', (base) => {
  it('are found by the prefix of their subject, and a cursor holds for its prefix only', async () => {
    const event = await failedEvent();
    const provisioning = [];
    for (const type of ['gpuaas.provisioning.requested', 'gpuaas.provisioning.active', 'gpuaas.provisioningX']) {
      provisioning.push(await deadLetter(await failedEvent(), { type }));
    }
    await deadLetter(event);
    const found = await get(`${base}?subject_prefix=${encodeURIComponent('dlq.gpuaas.provisioning.')}&page_size=1`);
    expect(found.body.items.map((item: { stream_seq: number }) => item.stream_seq)).toEqual([provisioning[1]]);
    // A wildcard of SQL is an ordinary character here.
    expect((await get(`${base}?subject_prefix=dlq.gpuaas_`)).body.items).toEqual([]);
    const cursor = encodeURIComponent(found.body.pagination.next_cursor);
    const next = await get(`${base}?subject_prefix=${encodeURIComponent('dlq.gpuaas.provisioning.')}&cursor=${cursor}`);
    expect(next.body.items.map((item: { stream_seq: number }) => item.stream_seq)).toEqual([provisioning[0]]);
    expect((await get(`${base}?cursor=${cursor}`)).status).toBe(400);
  });

  it('describe a payload that is no object instead of showing it', async () => {
    await deadLetter(await failedEvent(), {
      payload: 'a bare secret: eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdefghij',
    });
    const { body } = await get(base);
    expect(body.items[0].payload).toMatchObject({ encoding: 'json', sha256: expect.stringMatching(/^[0-9a-f]{64}$/) });
  });

  it('go back to their consumer once; the second time they are gone', async () => {
    const event = await failedEvent();
    const seq = await deadLetter(event);
    const { body } = await get(base);
    expect(body.items[0]).toMatchObject({ stream_seq: seq, requeue_enabled: true });
    const answers = await Promise.all([post(`${base}/${seq}/requeue`), post(`${base}/${seq}/requeue`)]);
    expect(answers.map((answer) => answer.status).sort()).toEqual([200, 404]);
    expect(answers.find((answer) => answer.status === 200)?.body).toEqual({
      ok: true,
      stream_seq: seq,
      status: 'requeued',
      target_subject: 'platform.workflow.requested',
    });
    expect((await statusOf(event)).status).toBe('pending');
    expect((await get(base)).body.items).toEqual([]);
  });

  it('cannot go back to a consumer that does not exist any more, but can be let go', async () => {
    const event = await failedEvent();
    const seq = await deadLetter(event, { consumer: 'retired-consumer' });
    expect((await get(base)).body.items[0].requeue_enabled).toBe(false);
    const refused = await post(`${base}/${seq}/requeue`);
    expect([refused.status, refused.body.details.reason]).toEqual([409, 'requeue_disabled']);
    expect((await post(`${base}/${seq}/discard`)).body).toEqual({
      ok: true,
      stream_seq: seq,
      status: 'discarded',
      target_subject: null,
    });
    expect((await statusOf(event)).status).toBe('discarded');
    expect((await post(`${base}/${seq}/discard`)).status).toBe(404);
  });

  it('are not found by a number that names none, and never by a rounded one', async () => {
    expect((await post(`${base}/999999999/requeue`)).status).toBe(404);
    expect((await post(`${base}/0/requeue`)).status).toBe(400);
    expect((await post(`${base}/9007199254740993/requeue`)).status).toBe(400);
    expect((await post(`${base}/one/requeue`)).status).toBe(400);
  });
});

describe('an event that no worker can handle', () => {
  it('ends on both lists and leaves both by one decision', async () => {
    const whole = await startTestSite();
    try {
      const token = await whole.operator();
      // A workflow that nobody knows: its start fails until it is given up.
      const id = randomUUID();
      await sql`
        INSERT INTO outbox_events (id, event_type, aggregate_type, aggregate_id, payload, correlation_id, request_id, trace_id, retry_count)
        VALUES (${id}, 'platform.workflow.requested', 'workflow', 'w', '{"workflow_id":"w","name":"unknown"}', 'c', 'r', 't', 11)`.execute(
        whole.db,
      );
      const failed = await until(async () => {
        const answer = await whole.call({ path: '/api/v1/admin/outbox/failed', token });
        return answer.body.items.find((item: { id: string }) => item.id === id) ?? null;
      });
      expect(failed.retry_count).toBe(12);
      const { body } = await whole.call({ path: '/api/v1/admin/dlq/messages', token });
      expect(body.items[0]).toMatchObject({ subject: 'dlq.platform.workflow.requested', requeue_enabled: true });
      await whole.call({ method: 'POST', path: `/api/v1/admin/outbox/${id}/discard`, token });
      expect((await whole.call({ path: '/api/v1/admin/dlq/messages', token })).body.items).toEqual([]);
    } finally {
      await whole.stop();
    }
  });
});
