import type { Schema } from '@gpuaas/contract';
import { audit } from '../../../spine/audit.js';
import { pageOf, pageRequest } from '../../../spine/cursors.js';
import { type CommandContext, command, type OperationHandlers, query, type Tx } from '../../../spine/operation.js';
import { badRequest, conflict, refuse } from '../../../spine/refusal.js';
import { toWireTime } from '../../../spine/wire.js';
import { newClientSecret, newKeyId, secretHash } from '../crypto/opaque-tokens.js';
import type { IdentityDependencies } from '../dependencies.js';
import { announce } from '../events.js';
import { advanceServiceAccount } from '../rules/service-accounts.js';
import { shareProject } from '../store/projects.js';
import {
  findServiceAccounts,
  getServiceAccount,
  insertServiceAccount,
  insertServiceAccountKey,
  lockServiceAccount,
  revokeServiceAccountKeys,
  type ServiceAccountRow,
  setServiceAccountState,
} from '../store/service-accounts.js';
import { serviceAccountView } from '../views/service-account-view.js';
import { acceptName, projectOf, userOf } from './caller.js';
import { creationPosition } from './users.js';

const SLUG = /^[a-z0-9][a-z0-9-]{0,126}[a-z0-9]$|^[a-z0-9]$/;

type NewAccount = Schema<'CreateServiceAccountRequest'>;

export function serviceAccountOperations({ clock }: Pick<IdentityDependencies, 'clock'>): OperationHandlers {
  async function create(tx: Tx, ctx: CommandContext, body: NewAccount) {
    const user = userOf(ctx);
    const purpose = body.purpose ?? 'operator';
    if (purpose === 'controller' && !user.capabilities.has('platform.admin')) {
      throw refuse('insufficient_permissions', { reason: 'purpose_reserved' });
    }
    const name = acceptName(body.name, 128);
    if (!SLUG.test(body.slug)) {
      throw badRequest('slug_invalid', '/body/slug', 'must be lower-case letters, digits and hyphens');
    }
    const project = await shareProject(tx, projectOf(ctx).projectId);
    const now = clock.now();
    const account = await insertServiceAccount(tx, {
      tenantId: project.tenantId,
      projectId: project.projectId,
      name,
      slug: body.slug,
      description: body.description ?? null,
      purpose,
      createdByUserId: user.userId,
      now,
    });
    const credential = await issueKey(tx, account, now);
    await auditAccount(tx, ctx, 'service_account.create', account, { purpose, key_id: credential.key_id });
    return { service_account: serviceAccountView(account), initial_credential: credential };
  }

  async function end(tx: Tx, ctx: CommandContext, id: string, event: 'disable' | 'delete') {
    const account = await lockServiceAccount(tx, projectOf(ctx).projectId, id);
    const step = advanceServiceAccount(account.state, event);
    if (!step.ok) throw conflict(step.reason, { resource: 'service_account' });
    let current = account;
    if (step.changes && step.to !== 'active') {
      current = await setServiceAccountState(tx, account.id, step.to, clock.now());
      if (event === 'delete') await revokeServiceAccountKeys(tx, account.id, clock.now());
      await announce(tx, ctx, 'identity.service_account.disabled', account.id, {
        service_account_id: account.id,
        project_id: account.projectId,
        state: step.to,
      });
    }
    await auditAccount(tx, ctx, `service_account.${event}`, current, { changed: step.changes });
    return serviceAccountView(current);
  }

  async function rotate(tx: Tx, ctx: CommandContext, id: string) {
    const account = await lockServiceAccount(tx, projectOf(ctx).projectId, id);
    const step = advanceServiceAccount(account.state, 'rotate');
    if (!step.ok) throw conflict(step.reason, { resource: 'service_account' });
    const now = clock.now();
    // The old secret and every token that it vouched for end in the same moment as the new one begins.
    await revokeServiceAccountKeys(tx, account.id, now);
    const credential = await issueKey(tx, account, now);
    await announce(tx, ctx, 'identity.credential.rotated', account.id, {
      service_account_id: account.id,
      project_id: account.projectId,
    });
    await auditAccount(tx, ctx, 'service_account.credential.rotate', account, { key_id: credential.key_id });
    return { service_account: serviceAccountView(account), credential };
  }

  const sealed = { sealsResponse: true };
  const createAccount = command<'createServiceAccount'>(
    async ({ tx, ctx, body }) => ({ status: 201, body: await create(tx, ctx, body) }),
    sealed,
  );
  const disableAccount = command<'disableServiceAccount'>(async ({ tx, ctx, path }) => ({
    status: 200,
    body: await end(tx, ctx, path.service_account_id, 'disable'),
  }));
  const deleteAccount = command<'deleteServiceAccount'>(async ({ tx, ctx, path }) => ({
    status: 200,
    body: await end(tx, ctx, path.service_account_id, 'delete'),
  }));
  const rotateKey = command<'rotateServiceAccountCredential'>(
    async ({ tx, ctx, path }) => ({ status: 200, body: await rotate(tx, ctx, path.service_account_id) }),
    sealed,
  );

  return {
    listServiceAccounts: query<'listServiceAccounts'>(async ({ db, ctx, query: asked, path }) => {
      const request = pageRequest(
        ctx,
        { operation: 'listServiceAccounts', context: path.project_id, filters: {}, sort: 'created_at_desc' },
        asked,
      );
      const found = await findServiceAccounts(
        db,
        path.project_id,
        creationPosition(request.after),
        request.pageSize + 1,
      );
      const { rows, pagination } = pageOf(ctx, request, found, (row) => [row.createdAtText, row.id]);
      return { status: 200, body: { items: rows.map(serviceAccountView), pagination } };
    }),

    getServiceAccount: query<'getServiceAccount'>(async ({ db, path }) => ({
      status: 200,
      body: serviceAccountView(await getServiceAccount(db, path.project_id, path.service_account_id)),
    })),
    getV3AccessServiceAccountCompat: query<'getV3AccessServiceAccountCompat'>(async ({ db, ctx, path }) => ({
      status: 200,
      body: serviceAccountView(await getServiceAccount(db, projectOf(ctx).projectId, path.service_account_id)),
    })),

    createServiceAccount: createAccount,
    createV3AccessServiceAccountCompat: createAccount,

    disableServiceAccount: disableAccount,
    disableV3AccessServiceAccountCompat: disableAccount,

    deleteServiceAccount: deleteAccount,
    deleteV3AccessServiceAccountCompat: deleteAccount,

    rotateServiceAccountCredential: rotateKey,
    rotateV3AccessServiceAccountKeyCompat: rotateKey,
  };
}

/** A new key, its secret in the clear for this one answer. */
async function issueKey(
  tx: Tx,
  account: ServiceAccountRow,
  now: Date,
): Promise<Schema<'ServiceAccountCredentialSecret'>> {
  const keyId = newKeyId();
  const secret = newClientSecret();
  await insertServiceAccountKey(tx, { keyId, serviceAccountId: account.id, secretHash: secretHash(secret), now });
  return { key_id: keyId, client_secret: secret, algorithm: 'sha256', created_at: toWireTime(now) };
}

async function auditAccount(
  tx: Tx,
  ctx: CommandContext,
  action: string,
  account: ServiceAccountRow,
  facts: Readonly<Record<string, unknown>>,
): Promise<void> {
  await audit(tx, ctx, {
    action,
    targetType: 'service_account',
    targetId: account.id,
    tenantId: account.tenantId,
    projectId: account.projectId,
    metadata: { name: account.name, slug: account.slug, ...facts },
  });
}
