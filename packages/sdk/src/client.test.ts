import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { ApiError, createClient } from './index.js';

interface Answer {
  status: number;
  headers?: Record<string, string>;
  body?: string;
}

interface Seen {
  method: string;
  url: string;
  headers: IncomingMessage['headers'];
  body: string;
}

const servers: Server[] = [];
afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => new Promise((done) => server.close(done))));
});

/** A service that gives these answers in turn, and what it was asked. */
async function serviceAnswering(...answers: Answer[]): Promise<{ baseUrl: string; seen: Seen[] }> {
  const seen: Seen[] = [];
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      seen.push({
        method: request.method ?? '',
        url: request.url ?? '',
        headers: request.headers,
        body: Buffer.concat(chunks).toString(),
      });
      const answer = answers[Math.min(seen.length, answers.length) - 1];
      response.writeHead(answer?.status ?? 500, { connection: 'close', ...answer?.headers }).end(answer?.body);
    });
  });
  servers.push(server);
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready));
  const { port }: Pick<AddressInfo, 'port'> = addressOf(server);
  return { baseUrl: `http://127.0.0.1:${port}/`, seen };
}

function addressOf(server: Server): AddressInfo {
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('the server has no port');
  return address;
}

const json = (status: number, value: unknown, headers: Record<string, string> = {}): Answer => ({
  status,
  headers: { 'content-type': 'application/json; charset=utf-8', ...headers },
  body: JSON.stringify(value),
});
const refusal = (status: number, code: string, headers: Record<string, string> = {}) =>
  json(
    status,
    { code, message: 'no', details: { reason: 'because' }, correlation_id: 'c-1' },
    { 'x-request-id': 'r-1', ...headers },
  );

const PROJECT = '7f3b3c1e-6a6e-4b57-9e5c-2b1f0c8f3f8e';

describe('a call', () => {
  it('sends path, query, headers, token and body as the operation wants them', async () => {
    const { baseUrl, seen } = await serviceAnswering(json(202, {}));
    const api = createClient({ baseUrl, token: async () => 'secret' });
    await api.call('releaseAllocation', {
      path: { allocation_id: 'a/b c' },
      projectId: PROJECT,
      idempotencyKey: 'k-1',
      headers: { 'X-Request-Id': 'mine' },
    });
    expect(seen[0]).toMatchObject({ method: 'POST', url: '/api/v1/allocations/a%2Fb%20c/release', body: '' });
    expect(seen[0]?.headers).toMatchObject({
      authorization: 'Bearer secret',
      'x-project-id': PROJECT,
      'idempotency-key': 'k-1',
      'x-request-id': 'mine',
    });
    expect(seen[0]?.headers['content-type']).toBeUndefined();
  });

  it('repeats a query parameter that has several values and leaves out absent ones', async () => {
    const { baseUrl, seen } = await serviceAnswering(json(200, { items: [] }));
    await createClient({ baseUrl }).call('listV3AccessMemberships', {
      projectId: PROJECT,
      query: { access_source: ['explicit', 'project_role'], search: 'ann & bob' },
    });
    expect(seen[0]?.url).toBe(
      '/api/v1/access/memberships?access_source=explicit&access_source=project_role&search=ann+%26+bob',
    );
    expect(seen[0]?.headers.authorization).toBeUndefined();
  });

  it('gives the JSON of a success with its status and headers', async () => {
    const { baseUrl, seen } = await serviceAnswering(json(201, { id: 'p' }, { 'idempotency-replayed': 'true' }));
    const result = await createClient({ baseUrl }).call('createProject', { body: { name: 'n' } });
    expect(result.status).toBe(201);
    expect(result.body).toEqual({ id: 'p' });
    expect(result.headers.get('idempotency-replayed')).toBe('true');
    expect(seen[0]?.headers['content-type']).toBe('application/json');
    expect(JSON.parse(seen[0]?.body ?? '')).toEqual({ name: 'n' });
  });

  it('gives text as text and bytes as bytes', async () => {
    const csv = await serviceAnswering({ status: 200, headers: { 'content-type': 'text/csv' }, body: 'a,b\n' });
    expect((await createClient(csv).call('adminExportAuditLogsCsv')).body).toBe('a,b\n');
    const file = await serviceAnswering({
      status: 200,
      headers: { 'content-type': 'application/octet-stream' },
      body: 'xyz',
    });
    const { body } = await createClient(file).call('downloadStorageObject', {
      projectId: PROJECT,
      query: { path: 'a.txt' },
    });
    expect(body).toEqual(new TextEncoder().encode('xyz'));
  });

  it('uploads bytes and forms in the media type of the operation', async () => {
    const { baseUrl, seen } = await serviceAnswering(json(200, { ok: true }));
    const api = createClient({ baseUrl });
    await api.call('uploadStorageObject', { query: { path: 'a' }, body: new TextEncoder().encode('data') });
    expect(seen[0]).toMatchObject({ body: 'data', headers: { 'content-type': 'application/octet-stream' } });
    await api.call('exchangeSamlAssertion', { body: { SAMLResponse: 'a+b', RelayState: 'c d' } });
    expect(seen[1]).toMatchObject({
      body: 'SAMLResponse=a%2Bb&RelayState=c+d',
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
    });
  });

  it('refuses a path parameter that would lead elsewhere, before anything is sent', async () => {
    const { baseUrl, seen } = await serviceAnswering(json(200, {}));
    for (const allocation_id of ['..', '.', ''])
      await expect(createClient({ baseUrl }).call('getAllocationById', { path: { allocation_id } })).rejects.toThrow(
        TypeError,
      );
    expect(seen).toEqual([]);
  });
});

