import { asId, newId, type ProjectId, type ServiceAccountId, type TenantId, type UserId } from '@gpuaas/kernel';
import { sql } from 'kysely';
import type { Reader, Tx } from '../../../spine/operation.js';
import { notFound } from '../../../spine/refusal.js';
import type { ServiceAccountPurpose, ServiceAccountState } from '../rules/service-accounts.js';
import { guarded } from './constraints.js';

export interface ServiceAccountRow {
  readonly id: ServiceAccountId;
  readonly tenantId: TenantId;
  readonly projectId: ProjectId;
  readonly name: string;
  readonly slug: string;
  readonly description: string | null;
  readonly purpose: ServiceAccountPurpose;
  readonly state: ServiceAccountState;
  readonly createdByUserId: UserId;
  readonly createdAt: Date;
  readonly disabledAt: Date | null;
  readonly deletedAt: Date | null;
}

const COLUMNS = [
  'id',
  'tenant_id',
  'project_id',
  'name',
  'slug',
  'description',
  'purpose',
  'state',
  'created_by_user_id',
  'created_at',
  'disabled_at',
  'deleted_at',
] as const;

type Row = {
  id: string;
  tenant_id: string;
  project_id: string;
  name: string;
  slug: string;
  description: string | null;
  purpose: ServiceAccountPurpose;
  state: ServiceAccountState;
  created_by_user_id: string;
  created_at: Date;
  disabled_at: Date | null;
  deleted_at: Date | null;
};

const toAccount = (row: Row): ServiceAccountRow => ({
  id: asId(row.id),
  tenantId: asId(row.tenant_id),
  projectId: asId(row.project_id),
  name: row.name,
  slug: row.slug,
  description: row.description,
  purpose: row.purpose,
  state: row.state,
  createdByUserId: asId(row.created_by_user_id),
  createdAt: row.created_at,
  disabledAt: row.disabled_at,
  deletedAt: row.deleted_at,
});

/** Refuses with 409 `service_account_slug_taken`. */
export async function insertServiceAccount(
  tx: Tx,
  account: {
    tenantId: string;
    projectId: string;
    name: string;
    slug: string;
    description: string | null;
    purpose: ServiceAccountPurpose;
    createdByUserId: string;
    now: Date;
  },
): Promise<ServiceAccountRow> {
  const row = await guarded(
    tx
      .insertInto('service_accounts')
      .values({
        id: newId(),
        tenant_id: account.tenantId,
        project_id: account.projectId,
        name: account.name,
        slug: account.slug,
        description: account.description,
        purpose: account.purpose,
        created_by_user_id: account.createdByUserId,
        created_at: account.now,
      })
      .returning(COLUMNS)
      .executeTakeFirstOrThrow(),
  );
  return toAccount(row);
}

/** Those that are not deleted, newest first. */
export async function findServiceAccounts(
  reader: Reader,
  projectId: string,
  after: { createdAtText: string; id: string } | null,
  limit: number,
): Promise<readonly (ServiceAccountRow & { readonly createdAtText: string })[]> {
  const rows = await reader
    .selectFrom('service_accounts')
    .select([...COLUMNS, sql<string>`created_at::text`.as('created_at_text')])
    .where('project_id', '=', projectId)
    .where('state', '<>', 'deleted')
    .$if(after !== null, (query) =>
      query.where(sql<boolean>`(created_at, id) < (${after?.createdAtText}::timestamptz, ${after?.id}::uuid)`),
    )
    .orderBy('created_at', 'desc')
    .orderBy('id', 'desc')
    .limit(limit)
    .execute();
  return rows.map((row) => ({ ...toAccount(row), createdAtText: row.created_at_text }));
}

/** A deleted account can still be looked at; foreign and unknown ones are the same 404. */
export async function getServiceAccount(reader: Reader, projectId: string, id: string): Promise<ServiceAccountRow> {
  const row = await reader
    .selectFrom('service_accounts')
    .select(COLUMNS)
    .where('project_id', '=', projectId)
    .where('id', '=', id)
    .executeTakeFirst();
  if (!row) throw notFound('service_account');
  return toAccount(row);
}

export async function lockServiceAccount(tx: Tx, projectId: string, id: string): Promise<ServiceAccountRow> {
  const row = await tx
    .selectFrom('service_accounts')
    .select(COLUMNS)
    .where('project_id', '=', projectId)
    .where('id', '=', id)
    .forUpdate()
    .executeTakeFirst();
  if (!row) throw notFound('service_account');
  return toAccount(row);
}

/** The caller holds the row. */
export async function setServiceAccountState(
  tx: Tx,
  id: string,
  state: 'disabled' | 'deleted',
  now: Date,
): Promise<ServiceAccountRow> {
  const row = await tx
    .updateTable('service_accounts')
    .set(state === 'disabled' ? { state, disabled_at: now } : { state, deleted_at: now })
    .where('id', '=', id)
    .returning(COLUMNS)
    .executeTakeFirstOrThrow();
  return toAccount(row);
}

export async function insertServiceAccountKey(
  tx: Tx,
  key: { keyId: string; serviceAccountId: string; secretHash: Uint8Array; now: Date },
): Promise<void> {
  await tx
    .insertInto('service_account_keys')
    .values({
      key_id: key.keyId,
      service_account_id: key.serviceAccountId,
      secret_hash: Buffer.from(key.secretHash),
      created_at: key.now,
    })
    .execute();
}

/** Every token that the keys vouch for dies with them. The caller holds the account's row. */
export async function revokeServiceAccountKeys(tx: Tx, serviceAccountId: string, now: Date): Promise<void> {
  await tx
    .updateTable('service_account_keys')
    .set({ revoked_at: now })
    .where('service_account_id', '=', serviceAccountId)
    .where('revoked_at', 'is', null)
    .execute();
}

export interface LiveKey {
  readonly secretHash: Uint8Array;
  readonly account: ServiceAccountRow;
}

/**
 * The live key of an account in a live project, shared until commit: a rotation or a disabling that runs at the same
 * time comes either before the token or after it, never between its check and its row.
 */
export async function shareLiveKey(tx: Tx, serviceAccountId: string, keyId: string): Promise<LiveKey | undefined> {
  const account = await tx
    .selectFrom('service_accounts as a')
    .innerJoin('projects as p', 'p.id', 'a.project_id')
    .select(COLUMNS.map((column) => `a.${column}` as const))
    .where('a.id', '=', serviceAccountId)
    .where('a.state', '<>', 'deleted')
    .where('p.deleted_at', 'is', null)
    .forShare('a')
    .executeTakeFirst();
  if (!account) return undefined;
  const key = await tx
    .selectFrom('service_account_keys')
    .select('secret_hash')
    .where('key_id', '=', keyId)
    .where('service_account_id', '=', serviceAccountId)
    .where('revoked_at', 'is', null)
    .executeTakeFirst();
  return key && { secretHash: key.secret_hash, account: toAccount(account) };
}

export async function insertMachineToken(
  tx: Tx,
  token: { jti: string; keyId: string; expiresAt: Date },
): Promise<void> {
  await tx
    .insertInto('machine_tokens')
    .values({ jti: token.jti, key_id: token.keyId, expires_at: token.expiresAt })
    .execute();
}
