import type { Clock } from '@gpuaas/kernel';
import { audit } from '../../spine/audit.js';
import type { CallContext, Reader, Tx } from '../../spine/operation.js';
import { inTransaction } from '../../spine/transaction.js';
import type { PasswordHasher } from './crypto/password-hasher.js';
import { platformStanding } from './rules/platform-roles.js';
import { decideUsername } from './rules/username.js';
import { findPlatformRoles, insertPlatformRole, mirrorPlatformRole } from './store/platform-roles.js';
import { revokeSessionsOfUser } from './store/sessions.js';
import { lockGuard } from './store/signing-keys.js';
import { findCredential, insertUser, lockUser, replacePasswordHash } from './store/users.js';

export interface OperatorAccount {
  readonly username: string;
  /** as the password hasher encodes it */
  readonly passwordHash: string;
  /** sets the password also of an operator who is there already, and ends their sessions */
  readonly resetPassword?: boolean;
}

export type OperatorOutcome = 'created' | 'kept' | 'password_reset';

/** The name belongs to somebody who is no superadmin; making them one would hand the platform to whoever took it. */
export class OperatorNameTaken extends Error {
  constructor(username: string) {
    super(
      `the user ${username} exists and is not a platform superadmin; choose another operator name or bind the role`,
    );
    this.name = 'OperatorNameTaken';
  }
}

/**
 * The first operator: a superadmin without a tenant. May be repeated, also by several processes at once; an existing
 * password stays unless a reset is asked for. Throws OperatorNameTaken, and for a name that cannot be one.
 */
export async function ensureOperator(
  tx: Tx,
  ctx: CallContext,
  account: OperatorAccount,
  now: Date,
): Promise<OperatorOutcome> {
  const name = decideUsername(account.username);
  if (!name.ok) throw new Error(`the operator's username cannot be used: ${name.reason}`);
  await lockGuard(tx, 'platform_superadmins');
  const existing = await findCredential(tx, name.normalised);
  if (!existing) {
    const userId = await insertUser(tx, { ...name, passwordHash: account.passwordHash, role: 'admin', now });
    await insertPlatformRole(tx, { userId, role: 'platform_superadmin', boundBy: null, now });
    await mirrorPlatformRole(tx, userId, 'admin', now);
    await audit(tx, ctx, {
      action: 'platform.user.create',
      targetType: 'user',
      targetId: userId,
      targetUserId: userId,
      metadata: { role: 'platform_superadmin', bootstrap: true },
    });
    return 'created';
  }
  const user = await lockUser(tx, existing.userId);
  const bindings = await findPlatformRoles(tx, user.userId);
  const standing = platformStanding({ role: user.role, source: user.platformRoleSource, bindings });
  if (!standing.isSuperadmin) throw new OperatorNameTaken(user.username);
  if (account.resetPassword !== true) return 'kept';
  await replacePasswordHash(tx, user.userId, existing.passwordHash, account.passwordHash, now);
  await revokeSessionsOfUser(tx, user.userId, 'password_reset', now);
  await audit(tx, ctx, {
    action: 'platform.user.password_reset',
    targetType: 'user',
    targetId: user.userId,
    targetUserId: user.userId,
    metadata: { bootstrap: true },
  });
  return 'password_reset';
}

/** The same from a password in the clear, in a transaction of its own; no hash is made for an operator who is kept. */
export async function ensureOperatorWithPassword(
  parts: { readonly db: Reader; readonly hasher: PasswordHasher; readonly clock: Clock },
  ctx: CallContext,
  account: { readonly username: string; readonly password: string; readonly resetPassword?: boolean },
): Promise<OperatorOutcome> {
  const name = decideUsername(account.username);
  if (!name.ok) throw new Error(`the operator's username cannot be used: ${name.reason}`);
  const known = await findCredential(parts.db, name.normalised);
  const needsHash = !known || account.resetPassword === true;
  const passwordHash = needsHash ? await parts.hasher.hash(account.password) : '';
  return inTransaction(parts.db, (tx) =>
    ensureOperator(
      tx,
      ctx,
      { username: account.username, passwordHash, ...(account.resetPassword && { resetPassword: true }) },
      parts.clock.now(),
    ),
  );
}