describe('a refusal', () => {
  it('is thrown with status, code, details and request id', async () => {
    const { baseUrl } = await serviceAnswering(refusal(404, 'allocation_not_found'));
    const error = await createClient({ baseUrl })
      .call('getAllocationById', { path: { allocation_id: 'x' } })
      .catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(ApiError);
    expect(error).toMatchObject({
      status: 404,
      code: 'allocation_not_found',
      message: 'no',
      details: { reason: 'because' },
      requestId: 'r-1',
    });
  });

  it('of something in between is an upstream error', async () => {
    const { baseUrl } = await serviceAnswering({
      status: 502,
      headers: { 'content-type': 'text/html' },
      body: '<html>',
    });
    await expect(createClient({ baseUrl }).call('getMe')).rejects.toMatchObject({
      status: 502,
      code: 'upstream_error',
    });
  });

  it('is also a success status that the contract does not name', async () => {
    const { baseUrl } = await serviceAnswering(json(206, {}));
    await expect(createClient({ baseUrl }).call('getMe')).rejects.toMatchObject({
      status: 206,
      code: 'upstream_error',
    });
  });
});

describe('trying again', () => {
  it('a read goes on after 503 and 429 as Retry-After says', async () => {
    const { baseUrl, seen } = await serviceAnswering(
      refusal(503, 'service_unavailable', { 'retry-after': '0' }),
      refusal(429, 'rate_limit_exceeded', { 'retry-after': '0' }),
      json(200, { id: 'u' }),
    );
    expect((await createClient({ baseUrl }).call('getMe')).body).toEqual({ id: 'u' });
    expect(seen).toHaveLength(3);
  });

  it('ends after the agreed number of tries', async () => {
    const { baseUrl, seen } = await serviceAnswering(refusal(503, 'service_unavailable', { 'retry-after': '0' }));
    await expect(createClient({ baseUrl, maximumRetries: 1 }).call('getMe')).rejects.toMatchObject({ status: 503 });
    expect(seen).toHaveLength(2);
  });

  it('does not wait longer than agreed', async () => {
    const { baseUrl, seen } = await serviceAnswering(refusal(429, 'rate_limit_exceeded', { 'retry-after': '3600' }));
    await expect(createClient({ baseUrl }).call('getMe')).rejects.toMatchObject({ retryAfterSeconds: 3600 });
    expect(seen).toHaveLength(1);
  });

  it('never repeats a mutation', async () => {
    const { baseUrl, seen } = await serviceAnswering(refusal(503, 'service_unavailable', { 'retry-after': '0' }));
    await expect(createClient({ baseUrl }).call('createProject', { body: { name: 'n' } })).rejects.toMatchObject({
      status: 503,
    });
    expect(seen).toHaveLength(1);
  });

  it('stops waiting when the caller gives up', async () => {
    const { baseUrl } = await serviceAnswering(refusal(503, 'service_unavailable', { 'retry-after': '9' }));
    const controller = new AbortController();
    const call = createClient({
      baseUrl,
      fetch: async (...request) => {
        const response = await fetch(...request);
        queueMicrotask(() => controller.abort(new Error('enough')));
        return response;
      },
    }).call('getMe', { signal: controller.signal });
    await expect(call).rejects.toThrow('enough');
  });
});
