import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  errorCodes,
  isOperationId,
  loadOpenApiDocument,
  operationById,
  operationTable,
  validatorsFor,
} from './index.js';

const PROJECT = '7f3b3c1e-6a6e-4b57-9e5c-2b1f0c8f3f8e';
const headers = { 'x-project-id': PROJECT };
const issue = (pointer: string, message: string) => ({ pointer, message });

describe('parameters', () => {
  const memberships = validatorsFor('listV3AccessMemberships');
  const query = (given: Record<string, unknown>) => memberships.parameters({ path: {}, query: given, headers });

  it('are read as their types, with defaults, and without what is not declared', () => {
    expect(query({ page_size: '7', unknown: 'x', search: '12' })).toEqual({
      ok: true,
      path: {},
      query: { page_size: 7, search: '12' },
      headers,
    });
    expect(query({})).toMatchObject({ query: { page_size: 50 } });
  });

  it('that are lists accept repetition, commas and both', () => {
    for (const access_source of ['explicit,project_role', ['explicit', 'project_role'], ['explicit,project_role']])
      expect(query({ access_source })).toMatchObject({
        ok: true,
        query: { access_source: ['explicit', 'project_role'] },
      });
    const empty = query({ access_source: '' });
    expect(empty.ok && 'access_source' in empty.query).toBe(false);
  });

  it.each([
    [{ page_size: '0' }, issue('/query/page_size', 'must be at least 1')],
    [{ page_size: '201' }, issue('/query/page_size', 'must be at most 200')],
    [{ page_size: '0x10' }, issue('/query/page_size', 'must be a whole number')],
    [{ page_size: '1e2' }, issue('/query/page_size', 'must be a whole number')],
    [{ page_size: '' }, issue('/query/page_size', 'must be a whole number')],
    [{ page_size: ['1', '2'] }, issue('/query/page_size', 'must be given once')],
    [{ page_size: { a: '1' } }, issue('/query/page_size', 'must be a plain value')],
    [{ search: 'a\0b' }, issue('/query/search', 'must not contain the NUL character')],
    [
      { access_source: 'explicit,foreign' },
      issue('/query/access_source/1', 'must be one of project_role, tenant_role, explicit, platform_role'),
    ],
  ])('refuse %o', (given, expected) => {
    expect(query(given)).toEqual({ ok: false, issues: [expected] });
  });

  it('refuse a required header that is missing, all at once with the rest', () => {
    expect(memberships.parameters({ path: {}, query: { page_size: 'x' }, headers: {} })).toEqual({
      ok: false,
      issues: [issue('/query/page_size', 'must be a whole number'), issue('/headers/x-project-id', 'is required')],
    });
  });

  it('leave the absence of Idempotency-Key to the caller, but not its form', () => {
    const { parameters } = validatorsFor('submitV3ComputeLaunch');
    expect(parameters({ path: {}, query: {}, headers }).ok).toBe(true);
    expect(parameters({ path: {}, query: {}, headers: { ...headers, 'idempotency-key': 'k'.repeat(129) } })).toEqual({
      ok: false,
      issues: [issue('/headers/idempotency-key', 'must have at most 128 characters')],
    });
  });

  it('of the path may contain slashes where the route ends in a wildcard', () => {
    const { parameters } = validatorsFor('forwardPlatformProxyRoute');
    const given = { path: { '*': 'a/b' }, query: {}, headers: { 'x-gpuaas-proxy-host': 'h' } };
    expect(parameters(given)).toMatchObject({ ok: true, path: { proxy_path: 'a/b' } });
  });

  it('never come from a prototype', () => {
    const path: unknown = Object.create({ allocation_id: PROJECT });
    expect(validatorsFor('getAllocationById').parameters({ path, query: {}, headers })).toEqual({
      ok: false,
      issues: [issue('/path/allocation_id', 'is required')],
    });
  });

  it('are not changed by being read', () => {
    const given = Object.freeze({
      path: Object.freeze({}),
      query: Object.freeze({ page_size: '5' }),
      headers: Object.freeze({ ...headers }),
    });
    memberships.parameters(given);
    expect(given.query).toEqual({ page_size: '5' });
  });
});

