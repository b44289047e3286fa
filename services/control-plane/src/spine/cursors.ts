import { createHash } from 'node:crypto';
import type { Schema } from '@gpuaas/contract';
import { canonicalJson, equalBytes, hmacSha256 } from '@gpuaas/kernel';
import { badRequest } from './refusal.js';

/** Where a page ends: the sort key of its last row and its id, as text. The store that wrote it reads it back. */
export type Position = readonly (string | null)[];

/** What a cursor is good for; under anything else it is refused. */
export interface ListScope {
  readonly operation: string;
  /** whose list: project, tenant or principal id */
  readonly context: string;
  readonly filters: Readonly<Record<string, unknown>>;
  readonly sort: string;
}

const SIGNATURE_BYTES = 16;

/** Opaque keyset cursors, signed together with the list they belong to (HMAC-SHA-256, 128 bits kept). */
export class CursorCodec {
  readonly #key: Uint8Array;

  /** `key` must be the same in every process that serves the same database. */
  constructor(key: Uint8Array) {
    this.#key = key;
  }

  encode(scope: ListScope, position: Position): string {
    const payload = Buffer.from(JSON.stringify(position), 'utf8');
    return Buffer.concat([this.#sign(scope, payload), payload]).toString('base64url');
  }

  /** Refuses (400) a cursor that was altered or that belongs to another list, filter or order. */
  decode(scope: ListScope, cursor: string): Position {
    const bytes = Buffer.from(cursor, 'base64url');
    const payload = bytes.subarray(SIGNATURE_BYTES);
    const signature = bytes.subarray(0, SIGNATURE_BYTES);
    if (bytes.toString('base64url') !== cursor || !equalBytes(signature, this.#sign(scope, payload))) {
      throw badRequest(
        'cursor_invalid',
        '/query/cursor',
        'is not a cursor of this list with these filters and this order',
      );
    }
    const position: unknown = JSON.parse(payload.toString('utf8'));
    if (!isPosition(position)) throw badRequest('cursor_invalid', '/query/cursor', 'is not a cursor');
    return position;
  }

  #sign(scope: ListScope, payload: Uint8Array): Buffer {
    const list = createHash('sha256')
      .update(canonicalJson(dropAbsent(scope)))
      .digest();
    return hmacSha256(this.#key, Buffer.concat([list, payload])).subarray(0, SIGNATURE_BYTES);
  }
}

export interface PageRequest {
  readonly scope: ListScope;
  /** rows to answer; fetch one more to know whether there is a next page */
  readonly pageSize: number;
  readonly after: Position | null;
}

export const DEFAULT_PAGE_SIZE = 50;

/** Reads `cursor` and `page_size` of a validated query for the list that `scope` describes. */
export function pageRequest(
  ctx: { readonly cursors: CursorCodec },
  scope: ListScope,
  query: { readonly cursor?: string | undefined; readonly page_size?: number | undefined },
): PageRequest {
  return {
    scope,
    pageSize: query.page_size ?? DEFAULT_PAGE_SIZE,
    after: query.cursor === undefined ? null : ctx.cursors.decode(scope, query.cursor),
  };
}

/**
 * Cuts `pageSize + 1` fetched rows to a page and its pagination block.
 * `positionOf` gives the sort key and id of a row, in the order that the store compares them.
 */
export function pageOf<Row>(
  ctx: { readonly cursors: CursorCodec },
  request: PageRequest,
  rows: readonly Row[],
  positionOf: (row: Row) => Position,
): { rows: readonly Row[]; pagination: Schema<'Pagination'> } {
  const page = rows.slice(0, request.pageSize);
  const last = page.at(-1);
  const more = rows.length > request.pageSize && last !== undefined;
  return {
    rows: page,
    pagination: {
      next_cursor: more ? ctx.cursors.encode(request.scope, positionOf(last)) : null,
      page_size: request.pageSize,
    },
  };
}

function isPosition(value: unknown): value is Position {
  return Array.isArray(value) && value.every((part) => part === null || typeof part === 'string');
}

/** Absent filters and undefined ones are one list. */
function dropAbsent(scope: ListScope): ListScope {
  return {
    ...scope,
    filters: Object.fromEntries(Object.entries(scope.filters).filter(([, value]) => value !== undefined)),
  };
}
