import { randomBytes } from 'node:crypto';
import { addressBucket, type UserId } from '@gpuaas/kernel';
import { audit } from '../../../spine/audit.js';
import {
  type Exchange,
  exchange,
  type OperationHandlers,
  preparedCommand,
  type RequestContext,
  type Tx,
} from '../../../spine/operation.js';
import { Refusal, refuse } from '../../../spine/refusal.js';
import { inTransaction } from '../../../spine/transaction.js';
import type { PasswordHasher } from '../crypto/password-hasher.js';
import { recordDenial } from '../denials.js';
import type { IdentityDependencies, IdentitySettings } from '../dependencies.js';
import { usernameBucket } from '../rules/attempts.js';
import { domainOf } from '../rules/federation.js';
import { mayBePassword } from '../rules/password.js';
import { deriveSlug } from '../rules/slug.js';
import { normaliseUsername } from '../rules/username.js';
import type { SessionIssuer } from '../sign-in.js';
import { type AttemptBucket, countAttempt, forgiveAttempt } from '../store/attempts.js';
import { findTenantOfDomain } from '../store/federation.js';
import { insertProject } from '../store/projects.js';
import { insertProjectMembership, insertTenant, insertTenantMembership } from '../store/tenants.js';
import {
  findCredential,
  getUserProfile,
  insertUser,
  replacePasswordHash,
  setDefaultProjectOf,
  shareUserForSession,
  usernameExists,
} from '../store/users.js';
import { acceptPassword, acceptUsername } from './caller.js';

export interface PersonalAccountParts extends Pick<IdentityDependencies, 'db' | 'clock' | 'wallet'> {
  readonly settings: Pick<IdentitySettings, 'attemptLimits' | 'personalAccounts'>;
  readonly hasher: PasswordHasher;
  readonly sessions: SessionIssuer;
}

const BY_PASSWORD = { provider: 'local', amr: ['pwd'] } as const;

export function personalAccountOperations(parts: PersonalAccountParts): OperationHandlers {
  return { signupPersonal: signup(parts), loginPersonal: login(parts) };
}

/** 201: a person, their tenant, its department, a project to work in, a wallet and a session, all or nothing. */
function signup(parts: PersonalAccountParts) {
  const { db, clock, settings, hasher, sessions, wallet } = parts;
  return preparedCommand<'signupPersonal', { passwordHash: string }>({
    ignoresIdempotencyKey: true,
    async prepare({ body, ctx }) {
      if (!settings.personalAccounts.signup) throw refuse('auth_personal_disabled');
      const { normalised } = acceptUsername(body.username);
      acceptPassword(body.password, body.username);
      await refuseEnterpriseDomain(parts, body.username);
      await demandAttempt(parts, ctx, 'auth.signup', [
        {
          bucket: `signup:address:${addressBucket(ctx.actorIp)}`,
          limit: settings.attemptLimits.signupsPerAddress,
          windowSeconds: settings.attemptLimits.signupWindowSeconds,
        },
      ]);
      // Only saves the work of a hash: whoever comes at the same moment meets the unique index.
      if (await usernameExists(db, normalised)) throw refuse('user_already_exists', { resource: 'user' });
      return { passwordHash: await hasher.hash(body.password) };
    },
    async run({ tx, ctx, body, prepared }) {
      const name = acceptUsername(body.username);
      const userId = await insertUser(tx, {
        ...name,
        passwordHash: prepared.passwordHash,
        role: 'user',
        now: clock.now(),
      });
      const { tenantId, projectId } = await openPersonalTenant(tx, {
        userId,
        username: name.username,
        now: clock.now(),
      });
      await wallet.openWallet(tx, { tenantId, userId });
      const profile = await getUserProfile(tx, userId);
      const tokens = await sessions.open(tx, ctx, profile, BY_PASSWORD);
      await audit(
        tx,
        { ...ctx, principal: tokens.principal },
        {
          action: 'auth.signup',
          targetType: 'user',
          targetId: userId,
          tenantId,
          projectId,
          metadata: { method: 'password' },
        },
      );
      return { status: 201, body: { ...(await sessions.answer(tx, profile, tokens)), org_id: tenantId } };
    },
  });
}

/** A tenant of one person with its default project, both owned by them. */
export async function openPersonalTenant(tx: Tx, owner: { userId: UserId; username: string; now: Date }) {
  const { userId, username, now } = owner;
  const { tenantId, departmentId } = await insertTenant(tx, {
    type: 'personal',
    name: username,
    // unguessable, so that nobody takes the slug of an organisation to come
    slug: `${deriveSlug(username.split('@')[0] ?? '', 'personal').slice(0, 50)}-${randomBytes(5).toString('hex')}`,
    now,
  });
  const projectId = await insertProject(tx, { tenantId, departmentId, name: 'Default', slug: 'default', now });
  await insertTenantMembership(tx, { tenantId, userId, role: 'owner', now });
  await insertProjectMembership(tx, { tenantId, projectId, userId, role: 'owner', now });
  await setDefaultProjectOf(tx, userId, projectId, now);
  return { tenantId, projectId };
}

