import { asId, newId, type ProjectId, type SshKeyId, type UserId } from '@gpuaas/kernel';
import { sql } from 'kysely';
import type { Reader, Tx } from '../../../spine/operation.js';
import { badRequest, notFound } from '../../../spine/refusal.js';
import { guarded } from './constraints.js';

/** Whose keys: a person's own, or those of a project. */
export type KeyOwner =
  | { readonly scope: 'user'; readonly userId: UserId }
  | { readonly scope: 'project'; readonly projectId: ProjectId };

export interface SshKeyRow {
  readonly id: SshKeyId;
  readonly ownerScope: 'user' | 'project';
  readonly userId: string | null;
  readonly projectId: string | null;
  readonly createdByServiceAccountId: string | null;
  readonly name: string;
  readonly publicKey: string;
  readonly fingerprint: string;
  readonly isDefault: boolean;
  readonly lastUsedAt: Date | null;
  readonly createdAt: Date;
  readonly revokedAt: Date | null;
}

const COLUMNS = [
  'id',
  'owner_scope',
  'user_id',
  'project_id',
  'created_by_service_account_id',
  'name',
  'public_key',
  'fingerprint',
  'is_default',
  'last_used_at',
  'created_at',
  'revoked_at',
] as const;

function keysOf(reader: Reader, owner: KeyOwner) {
  const keys = reader.selectFrom('ssh_keys').where('owner_scope', '=', owner.scope);
  return owner.scope === 'user'
    ? keys.where('user_id', '=', owner.userId)
    : keys.where('project_id', '=', owner.projectId);
}

type Row = {
  id: string;
  owner_scope: 'user' | 'project';
  user_id: string | null;
  project_id: string | null;
  created_by_service_account_id: string | null;
  name: string;
  public_key: string;
  fingerprint: string;
  is_default: boolean;
  last_used_at: Date | null;
  created_at: Date;
  revoked_at: Date | null;
};

const toKey = (row: Row): SshKeyRow => ({
  id: asId(row.id),
  ownerScope: row.owner_scope,
  userId: row.user_id,
  projectId: row.project_id,
  createdByServiceAccountId: row.created_by_service_account_id,
  name: row.name,
  publicKey: row.public_key,
  fingerprint: row.fingerprint,
  isDefault: row.is_default,
  lastUsedAt: row.last_used_at,
  createdAt: row.created_at,
  revokedAt: row.revoked_at,
});

export const SSH_KEY_SORTS = [
  'created_at_desc',
  'created_at_asc',
  'last_used_at_desc',
  'last_used_at_asc',
  'name_asc',
  'name_desc',
  'status_asc',
] as const;
export type SshKeySort = (typeof SSH_KEY_SORTS)[number];

export interface SshKeyFilter {
  readonly status: 'active' | 'revoked' | null;
  readonly lastUsed: 'used' | 'never' | null;
  readonly search: string | null;
  readonly sort: SshKeySort;
}

/** Sort keys as text that compares in byte order like the values do; absent times come last in either direction. */
const SORT_KEY: Readonly<Record<SshKeySort, { text: string; direction: 'asc' | 'desc' }>> = {
  created_at_desc: { text: `to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US')`, direction: 'desc' },
  created_at_asc: { text: `to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US')`, direction: 'asc' },
  last_used_at_desc: {
    text: `COALESCE(to_char(last_used_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), '')`,
    direction: 'desc',
  },
  last_used_at_asc: {
    text: `COALESCE(to_char(last_used_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), '~')`,
    direction: 'asc',
  },
  name_asc: { text: 'name', direction: 'asc' },
  name_desc: { text: 'name', direction: 'desc' },
  status_asc: { text: `CASE WHEN revoked_at IS NULL THEN 'active' ELSE 'revoked' END`, direction: 'asc' },
};

/** One owner's keys; few enough that sorting them needs no index of its own. */
export async function findSshKeys(
  reader: Reader,
  owner: KeyOwner,
  filter: SshKeyFilter,
  after: { key: string; id: string } | null,
  limit: number,
): Promise<readonly (SshKeyRow & { readonly sortKey: string })[]> {
  const { text, direction } = SORT_KEY[filter.sort];
  const sortKey = sql<string>`(${sql.raw(text)}) COLLATE "C"`;
  const beyond = sql.raw(direction === 'asc' ? '>' : '<');
  const pattern = filter.search === null ? null : `%${filter.search.replace(/[\\%_]/g, '\\$&')}%`;
  const rows = await keysOf(reader, owner)
    .select([...COLUMNS, sortKey.as('sort_key')])
    .$if(filter.status === 'active', (query) => query.where('revoked_at', 'is', null))
    .$if(filter.status === 'revoked', (query) => query.where('revoked_at', 'is not', null))
    .$if(filter.lastUsed === 'used', (query) => query.where('last_used_at', 'is not', null))
    .$if(filter.lastUsed === 'never', (query) => query.where('last_used_at', 'is', null))
    .$if(pattern !== null, (query) =>
      query.where((eb) => eb.or([eb('name', 'ilike', pattern ?? ''), eb('fingerprint', 'ilike', pattern ?? '')])),
    )
    .$if(after !== null, (query) =>
      query.where(sql<boolean>`(${sortKey}, id) ${beyond} (${after?.key}, ${after?.id}::uuid)`),
    )
    .orderBy(sortKey, direction)
    .orderBy('id', direction)
    .limit(limit)
    .execute();
  return rows.map((row) => ({ ...toKey(row), sortKey: row.sort_key }));
}

