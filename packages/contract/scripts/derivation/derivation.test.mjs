import { Ajv2020 } from 'ajv/dist/2020.js';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { auditDocument } from '../lib/audit.mjs';
import { deriveContract } from '../lib/contract.mjs';
import { operationsOf, parametersOf, resolve } from '../lib/document.mjs';
import { buildOperationTable } from '../lib/operation-table.mjs';
import { findDefects } from '../lib/satisfiable.mjs';
import { derive } from './index.mjs';
import { mergeAllOf } from './merge-all-of.mjs';
import { admitNull, nullability } from './nullability.mjs';
import { paging } from './paging.mjs';
import { aliasesOf } from './shapes.mjs';
import { SPELLING_OF, spellings } from './spellings.mjs';

const contract = deriveContract();
const NO_CORRECTIONS = { actions: [] };

/** A document with these schemas and one operation, complete enough for every rule. */
function documentWith(schemas, paths = {}) {
  const parameter = (name, where, schema, required = false) => ({ name, in: where, required, schema });
  return {
    openapi: '3.1.0',
    security: [{ bearerAuth: [] }],
    tags: [],
    paths,
    components: {
      parameters: {
        IdempotencyKey: parameter('Idempotency-Key', 'header', { type: 'string' }),
        Cursor: parameter('cursor', 'query', { type: 'string' }),
        PageSize: parameter('page_size', 'query', { type: 'integer', minimum: 1, maximum: 200, default: 50 }),
        ProjectIdHeader: parameter('X-Project-ID', 'header', { type: 'string' }, true),
      },
      responses: {},
      schemas: { ErrorResponse: { type: 'object', additionalProperties: false, properties: {} }, ...schemas },
    },
  };
}
const operation = (operationId, more = {}) => ({ operationId, responses: { 200: { description: 'OK' } }, ...more });

describe('the derivation of the contract', () => {
  it('leaves nothing for the audit to find', () => {
    expect(auditDocument(contract.document)).toEqual([]);
  }, 60_000);

  it('changes nothing when applied to its own result', () => {
    const again = derive(contract.document, contract.overlay);
    expect(again.document).toEqual(contract.document);
    expect(again.reports.map(({ changes }) => changes.length)).toEqual(contract.reports.map(() => 0));
  });

  it('does not touch the document that it is given', () => {
    const before = JSON.stringify(contract.source);
    derive(contract.source, contract.overlay);
    expect(JSON.stringify(contract.source)).toBe(before);
  });

  it('turns each of the 1387 nullable marks, and has none left', () => {
    const count = (document) => JSON.stringify(document).split('"nullable":').length - 1;
    expect(count(contract.source)).toBe(1387);
    expect(count(contract.document)).toBe(0);
  });

  it('routes all documented operations and the bare spellings', () => {
    const documented = operationsOf(contract.source);
    const table = buildOperationTable(contract.document, new Set(documented.map((one) => one.operation.operationId)));
    const routes = table.flatMap((entry) => entry.routes.map((route) => ({ method: entry.method, ...route })));
    expect(documented).toHaveLength(742);
    expect(routes).toHaveLength(795);
    expect(routes.filter((route) => !route.documented)).toHaveLength(53);
    expect(new Set(routes.map((route) => `${route.method} ${route.path}`)).size).toBe(795);
    expect(new Set(routes.map((route) => route.operationId)).size).toBe(795);
    expect(table).toHaveLength(541);
    expect(table.filter((entry) => entry.idempotencyKey === 'required')).toHaveLength(11);
    expect(table.filter((entry) => entry.idempotencyKey === 'none').every((entry) => entry.method === 'GET')).toBe(
      true,
    );
  });

  it('loses no operation, parameter, property or enum value', () => {
    const { document, source } = contract;
    for (const { path, method, operation: stated } of operationsOf(source)) {
      const derived = document.paths[path][method];
      expect(derived.operationId).toBe(stated.operationId);
      const names = new Set(parametersOf(document, derived).map((one) => `${one.in} ${one.name}`));
      for (const one of parametersOf(source, stated)) expect(names).toContain(`${one.in} ${one.name}`);
      expect(Object.keys(derived.responses)).toEqual(expect.arrayContaining(Object.keys(stated.responses)));
    }
    expect(Object.keys(document.components.schemas)).toEqual(Object.keys(source.components.schemas));
  });
});

