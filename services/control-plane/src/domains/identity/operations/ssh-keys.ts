import { asId } from '@gpuaas/kernel';
import { audit } from '../../../spine/audit.js';
import { pageOf, pageRequest } from '../../../spine/cursors.js';
import {
  type CommandContext,
  command,
  type OperationHandlers,
  query,
  type Reader,
  type RequestContext,
  type Tx,
} from '../../../spine/operation.js';
import { badRequest, conflict, notFound, refuse } from '../../../spine/refusal.js';
import type { IdentityDependencies } from '../dependencies.js';
import { announce } from '../events.js';
import { projectScopeOf } from '../faces.js';
import { parseSshPublicKey, type SshKeyProblem } from '../rules/ssh-public-key.js';
import {
  clearDefaultSshKey,
  countLiveSshKeys,
  findProjectOfKey,
  findSshKeys,
  insertSshKey,
  type KeyOwner,
  lockSshKey,
  markDefaultSshKey,
  revokeSshKey,
  type SshKeyFilter,
  type SshKeyRow,
} from '../store/ssh-keys.js';
import { lockUser } from '../store/users.js';
import { sshKeyView } from '../views/ssh-key-view.js';
import { acceptName, userOf } from './caller.js';

/** A host reads all of an account's keys at every login. */
const KEYS_PER_OWNER = 200;

const PROBLEMS: Readonly<Record<SshKeyProblem, string>> = {
  ssh_key_private: 'is a private key: never send one anywhere',
  ssh_key_not_one_line: 'must be one line without control characters',
  ssh_key_too_long: 'is too long for a public key',
  ssh_key_type_unsupported: 'must be an ed25519, ecdsa, security-key or RSA key',
  ssh_key_options_refused: 'must begin with the type of the key; options are not accepted',
  ssh_key_malformed: 'is not a well-formed public key',
  ssh_key_too_weak: 'is too weak: RSA keys need 2048 bits',
};

interface NewKeyBody {
  readonly name: string;
  readonly public_key: string;
  readonly set_as_default?: boolean;
}

