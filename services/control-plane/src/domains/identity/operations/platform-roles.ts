import { audit } from '../../../spine/audit.js';
import { type CommandContext, command, type OperationHandlers, query, type Tx } from '../../../spine/operation.js';
import type { PlatformRole } from '../../../spine/principal.js';
import { conflict } from '../../../spine/refusal.js';
import type { IdentityDependencies } from '../dependencies.js';
import { mirroredUserRole, platformStanding } from '../rules/platform-roles.js';
import {
  findPlatformRoles,
  hasOtherSuperadmin,
  insertPlatformRole,
  mirrorPlatformRole,
  revokePlatformRole,
} from '../store/platform-roles.js';
import { lockGuard } from '../store/signing-keys.js';
import { getUserProfile, type LockedUser, lockUser } from '../store/users.js';
import { userOf } from './caller.js';

export function platformRoleOperations({ clock }: Pick<IdentityDependencies, 'clock'>): OperationHandlers {
  /** Both are idempotent: asking for what already is changes nothing and is still on record. */
  async function change(
    tx: Tx,
    ctx: CommandContext,
    targetId: string,
    role: PlatformRole,
    event: 'bind' | 'revoke',
  ): Promise<void> {
    const actor = userOf(ctx);
    const now = clock.now();
    // The guard comes first: two revocations at once count one after the other.
    if (role === 'platform_superadmin') await lockGuard(tx, 'platform_superadmins');
    const user = await lockUser(tx, targetId);
    const held = await heldRoles(tx, user);
    const has = held.includes(role);
    const changes = event === 'bind' ? !has : has;
    if (event === 'revoke' && has && role === 'platform_superadmin' && !(await hasOtherSuperadmin(tx, user.userId))) {
      throw conflict('last_superadmin', { resource: 'platform_role' });
    }
    if (changes) {
      await writeDownImplicitRole(tx, user, held, now);
      if (event === 'bind') await insertPlatformRole(tx, { userId: user.userId, role, boundBy: actor.userId, now });
      else await revokePlatformRole(tx, { userId: user.userId, role, revokedBy: actor.userId, now });
      const roles = event === 'bind' ? [...held, role] : held.filter((each) => each !== role);
      await mirrorPlatformRole(tx, user.userId, mirroredUserRole(roles), now);
    }
    await audit(tx, ctx, {
      action: `platform.role.${event}`,
      targetType: 'user',
      targetId: user.userId,
      targetUserId: user.userId,
      metadata: { role, changed: changes },
    });
  }

  return {
    adminListUserPlatformRoles: query<'adminListUserPlatformRoles'>(async ({ db, path }) => {
      const user = await getUserProfile(db, path.user_id);
      const standing = platformStanding({
        role: user.role,
        source: user.platformRoleSource,
        bindings: user.platformRoles,
      });
      return { status: 200, body: { user_id: user.userId, items: [...standing.roles] } };
    }),

    adminBindUserPlatformRole: command<'adminBindUserPlatformRole'>(async ({ tx, ctx, path, body }) => {
      await change(tx, ctx, path.user_id, body.role, 'bind');
      return { status: 200, body: { ok: true, user_id: path.user_id, role: body.role } };
    }),

    adminRevokeUserPlatformRole: command<'adminRevokeUserPlatformRole'>(async ({ tx, ctx, path }) => {
      await change(tx, ctx, path.user_id, path.role, 'revoke');
      return { status: 200, body: { ok: true, user_id: path.user_id, role: path.role } };
    }),
  };
}

/** What the user may do now, bound or implied by an unbound admin's role. */
async function heldRoles(tx: Tx, user: LockedUser): Promise<readonly PlatformRole[]> {
  const bindings = await findPlatformRoles(tx, user.userId);
  return platformStanding({ role: user.role, source: user.platformRoleSource, bindings }).roles;
}

/**
 * An implicit superadmin becomes a bound one before the first change, so that binding a smaller role takes nothing
 * away and revoking the last one leaves nothing behind.
 */
async function writeDownImplicitRole(
  tx: Tx,
  user: LockedUser,
  held: readonly PlatformRole[],
  now: Date,
): Promise<void> {
  if (user.platformRoleSource === 'bindings') return;
  for (const role of held) await insertPlatformRole(tx, { userId: user.userId, role, boundBy: null, now });
}
