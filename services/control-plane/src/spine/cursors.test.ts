import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CursorCodec, type ListScope, pageOf, pageRequest } from './cursors.js';
import { Refusal } from './refusal.js';

const cursors = new CursorCodec(Buffer.alloc(32, 7));
const scope: ListScope = {
  operation: 'listAllocations',
  context: 'p1',
  filters: { status: 'active' },
  sort: 'created_at_desc',
};
const position = fc.array(fc.option(fc.string(), { nil: null }), { maxLength: 4 });

describe('cursors', () => {
  it('give back the position they were made from', () => {
    fc.assert(
      fc.property(position, (at) => {
        expect(cursors.decode(scope, cursors.encode(scope, at))).toEqual(at);
      }),
    );
  });

  it('are refused under another operation, context, filter, order or key', () => {
    const cursor = cursors.encode(scope, ['a', 'b']);
    const others: ListScope[] = [
      { ...scope, operation: 'listProjects' },
      { ...scope, context: 'p2' },
      { ...scope, filters: {} },
      { ...scope, filters: { status: 'released' } },
      { ...scope, sort: 'created_at_asc' },
    ];
    for (const other of others) expect(() => cursors.decode(other, cursor)).toThrow(Refusal);
    expect(() => new CursorCodec(Buffer.alloc(32, 8)).decode(scope, cursor)).toThrow(Refusal);
  });

  it('are refused after any change of a character', () => {
    const cursor = cursors.encode(scope, ['2026-01-01T00:00:00.000Z', 'id']);
    fc.assert(
      fc.property(fc.nat(cursor.length - 1), fc.constantFrom(...'abcXYZ019-_'), (index, letter) => {
        fc.pre(cursor[index] !== letter);
        expect(() => cursors.decode(scope, cursor.slice(0, index) + letter + cursor.slice(index + 1))).toThrow(Refusal);
      }),
    );
  });

  it('take an absent filter and an undefined one for the same list', () => {
    const cursor = cursors.encode({ ...scope, filters: { status: 'active', search: undefined } }, ['x']);
    expect(cursors.decode(scope, cursor)).toEqual(['x']);
  });
});

describe('a walk over pages', () => {
  it('sees each row exactly once, whatever the page size', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.nat(500), { maxLength: 40 }), fc.integer({ min: 1, max: 10 }), (ids, pageSize) => {
        const rows = [...ids].sort((left, right) => left - right);
        const seen: number[] = [];
        let cursor: string | undefined;
        do {
          const request = pageRequest({ cursors }, scope, { cursor, page_size: pageSize });
          const after = request.after?.[0];
          const fetched = rows.filter((id) => after == null || id > Number(after)).slice(0, request.pageSize + 1);
          const page = pageOf({ cursors }, request, fetched, (id) => [String(id)]);
          seen.push(...page.rows);
          cursor = page.pagination.next_cursor ?? undefined;
        } while (cursor !== undefined);
        expect(seen).toEqual(rows);
      }),
    );
  });
});
