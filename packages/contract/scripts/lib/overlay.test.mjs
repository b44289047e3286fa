import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { applyOverlay } from './overlay.mjs';

const apply = (document, ...actions) => applyOverlay(document, { actions });

describe('an overlay', () => {
  const document = {
    paths: {
      '/a/{id}': { get: { parameters: [{ $ref: '#/p' }, { name: 'status', in: 'query', schema: { enum: ['x'] } }] } },
    },
    schemas: { A: { required: ['one', 'two', 'three'] }, B: { required: ['two'] } },
  };

  it('merges an update into what its path selects, and leaves the original alone', () => {
    const before = structuredClone(document);
    const { document: changed } = apply(document, {
      target: "$.paths['/a/{id}'].get.parameters[?@.name == 'status' && @.in == 'query'].schema",
      update: { enum: ['y'], default: 'x' },
    });
    expect(changed.paths['/a/{id}'].get.parameters[1].schema).toEqual({ enum: ['x', 'y'], default: 'x' });
    expect(document).toEqual(before);
  });

  it('replaces a reference that it finds by its value', () => {
    const { document: changed } = apply(document, {
      target: "$.paths[*].get.parameters[?@['$ref'] == '#/p']",
      update: { $ref: '#/q' },
    });
    expect(changed.paths['/a/{id}'].get.parameters[0]).toEqual({ $ref: '#/q' });
  });

  it('removes array entries and members, in several places at once', () => {
    const { document: changed } = apply(
      document,
      { target: "$.schemas['A','B'].required[?@ == 'two']", remove: true },
      { target: '$.paths', remove: true },
    );
    expect(changed).toEqual({ schemas: { A: { required: ['one', 'three'] }, B: { required: [] } } });
  });

  it('names the targets that met nothing', () => {
    expect(apply(document, { target: '$.schemas.C', remove: true }).unmatched).toEqual(['$.schemas.C']);
  });

  it('refuses a path that it cannot read instead of guessing', () => {
    for (const target of ['schemas.A', '$.schemas[A]', "$.schemas[?@.a > '1']", '$..schemas'])
      expect(() => apply(document, { target, remove: true })).toThrow(target);
  });

  it('applied twice is applied once', () =>
    fc.assert(
      fc.property(
        fc.dictionary(fc.constantFrom('a', 'b'), fc.array(fc.integer({ max: 3, min: 0 }))),
        fc.array(fc.integer({ max: 3, min: 0 })),
        (target, update) => {
          const overlay = {
            actions: [
              { target: '$[*]', update },
              { target: '$.a', update },
            ],
          };
          const once = applyOverlay(target, overlay).document;
          expect(applyOverlay(once, overlay).document).toEqual(once);
        },
      ),
    ));
});
