import type { UserId } from '@gpuaas/kernel';
import type { Tx } from '../../../spine/operation.js';
import { posixNameCandidate } from '../rules/posix-name.js';

export interface PosixIdentity {
  readonly username: string;
  readonly uid: number;
}

const MAXIMUM_ATTEMPTS = 10_000;

/**
 * The account of a user on GPU hosts: made at first use, the same for ever, never anyone else's. Two first uses at
 * once meet on the primary key and both get what the first one made.
 */
export async function posixIdentityOf(tx: Tx, userId: UserId): Promise<PosixIdentity> {
  const existing = await findPosixIdentity(tx, userId);
  if (existing) return existing;
  const user = await tx.selectFrom('users').select('username_norm').where('id', '=', userId).executeTakeFirstOrThrow();
  for (let attempt = 1; attempt <= MAXIMUM_ATTEMPTS; attempt += 1) {
    await tx
      .insertInto('posix_identities')
      .values({ user_id: userId, username: posixNameCandidate(user.username_norm, attempt) })
      .onConflict((conflict) => conflict.doNothing())
      .execute();
    const made = await findPosixIdentity(tx, userId);
    if (made) return made;
  }
  throw new Error('no free account name was found');
}

async function findPosixIdentity(tx: Tx, userId: string): Promise<PosixIdentity | undefined> {
  return tx.selectFrom('posix_identities').select(['username', 'uid']).where('user_id', '=', userId).executeTakeFirst();
}