describe('nullability', () => {
  const scalar = fc.constantFrom(
    { type: 'string' },
    { type: 'string', enum: ['a', 'b'] },
    { type: 'integer', minimum: 3 },
    { type: 'boolean' },
    { type: 'array', items: { type: 'string' }, minItems: 1 },
    { type: 'object', additionalProperties: false, properties: { x: { type: 'string' } }, required: ['x'] },
    { $ref: '#/components/schemas/Named' },
    { anyOf: [{ type: 'string' }, { type: 'integer' }] },
    {},
    { enum: ['a'] },
  );
  const value = fc.oneof(
    fc.constantFrom('a', 'b', 'c', 3, 0, true, ['a'], [], { x: 'a' }, {}, 'named', null),
    fc.jsonValue(),
  );
  const ajv = new Ajv2020({ strict: false });
  const compile = (schema) => ajv.compile({ ...schema, components: { schemas: { Named: { const: 'named' } } } });

  it('admits null and exactly what was admitted before', () =>
    fc.assert(
      fc.property(scalar, value, (schema, given) => {
        const admitting = compile(admitNull(schema));
        expect(admitting(given)).toBe(given === null || compile(schema)(given));
      }),
    ));

  it('is the same when asked twice', () =>
    fc.assert(
      fc.property(scalar, (schema) => {
        const document = documentWith({
          Named: { type: 'string' },
          S: { type: 'object', properties: { p: { ...schema, nullable: true } } },
        });
        const once = nullability.apply(document).document;
        expect(nullability.apply(once).document).toEqual(once);
        expect(JSON.stringify(once)).not.toContain('nullable');
      }),
    ));

  it('takes nullable false for what it says: nothing', () => {
    const { document } = nullability.apply(documentWith({ S: { type: 'string', nullable: false } }));
    expect(document.components.schemas.S).toEqual({ type: 'string' });
  });

  it('leaves properties alone that are named like words of a schema', () => {
    const schema = {
      type: 'object',
      properties: { nullable: { type: 'string' }, enum: { type: 'string', nullable: true } },
    };
    const { document } = nullability.apply(documentWith({ S: schema }));
    expect(document.components.schemas.S.properties).toEqual({
      nullable: { type: 'string' },
      enum: { type: ['string', 'null'] },
    });
  });
});

describe('merging allOf', () => {
  const closed = (properties, required = Object.keys(properties)) => ({
    type: 'object',
    additionalProperties: false,
    properties,
    required,
  });

  it('makes closed branches one closed object with all properties', () => {
    const { document } = mergeAllOf.apply(
      documentWith({
        Base: closed({ a: { type: 'string' } }),
        Detail: { allOf: [{ $ref: '#/components/schemas/Base' }, closed({ b: { type: 'integer' } })] },
        Deeper: { allOf: [{ $ref: '#/components/schemas/Detail' }, closed({ c: { type: 'boolean' } }, [])] },
      }),
    );
    expect(document.components.schemas.Deeper).toEqual(
      closed({ a: { type: 'string' }, b: { type: 'integer' }, c: { type: 'boolean' } }, ['a', 'b']),
    );
  });

  it('keeps the nullability beside a single branch for the rule that knows it', () => {
    const { document } = mergeAllOf.apply(
      documentWith({ S: { allOf: [{ $ref: '#/components/schemas/ErrorResponse' }], nullable: true } }),
    );
    expect(document.components.schemas.S).toEqual({ $ref: '#/components/schemas/ErrorResponse', nullable: true });
  });

  it('refuses branches that disagree about a property, unless only in words', () => {
    const both = (one, other) => documentWith({ S: { allOf: [closed({ a: one }), closed({ a: other })] } });
    expect(() => mergeAllOf.apply(both({ type: 'string' }, { type: 'integer' }))).toThrow('disagree about a');
    expect(() => mergeAllOf.apply(both({ type: 'string', description: 'x' }, { type: 'string' }))).not.toThrow();
  });
});

