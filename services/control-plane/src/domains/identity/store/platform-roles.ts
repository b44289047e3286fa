import { newId } from '@gpuaas/kernel';
import { sql } from 'kysely';
import type { Reader, Tx } from '../../../spine/operation.js';
import type { PlatformRole } from '../../../spine/principal.js';
import { guarded } from './constraints.js';

export async function findPlatformRoles(reader: Reader, userId: string): Promise<readonly PlatformRole[]> {
  const rows = await reader
    .selectFrom('platform_role_bindings')
    .select('role')
    .where('user_id', '=', userId)
    .where('revoked_at', 'is', null)
    .execute();
  return rows.map((row) => row.role);
}

/** The caller holds the user's row. */
export async function insertPlatformRole(
  tx: Tx,
  binding: { userId: string; role: PlatformRole; boundBy: string | null; now: Date },
): Promise<void> {
  await guarded(
    tx
      .insertInto('platform_role_bindings')
      .values({
        id: newId(),
        user_id: binding.userId,
        role: binding.role,
        bound_by: binding.boundBy,
        bound_at: binding.now,
      })
      .execute(),
  );
}

export async function revokePlatformRole(
  tx: Tx,
  binding: { userId: string; role: PlatformRole; revokedBy: string; now: Date },
): Promise<void> {
  await tx
    .updateTable('platform_role_bindings')
    .set({ revoked_at: binding.now, revoked_by: binding.revokedBy })
    .where('user_id', '=', binding.userId)
    .where('role', '=', binding.role)
    .where('revoked_at', 'is', null)
    .execute();
}

/** From now on the user's role only mirrors the bindings. */
export async function mirrorPlatformRole(tx: Tx, userId: string, role: 'user' | 'admin', now: Date): Promise<void> {
  await tx
    .updateTable('users')
    .set({ role, platform_role_source: 'bindings', updated_at: now })
    .where('id', '=', userId)
    .execute();
}

/** Whether another live superadmin exists, bound or implicit. The caller holds the guard. */
export async function hasOtherSuperadmin(tx: Tx, userId: string): Promise<boolean> {
  const { rows } = await sql<{ found: boolean }>`
    SELECT EXISTS (
      SELECT FROM platform_role_bindings b JOIN users u ON u.id = b.user_id AND u.deleted_at IS NULL
        AND u.platform_role_source = 'bindings'
      WHERE b.role = 'platform_superadmin' AND b.revoked_at IS NULL AND b.user_id <> ${userId}
    ) OR EXISTS (
      SELECT FROM users u
      WHERE u.role = 'admin' AND u.platform_role_source = 'users_role' AND u.deleted_at IS NULL AND u.id <> ${userId}
    ) AS found`.execute(tx);
  return rows[0]?.found === true;
}