describe('a body', () => {
  const allocation = validatorsFor('createAllocation');
  const complete = { requested_count: 1, scheduler_type: 'bare_metal', capacity_shape: 'baremetal' };

  it('is copied and filled with defaults', () => {
    const user = validatorsFor('adminCreateUser');
    const given = Object.freeze({ username: 'ann', password: 'secret' });
    expect(user.body(given)).toEqual({ ok: true, value: { username: 'ann', password: 'secret', role: 'user' } });
    expect(given).toEqual({ username: 'ann', password: 'secret' });
  });

  it('must state what is required even where a default is named', () => {
    const { scheduler_type: _omitted, ...rest } = complete;
    expect(allocation.body(rest)).toMatchObject({ ok: false, issues: [issue('/body/scheduler_type', 'is required')] });
  });

  it('may leave out a currency', () => {
    expect(validatorsFor('createChargeSession').body({ amount_minor: 1000 })).toMatchObject({
      ok: true,
      value: { currency: 'USD' },
    });
  });

  it('names every fault with its place and reason', () => {
    const result = validatorsFor('createProject').body({ name: '', department_id: 'x', 'a/b~c': 1 });
    expect(result).toEqual({
      ok: false,
      issues: expect.arrayContaining([
        issue('/body/name', 'must not be empty'),
        issue('/body/department_id', 'must be a UUID'),
        issue('/body/a~1b~0c', 'is not a known property'),
      ]),
    });
  });

  it('that is missing is refused only where it is required', () => {
    expect(validatorsFor('createProject').body(undefined)).toEqual({
      ok: false,
      issues: [issue('/body', 'is required')],
    });
    expect(validatorsFor('logout').body(undefined)).toEqual({ ok: true, value: undefined });
    expect(validatorsFor('listProjects').body({ any: 1 })).toEqual({ ok: true, value: undefined });
  });

  it('admits null where the contract does, and says nothing of null where another fault is', () => {
    const { body } = validatorsFor('updateV3AccessCredentialCompat');
    expect(body({ status: null })).toMatchObject({ ok: true });
    expect(validatorsFor('createAllocation').body({ ...complete, node_id: null })).toMatchObject({ ok: true });
  });

  it('is refused for what the database or JavaScript would trip over', () => {
    const { body } = validatorsFor('createProject');
    expect(body({ name: 'a\0' })).toEqual({
      ok: false,
      issues: [issue('/body/name', 'must not contain the NUL character')],
    });
    for (const broken of ['a\ud800', '\udfffa']) {
      expect(body({ name: broken })).toEqual({
        ok: false,
        issues: [issue('/body/name', 'must be well-formed Unicode')],
      });
    }
    expect(body({ name: 'whole \u{1f4a5}' })).toMatchObject({ ok: true });
    expect(body(JSON.parse('{"name":"n","__proto__":{"admin":true}}'))).toEqual({
      ok: false,
      issues: [issue('/body/__proto__', 'is not a known property')],
    });
    let deep: unknown = 'end';
    for (let level = 0; level < 50_000; level += 1) deep = [deep];
    expect(body({ name: 'n', deep })).toMatchObject({
      ok: false,
      issues: [{ message: 'must not be nested deeper than 48 levels' }],
    });
  });

  it('is refused for an integer that JSON does not carry exactly', () => {
    const { body } = validatorsFor('createChargeSession');
    expect(body({ amount_minor: 2 ** 53 })).toMatchObject({ ok: false });
    expect(body({ amount_minor: 10 ** 12 })).toMatchObject({ ok: true });
    expect(body({ amount_minor: 10 ** 12 + 1 })).toMatchObject({
      ok: false,
      issues: [issue('/body/amount_minor', 'must be at most 1000000000000')],
    });
    expect(body({ amount_minor: 1.5 })).toMatchObject({ ok: false });
    expect(body({ amount_minor: '5' })).toMatchObject({
      ok: false,
      issues: [issue('/body/amount_minor', 'must be a whole number')],
    });
  });

  it('is refused for an open object that is too large or too deep, but a task may report more', () => {
    const { body } = allocation;
    const with_ = (scheduler_request: unknown) => body({ ...complete, scheduler_request });
    expect(with_({ a: 'x'.repeat(60_000) })).toMatchObject({ ok: true });
    const refused = { ok: false, issues: [issue('/body/scheduler_request', 'is too large or nested too deep')] };
    expect(with_({ a: 'x'.repeat(66_000) })).toEqual(refused);
    expect(with_({ a: { b: { c: { d: { e: { f: { g: { h: { i: 1 } } } } } } } } })).toEqual(refused);
    const task = { status: 'success', completed_at: '2026-01-31T12:00:00Z', output: { log: 'x'.repeat(200_000) } };
    expect(validatorsFor('internalNodeTaskResult').body(task)).toMatchObject({ ok: true });
  });

  it('with very many faults is explained by a bounded list', () => {
    const { body } = validatorsFor('setAllocationSshKeys');
    const few = body({ ssh_key_ids: Array.from({ length: 100 }, () => 'x') });
    expect(!few.ok && few.issues).toHaveLength(20);
    const many = body({ ssh_key_ids: Array.from({ length: 100_000 }, () => 'x') });
    expect(!many.ok && many.issues).toHaveLength(1);
  });

  it('of bytes passes as it is', () => {
    const bytes = Buffer.from([0, 1, 2]);
    expect(validatorsFor('uploadStorageObject').body(bytes)).toEqual({ ok: true, value: bytes });
    expect(validatorsFor('internalNodeLogLokiPush').body(bytes)).toEqual({ ok: true, value: bytes });
    expect(validatorsFor('internalNodeLogLokiPush').body({ streams: [] })).toMatchObject({ ok: true });
  });

  it(
    'never makes a validator throw, whatever it is',
    () =>
      fc.assert(
        fc.property(
          fc.constantFrom(
            ...operationTable.map(({ operationId }) => operationId).filter((_id, index) => index % 20 === 0),
          ),
          fc.jsonValue(),
          (id, value) => {
            const { body, parameters } = validatorsFor(id);
            const result = body(value);
            if (!result.ok) expect(result.issues.length).toBeGreaterThan(0);
            parameters({ path: value, query: value, headers: value });
          },
        ),
        { numRuns: 300 },
      ),
    30_000,
  );
});

