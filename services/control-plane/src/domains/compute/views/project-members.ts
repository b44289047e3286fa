// Reads identity's `users`, `projects`, `project_memberships` and `tenant_memberships` and changes nothing.
import type { Reader, Tx } from '../../../spine/operation.js';

/** A person as a member of a live project, by a role in it or as an admin of its tenant; null where they are none. */
export async function findProjectMember(
  reader: Reader,
  projectId: string,
  userId: string,
): Promise<{ readonly username: string } | null> {
  const row = await reader
    .selectFrom('projects')
    .innerJoin('tenant_memberships as home', (join) =>
      join.onRef('home.tenant_id', '=', 'projects.tenant_id').on('home.ended_at', 'is', null),
    )
    .innerJoin('users', 'users.id', 'home.user_id')
    .leftJoin('project_memberships as member', (join) =>
      join
        .onRef('member.project_id', '=', 'projects.id')
        .onRef('member.user_id', '=', 'users.id')
        .on('member.ended_at', 'is', null),
    )
    .select('users.username')
    .where('projects.id', '=', projectId)
    .where('projects.deleted_at', 'is', null)
    .where('users.id', '=', userId)
    .where('users.deleted_at', 'is', null)
    .where((eb) => eb.or([eb('member.id', 'is not', null), eb('home.role', 'in', ['owner', 'admin'])]))
    .executeTakeFirst();
  return row ?? null;
}

/**
 * The same, and the membership stays until the commit: whoever ends one locks the person first. So the end of it, when
 * it is told, finds everything that was given on its strength.
 */
export async function holdProjectMember(
  tx: Tx,
  projectId: string,
  userId: string,
): Promise<{ readonly username: string } | null> {
  // A statement of its own: the memberships must be read after the wait.
  await tx.selectFrom('users').select('id').where('id', '=', userId).forShare().execute();
  return findProjectMember(tx, projectId, userId);
}
