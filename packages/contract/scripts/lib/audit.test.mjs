import { describe, expect, it } from 'vitest';
import { auditDocument } from './audit.mjs';

const errors = Object.fromEntries(
  [400, 401, 403, 404, 409, 413, 415, 429, 500, 503].map((status) => [status, { description: 'refused' }]),
);
const document = (schemas, operation = {}, path = '/a') => ({
  tags: [{ name: 'T' }],
  paths: { [path]: { get: { operationId: 'getA', summary: 'Get A', tags: ['T'], responses: errors, ...operation } } },
  components: { parameters: {}, responses: {}, schemas },
});
const findings = (schema) => auditDocument(document({ S: schema }));
const object = (properties, more = {}) => ({ type: 'object', additionalProperties: false, properties, ...more });

describe('the audit', () => {
  it('has nothing to say about a sound document', () => {
    expect(
      findings(
        object(
          { a: { type: ['string', 'null'], enum: ['x', null] }, b: { type: 'integer', minimum: 1, default: 1 } },
          { required: ['a'] },
        ),
      ),
    ).toEqual([]);
  });

  it.each([
    ['a nullable mark', { type: 'string', nullable: true }, 'nullable is left over'],
    [
      'a dangling reference',
      object({ a: { $ref: '#/components/schemas/Gone' } }),
      'dangling reference #/components/schemas/Gone',
    ],
    [
      'a required name that is forbidden',
      object({ a: { type: 'string' } }, { required: ['b'] }),
      'requires b, which it forbids',
    ],
    [
      'words beside a reference',
      object({ a: { $ref: '#/components/schemas/S', type: 'object' } }),
      'words beside a reference',
    ],
    ['allOf', { allOf: [{ type: 'string' }] }, 'allOf is left over'],
    ['a default outside its enum', { type: 'string', enum: ['a'], default: 'b' }, 'default b is not in the enum'],
    ['a default out of bounds', { type: 'integer', maximum: 5, default: 6 }, 'default 6 is out of bounds'],
    ['inverted bounds', { type: 'string', minLength: 3, maxLength: 2 }, 'minLength above maxLength'],
    [
      'null without a place in the enum',
      { type: ['string', 'null'], enum: ['a'] },
      'null is among the types but not in the enum',
    ],
    ['an enum value of another type', { type: 'string', enum: [1] }, 'an enum value of another type'],
    ['an array of anything', { type: 'array' }, 'an array without items'],
    ['a word that nobody taught it', { type: 'string', contentEncoding: 'x' }, 'unknown word contentEncoding'],
    [
      'a length that its pattern cannot have',
      { type: 'string', pattern: '^a$', minLength: 2 },
      'no value was found for it',
    ],
    [
      'an object that requires itself',
      object({ a: { $ref: '#/components/schemas/S' } }, { required: ['a'] }),
      'no value was found for it',
    ],
  ])('finds %s', (_name, schema, expected) => {
    expect(findings(schema).join('\n')).toContain(expected);
  });

  it('finds operations that share an id, lack an error answer, a summary or a path parameter', () => {
    const { 409: _conflict, ...fewer } = errors;
    const broken = document({}, { summary: '', tags: ['U'], responses: fewer }, '/a/{id}');
    broken.paths['/b'] = { get: { operationId: 'getA', summary: 'x', responses: errors } };
    expect(auditDocument(broken)).toEqual(
      expect.arrayContaining([
        'GET /a/{id}: no summary',
        'GET /a/{id}: undeclared tag U',
        'GET /a/{id}: no 409',
        'GET /a/{id}: path parameter id is not declared',
        'GET /b: operationId getA is taken',
      ]),
    );
  });
});
