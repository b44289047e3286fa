import { audit } from '../../../spine/audit.js';
import { pageOf, pageRequest } from '../../../spine/cursors.js';
import { type OperationHandlers, preparedCommand, query } from '../../../spine/operation.js';
import { badRequest } from '../../../spine/refusal.js';
import type { PasswordHasher } from '../crypto/password-hasher.js';
import type { IdentityDependencies } from '../dependencies.js';
import { findUserProfiles, getUserProfile, insertIdentityLink, insertUser } from '../store/users.js';
import type { UserViews } from '../views/user-view.js';
import { acceptPassword, acceptUsername, userOf } from './caller.js';

export interface UserParts extends Pick<IdentityDependencies, 'clock'> {
  readonly hasher: PasswordHasher;
  readonly views: UserViews;
}

export function userOperations({ clock, hasher, views }: UserParts): OperationHandlers {
  return {
    getMe: query<'getMe'>(async ({ db, ctx }) => {
      const profile = await getUserProfile(db, userOf(ctx).userId);
      return { status: 200, body: await views.withBalance(db, profile) };
    }),

    adminGetUser: query<'adminGetUser'>(async ({ db, path }) => {
      const profile = await getUserProfile(db, path.user_id);
      return { status: 200, body: await views.withBalance(db, profile) };
    }),

    adminListUsers: query<'adminListUsers'>(async ({ db, ctx, query: asked }) => {
      const request = pageRequest(
        ctx,
        { operation: 'adminListUsers', context: 'platform', filters: {}, sort: 'created_at_desc' },
        asked,
      );
      const found = await findUserProfiles(db, creationPosition(request.after), request.pageSize + 1);
      const { rows, pagination } = pageOf(ctx, request, found, (user) => [user.createdAtText, user.userId]);
      return { status: 200, body: { items: await views.withBalances(db, rows), pagination } };
    }),

    /** 201: a person without a tenant, who proves who they are by a password or at an identity provider. */
    adminCreateUser: preparedCommand<'adminCreateUser', { passwordHash: string | null }>({
      async prepare({ body }) {
        acceptUsername(body.username);
        const password = body.password ?? null;
        const issuer = body.oidc_issuer ?? null;
        const subject = body.oidc_subject ?? null;
        if ((issuer === null) !== (subject === null)) {
          throw badRequest('identity_incomplete', '/body/oidc_subject', 'issuer and subject belong together');
        }
        if (password === null && issuer === null) {
          throw badRequest('credential_required', '/body', 'a password or an identity at a provider is needed');
        }
        if (password !== null) acceptPassword(password, body.username);
        return { passwordHash: password === null ? null : await hasher.hash(password) };
      },
      async run({ tx, ctx, body, prepared }) {
        const now = clock.now();
        const name = acceptUsername(body.username);
        const userId = await insertUser(tx, { ...name, passwordHash: prepared.passwordHash, role: body.role, now });
        if (body.oidc_issuer && body.oidc_subject) {
          await insertIdentityLink(tx, { userId, issuer: body.oidc_issuer, subject: body.oidc_subject, now });
        }
        await audit(tx, ctx, {
          action: 'platform.user.create',
          targetType: 'user',
          targetId: userId,
          targetUserId: userId,
          tenantId: null,
          metadata: { role: body.role, local: prepared.passwordHash !== null, federated: Boolean(body.oidc_issuer) },
        });
        return { status: 201, body: { id: userId } };
      },
    }),
  };
}

/** Where a list by creation goes on, from a cursor's position. */
export function creationPosition(
  after: readonly (string | null)[] | null,
): { createdAtText: string; id: string } | null {
  const [createdAtText, id] = after ?? [];
  return createdAtText && id ? { createdAtText, id } : null;
}