/** 200 or one and the same 401 for a wrong password and for a name that nobody has, after the same work. */
function login(parts: PersonalAccountParts): Exchange<'loginPersonal'> {
  const { db, clock, settings, hasher, sessions } = parts;
  return exchange<'loginPersonal'>(async ({ body, ctx }) => {
    if (!settings.personalAccounts.login) throw refuse('auth_personal_disabled');
    const normalised = normaliseUsername(body.username);
    const { attemptLimits: limits } = settings;
    const buckets: AttemptBucket[] = [
      {
        bucket: `login:username:${usernameBucket(normalised)}`,
        limit: limits.perUsername,
        windowSeconds: limits.windowSeconds,
      },
      {
        bucket: `login:address:${addressBucket(ctx.actorIp)}`,
        limit: limits.perAddress,
        windowSeconds: limits.windowSeconds,
      },
    ];
    const counted = clock.now();
    await demandAttempt(parts, ctx, 'auth.login', buckets);
    await refuseEnterpriseDomain(parts, body.username);

    const credential = await findCredential(db, normalised);
    const matches =
      mayBePassword(body.password) && (await hasher.verify(credential?.passwordHash ?? null, body.password));
    if (!credential || !matches) {
      await recordDenial(db, ctx, {
        action: 'auth.login',
        targetType: 'user',
        targetId: credential?.userId ?? null,
        targetUserId: credential?.userId ?? null,
        metadata: { reason: 'credentials_invalid' },
        who: `login:${usernameBucket(normalised)}`,
      });
      throw credentialsInvalid();
    }
    const verified = credential.passwordHash;
    const improved = verified !== null && hasher.isOutdated(verified) ? await hasher.hash(body.password) : null;

    const { profile, tokens } = await inTransaction(db, async (tx) => {
      const current = await shareUserForSession(tx, credential.userId);
      // Changed while the hash was checked: what was proven is no longer a proof.
      if (!current || current.passwordHash !== verified) throw credentialsInvalid();
      const user = await getUserProfile(tx, credential.userId);
      const issued = await sessions.open(tx, ctx, user, BY_PASSWORD);
      await forgiveAttempt(tx, buckets, counted);
      await audit(
        tx,
        { ...ctx, principal: issued.principal },
        {
          action: 'auth.login',
          targetType: 'user',
          targetId: user.userId,
          tenantId: user.tenantId,
          metadata: { method: 'password' },
        },
      );
      return { profile: user, tokens: issued };
    });
    if (improved !== null && verified !== null) await improveHash(parts, ctx, credential.userId, verified, improved);
    return { status: 200, body: await sessions.answer(db, profile, tokens) };
  });
}

/** Replaces a hash of older parameters; a password that changed meanwhile is left alone. */
async function improveHash(
  { db, clock }: PersonalAccountParts,
  ctx: RequestContext,
  userId: UserId,
  from: string,
  to: string,
): Promise<void> {
  await inTransaction(db, (tx) => replacePasswordHash(tx, userId, from, to, clock.now())).catch((error: unknown) => {
    ctx.log.warn({ error: String(error) }, 'a password hash was not renewed');
  });
}

/** Counts an attempt, or refuses with 429 and puts that on record. */
export async function demandAttempt(
  { db, clock }: Pick<PersonalAccountParts, 'db' | 'clock'>,
  ctx: RequestContext,
  action: string,
  buckets: readonly AttemptBucket[],
): Promise<void> {
  const verdict = await countAttempt(db, buckets, clock.now());
  if (verdict.allowed) return;
  await recordDenial(db, ctx, {
    action: 'rate_limit.block',
    targetType: 'operation',
    targetId: action,
    who: `${action}:${addressBucket(ctx.actorIp)}`,
    metadata: { retry_after_seconds: verdict.retryAfterSeconds },
  });
  throw new Refusal('rate_limit_exceeded', {
    details: { reason: 'too_many_attempts' },
    retryAfterSeconds: verdict.retryAfterSeconds,
    message: 'too many attempts; try again later',
  });
}

/** People of a domain that an organisation has proven sign in through it; asked of the domain alone, not of a user. */
async function refuseEnterpriseDomain({ db }: PersonalAccountParts, username: string): Promise<void> {
  const domain = domainOf(normaliseUsername(username));
  if (domain === null || (await findTenantOfDomain(db, domain)) === null) return;
  throw refuse('auth_enterprise_required', { reason: 'domain_belongs_to_an_organisation' });
}

function credentialsInvalid(): Refusal {
  return refuse('token_invalid', { reason: 'credentials_invalid' }, 'the username or the password is wrong');
}