describe('formats', () => {
  const expiresAt = (value: string) =>
    validatorsFor('listBillingUsage').parameters({ path: {}, query: { from: value }, headers });

  it.each(['2026-01-31T12:00:00Z', '2026-01-31T12:00:00.123456+02:00', '2024-02-29T23:59:59Z'])(
    'accept the time %s',
    (value) => {
      expect(expiresAt(value).ok).toBe(true);
    },
  );
  it.each([
    '2026-01-31',
    '2026-02-29T12:00:00Z',
    '2026-01-31T12:00:60Z',
    '2026-01-31T12:00:00',
    '0000-01-01T00:00:00Z',
    '2026-1-31T12:00:00Z',
    'now',
  ])('refuse the time %s', (value) => {
    expect(expiresAt(value).ok).toBe(false);
  });
  it.each([
    'urn:uuid:7f3b3c1e-6a6e-4b57-9e5c-2b1f0c8f3f8e',
    '7f3b3c1e6a6e4b579e5c2b1f0c8f3f8e',
    '{7f3b3c1e-6a6e-4b57-9e5c-2b1f0c8f3f8e}',
    '',
  ])('refuse the UUID %s', (value) => {
    expect(
      validatorsFor('getAllocationById').parameters({ path: { allocation_id: value }, query: {}, headers }).ok,
    ).toBe(false);
  });
});

describe('an answer', () => {
  const me = validatorsFor('getMe');
  const user = { id: PROJECT, username: 'ann', role: 'user', balance: { amount_minor: 0, currency: 'USD' } };

  it('is held to the corrected contract', () => {
    expect(me.response(200, user)).toEqual({ ok: true });
    expect(me.response(200, { ...user, org_id: null })).toEqual({ ok: true });
    expect(me.response(200, { ...user, secret: 1 })).toEqual({
      ok: false,
      issues: [issue('/body/secret', 'is not a known property')],
    });
    expect(me.response(201, user)).toMatchObject({ ok: false });
  });

  it('is not filled with defaults', () => {
    const given = { ...user };
    me.response(200, given);
    expect(given).toEqual(user);
  });

  it('of any error status is an ErrorResponse', () => {
    const refusal = { code: 'service_unavailable', message: 'no', correlation_id: 'c' };
    for (const status of [400, 404, 501, 502]) expect(me.response(status, refusal)).toEqual({ ok: true });
    expect(me.response(501, { ...refusal, code: 'invented' })).toMatchObject({
      ok: false,
      issues: [{ pointer: '/body/code' }],
    });
  });

  it('without content carries none', () => {
    const removal = validatorsFor('deleteV3StorageBucket');
    expect(removal.response(204, undefined)).toEqual({ ok: true });
    expect(removal.response(204, {})).toMatchObject({ ok: false });
  });

  it('may be CSV where the contract says so', () => {
    const exported = validatorsFor('adminExportAuditLogsCsv');
    expect(exported.response(200, 'a,b\n')).toEqual({ ok: true });
    expect(exported.response(200, { items: 'none' })).toMatchObject({ ok: false });
  });

  it('with a last page validates', () => {
    const page = { items: [], pagination: { next_cursor: null, page_size: 50 } };
    expect(validatorsFor('listSshKeys').response(200, page)).toEqual({ ok: true });
  });
});

describe('the table', () => {
  it('knows every operation by its id, and no other', () => {
    expect(operationById.size).toBe(operationTable.length);
    expect(isOperationId('getMe')).toBe(true);
    expect(isOperationId('getV3AccountOverviewCompat')).toBe(false);
    expect(isOperationId('constructor')).toBe(false);
  });

  it('says what the corrections made of the headers', () => {
    expect(operationById.get('listSshKeys')?.projectHeader).toBe('optional');
    expect(operationById.get('getV3AccountOverview')?.projectHeader).toBe('optional');
    expect(operationById.get('listAllocations')?.projectHeader).toBe('required');
    expect(operationById.get('internalNodeLogLokiPush')?.security).toBe('node-bearer');
    expect(operationById.get('forwardPlatformProxyRoute')?.routes[0]?.path).toBe(
      '/api/v1/platform-proxy/route-forward/*',
    );
    expect(operationById.get('createV3StorageBucket')?.idempotencyKey).toBe('required');
  });

  it('has 42 error codes, those of the document', () => {
    expect(errorCodes).toHaveLength(42);
    expect(loadOpenApiDocument().components.schemas.ErrorResponse).toMatchObject({
      properties: { code: { enum: errorCodes } },
    });
  });
});