describe('spellings', () => {
  it('adds the bare spelling where only the longer one is stated', () => {
    const { document } = spellings.apply(
      documentWith({}, { '/api/v1/v3/things': { post: operation('makeThingCompat') } }),
    );
    expect(document.paths['/api/v1/things'].post).toMatchObject({
      operationId: 'makeThing',
      [SPELLING_OF]: 'makeThingCompat',
    });
  });

  it('folds two stated spellings into the bare one, and asks for a header only where both do', () => {
    const header = { $ref: '#/components/parameters/ProjectIdHeader' };
    const { document, changedFacts } = spellings.apply(
      documentWith(
        {},
        {
          '/api/v1/things': { get: operation('listThings', { summary: 'List things' }) },
          '/api/v1/v3/things': { get: operation('listThingsCompat', { parameters: [header] }) },
        },
      ),
    );
    const twin = document.paths['/api/v1/v3/things'].get;
    expect(twin).toMatchObject({ [SPELLING_OF]: 'listThings', summary: 'List things' });
    for (const path of ['/api/v1/things', '/api/v1/v3/things'])
      expect(parametersOf(document, document.paths[path].get)).toEqual([
        expect.objectContaining({ name: 'X-Project-ID', required: false }),
      ]);
    expect(changedFacts).toEqual(['GET /api/v1/v3/things header X-Project-ID: required false']);
  });

  it('keeps spellings apart that answer differently', () => {
    const other = { responses: { 200: { content: { 'application/json': { schema: { type: 'string' } } } } } };
    const { document } = spellings.apply(
      documentWith(
        {},
        { '/api/v1/things': { get: operation('a') }, '/api/v1/v3/things': { get: operation('b', other) } },
      ),
    );
    expect(document.paths['/api/v1/v3/things'].get[SPELLING_OF]).toBeUndefined();
  });
});

describe('paging', () => {
  const list = (properties, parameters = []) =>
    operation('list', {
      parameters,
      responses: { 200: { content: { 'application/json': { schema: { type: 'object', properties } } } } },
    });
  const pageSizeOf = (item) => {
    const { document } = paging.apply(documentWith({}, { '/api/v1/things': { get: item } }));
    const own = parametersOf(document, document.paths['/api/v1/things'].get);
    return { names: own.map(({ name }) => name), pageSize: own.find(({ name }) => name === 'page_size')?.schema };
  };
  const items = { type: 'array', items: { type: 'string' } };

  it('adds cursor and a page size with its default to a list that can name its next page', () => {
    const { names, pageSize } = pageSizeOf(list({ items, pagination: {} }));
    expect(names).toEqual(['cursor', 'page_size']);
    expect(pageSize.default).toBe(50);
  });

  it('adds a page size without a default where absence means everything', () => {
    expect(pageSizeOf(list({ items })).pageSize).toEqual({ type: 'integer', minimum: 1, maximum: 200 });
  });

  it('keeps declared bounds, and a default that the maximum allows', () => {
    const declared = { name: 'page_size', in: 'query', schema: { type: 'integer', minimum: 1, maximum: 25 } };
    expect(pageSizeOf(list({ items, pagination: {} }, [declared])).pageSize).toEqual({
      type: 'integer',
      minimum: 1,
      maximum: 25,
      default: 25,
    });
  });

  it('leaves what is no list as it is', () => {
    expect(pageSizeOf(list({ count: { type: 'integer' } })).names).toEqual([]);
  });
});

describe('schemas of one shape', () => {
  it('are aliases whatever the order of keys and enum values', () => {
    const aliases = aliasesOf(
      documentWith({
        A: { type: 'object', properties: { x: { type: 'string', enum: ['a', 'b'] } } },
        B: { properties: { x: { enum: ['b', 'a'], type: 'string' } }, type: 'object' },
        C: { type: 'object', properties: { x: { type: 'string', enum: ['a'] } } },
      }),
    );
    expect([...aliases]).toEqual([['B', 'A']]);
  });

  it('of the contract are found through references too', () => {
    const aliases = aliasesOf(contract.document);
    expect(aliases.get('SignupResponse')).toBe('AuthSessionResponse');
    expect(aliases.get('HealthResponse')).toBe('OkResponse');
    expect(aliases.get('ProjectAccessCredential')).toBe('AdminAccessCredential');
    expect(aliases.has('LoginResponse')).toBe(false);
  });
});

describe('without its corrections', () => {
  it('the contract has schemas that admit nothing', () => {
    const { document } = derive(contract.source, NO_CORRECTIONS);
    const schema = document.components.schemas.BillingAccountResponse;
    expect(findDefects(document, schema, 'account')).toEqual(['account: requires display_name, which it forbids']);
  });

  it('a billing account with both names is valid after them', () => {
    const account = resolve(contract.document, { $ref: '#/components/schemas/BillingAccountResponse' });
    expect(account.required).toContain('display_name');
    expect(Object.keys(account.properties)).toEqual(expect.arrayContaining(['name', 'display_name']));
  });
});