export function sshKeyOperations({ clock }: Pick<IdentityDependencies, 'clock'>): OperationHandlers {
  async function list(db: Reader, ctx: RequestContext, owner: KeyOwner, filter: SshKeyFilter, asked: PageQuery) {
    const request = pageRequest(
      ctx,
      {
        operation: 'listSshKeys',
        context: owner.scope === 'user' ? owner.userId : owner.projectId,
        filters: { status: filter.status, last_used: filter.lastUsed, search: filter.search },
        sort: filter.sort,
      },
      asked,
    );
    const [key, id] = request.after ?? [];
    const after = key != null && id != null ? { key, id } : null;
    const found = await findSshKeys(db, owner, filter, after, request.pageSize + 1);
    const { rows, pagination } = pageOf(ctx, request, found, (row) => [row.sortKey, row.id]);
    return { items: rows.map(sshKeyView), pagination };
  }

  async function create(tx: Tx, ctx: CommandContext, owner: KeyOwner, body: NewKeyBody): Promise<SshKeyRow> {
    const key = parseSshPublicKey(body.public_key);
    if (!key.ok) throw badRequest(key.reason, '/body/public_key', PROBLEMS[key.reason]);
    const isDefault = body.set_as_default === true;
    if (isDefault && owner.scope === 'project') {
      throw badRequest('ssh_key_not_personal', '/body/set_as_default', 'only a personal key can be the default');
    }
    const name = acceptName(body.name, 64);
    // one writer at a time for one person's keys: their number and their default stay as they are read
    if (owner.scope === 'user') await lockUser(tx, owner.userId);
    if ((await countLiveSshKeys(tx, owner)) >= KEYS_PER_OWNER)
      throw conflict('ssh_key_limit', { limit: KEYS_PER_OWNER });
    if (isDefault && owner.scope === 'user') await clearDefaultSshKey(tx, owner.userId);
    const { principal } = ctx;
    const created = await insertSshKey(tx, owner, {
      name,
      publicKey: key.publicKey,
      fingerprint: key.fingerprint,
      isDefault,
      createdByUserId: principal.kind === 'user' ? principal.userId : null,
      createdByServiceAccountId: principal.kind === 'service_account' ? principal.serviceAccountId : null,
      now: clock.now(),
    });
    await auditKey(tx, ctx, 'ssh_key.create', created, { type: key.type, is_default: isDefault });
    return created;
  }

  async function remove(tx: Tx, ctx: CommandContext, owner: KeyOwner, id: string): Promise<void> {
    const key = await lockSshKey(tx, owner, id);
    await revokeSshKey(tx, key.id, clock.now());
    await announce(tx, ctx, 'identity.ssh_key.revoked', key.id, {
      ssh_key_id: key.id,
      owner_scope: key.ownerScope,
      user_id: key.userId,
      project_id: key.projectId,
    });
    await auditKey(tx, ctx, 'ssh_key.revoke', key, {});
  }

  async function setDefault(tx: Tx, ctx: CommandContext, id: string): Promise<SshKeyRow> {
    const user = userOf(ctx);
    const projectId = await findProjectOfKey(tx, id);
    if (projectId !== null) {
      // Seen by who may see it, unknown to everybody else.
      if ((await projectScopeOf(tx, user, projectId)) === null) throw notFound('ssh_key');
      throw conflict('ssh_key_not_personal', { resource: 'ssh_key' });
    }
    await lockUser(tx, user.userId);
    const key = await lockSshKey(tx, { scope: 'user', userId: user.userId }, id);
    await clearDefaultSshKey(tx, user.userId);
    await markDefaultSshKey(tx, key.id);
    await auditKey(tx, ctx, 'ssh_key.set_default', key, {});
    return { ...key, isDefault: true };
  }

  const makeDefault = command<'setDefaultSshKey'>(async ({ tx, ctx, path }) => {
    return { status: 200, body: { key: sshKeyView(await setDefault(tx, ctx, path.key_id)) } };
  });

  return {
    listSshKeys: query<'listSshKeys'>(async ({ db, ctx, query: asked }) => {
      const filter: SshKeyFilter = { status: 'active', lastUsed: null, search: null, sort: 'created_at_desc' };
      return { status: 200, body: await list(db, ctx, ownerOf(ctx), filter, asked) };
    }),
    listV3AccountSshKeys: query<'listV3AccountSshKeys'>(async ({ db, ctx, query: asked }) => {
      const filter: SshKeyFilter = {
        status: asked.status ?? null,
        lastUsed: asked.last_used ?? null,
        search: asked.search ?? null,
        sort: asked.sort,
      };
      return { status: 200, body: await list(db, ctx, personal(ctx), filter, asked) };
    }),

    createSshKey: command<'createSshKey'>(async ({ tx, ctx, body }) => {
      const key = await create(tx, ctx, ownerOf(ctx), body);
      return { status: 201, body: { key: sshKeyView(key) } };
    }),
    createV3AccountSshKeyCompat: command<'createV3AccountSshKeyCompat'>(async ({ tx, ctx, body }) => {
      const key = await create(tx, ctx, personal(ctx), body);
      return { status: 201, body: { key: sshKeyView(key) } };
    }),

    deleteSshKey: command<'deleteSshKey'>(async ({ tx, ctx, path }) => {
      await remove(tx, ctx, ownerOf(ctx), path.key_id);
      return { status: 200, body: { ok: true } };
    }),
    deleteV3AccountSshKeyCompat: command<'deleteV3AccountSshKeyCompat'>(async ({ tx, ctx, path }) => {
      await remove(tx, ctx, personal(ctx), path.key_id);
      return { status: 200, body: { ok: true } };
    }),

    setDefaultSshKey: makeDefault,
    setDefaultV3AccountSshKeyCompat: makeDefault,
  };
}

interface PageQuery {
  readonly cursor?: string | undefined;
  readonly page_size?: number | undefined;
}

/** With a project its keys, without one the caller's own; a robot has none of its own. */
function ownerOf(ctx: RequestContext): KeyOwner {
  if (ctx.project !== null) return { scope: 'project', projectId: ctx.project.projectId };
  return personal(ctx);
}

function personal(ctx: RequestContext): KeyOwner {
  if (ctx.principal.kind !== 'user') throw refuse('insufficient_permissions', { reason: 'user_required' });
  return { scope: 'user', userId: asId(ctx.principal.userId) };
}

async function auditKey(
  tx: Tx,
  ctx: CommandContext,
  action: string,
  key: SshKeyRow,
  facts: Readonly<Record<string, unknown>>,
): Promise<void> {
  await audit(tx, ctx, {
    action,
    targetType: 'ssh_key',
    targetId: key.id,
    projectId: key.projectId,
    metadata: { name: key.name, fingerprint: key.fingerprint, owner_scope: key.ownerScope, ...facts },
  });
}