export async function countLiveSshKeys(tx: Tx, owner: KeyOwner): Promise<number> {
  const row = await keysOf(tx, owner)
    .select((eb) => eb.fn.countAll<bigint>().as('count'))
    .where('revoked_at', 'is', null)
    .executeTakeFirstOrThrow();
  return Number(row.count);
}

/** Refuses with 409 `ssh_key_exists`. */
export async function insertSshKey(
  tx: Tx,
  owner: KeyOwner,
  key: {
    name: string;
    publicKey: string;
    fingerprint: string;
    isDefault: boolean;
    createdByUserId: string | null;
    createdByServiceAccountId: string | null;
    now: Date;
  },
): Promise<SshKeyRow> {
  const row = await guarded(
    tx
      .insertInto('ssh_keys')
      .values({
        id: newId(),
        owner_scope: owner.scope,
        user_id: owner.scope === 'user' ? owner.userId : null,
        project_id: owner.scope === 'project' ? owner.projectId : null,
        created_by_user_id: key.createdByUserId,
        created_by_service_account_id: key.createdByServiceAccountId,
        name: key.name,
        public_key: key.publicKey,
        fingerprint: key.fingerprint,
        is_default: key.isDefault,
        created_at: key.now,
      })
      .returning(COLUMNS)
      .executeTakeFirstOrThrow(),
  );
  return toKey(row);
}

/** Locks a live key of the owner; unknown, revoked and foreign ones are the same 404. */
export async function lockSshKey(tx: Tx, owner: KeyOwner, id: string): Promise<SshKeyRow> {
  const row = await keysOf(tx, owner)
    .select(COLUMNS)
    .where('id', '=', id)
    .where('revoked_at', 'is', null)
    .forUpdate()
    .executeTakeFirst();
  if (!row) throw notFound('ssh_key');
  return toKey(row);
}

export async function revokeSshKey(tx: Tx, id: string, now: Date): Promise<void> {
  await tx
    .updateTable('ssh_keys')
    .set({ revoked_at: now, is_default: false })
    .where('id', '=', id)
    .where('revoked_at', 'is', null)
    .execute();
}

/** Takes the mark from whichever key has it. */
export async function clearDefaultSshKey(tx: Tx, userId: string): Promise<void> {
  await tx
    .updateTable('ssh_keys')
    .set({ is_default: false })
    .where('user_id', '=', userId)
    .where('is_default', '=', true)
    .execute();
}

export async function markDefaultSshKey(tx: Tx, id: string): Promise<void> {
  await guarded(tx.updateTable('ssh_keys').set({ is_default: true }).where('id', '=', id).execute());
}

/** The project of a live project key in which the user has a direct role or which lies in the tenant they rule. */
export async function findProjectOfKey(reader: Reader, id: string): Promise<string | null> {
  const row = await reader
    .selectFrom('ssh_keys')
    .select('project_id')
    .where('id', '=', id)
    .where('owner_scope', '=', 'project')
    .where('revoked_at', 'is', null)
    .executeTakeFirst();
  return row?.project_id ?? null;
}

export interface SshKeyRef {
  readonly id: SshKeyId;
  readonly name: string;
  readonly publicKey: string;
  readonly fingerprint: string;
  readonly ownerScope: 'user' | 'project';
}

export interface SshKeyChoice {
  /** the person whose personal keys may be used; null where a robot acts, which has none */
  readonly userId: UserId | null;
  readonly projectId: ProjectId | null;
  /** null: the person's default key, or every personal key where none is marked */
  readonly ids: readonly string[] | null;
  /** in a transaction: no key of them is revoked before its commit, so that whoever hears of the end finds the use */
  readonly held?: boolean;
}

/**
 * Live keys for a host, in the order that was asked for. Unknown, revoked and foreign ids are refused alike with 400
 * `ssh_key_not_found`; an empty result means that the person has no key.
 */
export async function sshKeysFor(reader: Reader, choice: SshKeyChoice): Promise<readonly SshKeyRef[]> {
  const usable = reader
    .selectFrom('ssh_keys')
    .select(['id', 'name', 'public_key', 'fingerprint', 'owner_scope', 'is_default'])
    .where('revoked_at', 'is', null)
    .$if(choice.held === true, (query) => query.forShare());
  const toRef = (row: Awaited<ReturnType<typeof usable.execute>>[number]): SshKeyRef => ({
    id: asId(row.id),
    name: row.name,
    publicKey: row.public_key,
    fingerprint: row.fingerprint,
    ownerScope: row.owner_scope,
  });

  if (choice.ids === null) {
    if (choice.userId === null) return [];
    const own = await usable
      .where('owner_scope', '=', 'user')
      .where('user_id', '=', choice.userId)
      .orderBy('created_at')
      .orderBy('id')
      .execute();
    const marked = own.filter((row) => row.is_default);
    return (marked.length > 0 ? marked : own).map(toRef);
  }

  const ids = [...new Set(choice.ids.map((id) => id.toLowerCase()))];
  if (ids.length === 0) return [];
  const rows = await usable
    .where('id', 'in', ids)
    .where((eb) =>
      eb.or([
        eb.and([eb('owner_scope', '=', 'user'), eb('user_id', '=', choice.userId)]),
        eb.and([eb('owner_scope', '=', 'project'), eb('project_id', '=', choice.projectId)]),
      ]),
    )
    .execute();
  const byId = new Map(rows.map((row) => [row.id, row]));
  return ids.map((id) => {
    const row = byId.get(id);
    if (!row) throw badRequest('ssh_key_not_found', '/body/ssh_key_ids', `no usable key ${id}`);
    return toRef(row);
  });
}
