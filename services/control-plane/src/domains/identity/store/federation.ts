import { asId, newId, type TenantId, type UserId } from '@gpuaas/kernel';
import { sql } from 'kysely';
import type { SecretRef } from '../../../spine/custody.js';
import type { Reader, Tx } from '../../../spine/operation.js';
import type { ProviderChoice } from '../rules/federation.js';
import { guarded } from './constraints.js';

export interface FederationProvider {
  readonly providerId: string;
  readonly tenantId: TenantId | null;
  readonly name: string;
  readonly issuer: string;
  readonly clientId: string;
  readonly clientSecretRef: SecretRef | null;
  /** changes with every configuration: what was learnt of a provider before is worth nothing after */
  readonly revision: string;
}

/** Providers that people may be sent to: enabled, and of an organisation that still exists. */
function openProviders(reader: Reader) {
  return reader
    .selectFrom('federation_providers as f')
    .leftJoin('tenants as t', 't.id', 'f.tenant_id')
    .where('f.enabled', '=', true)
    .where((eb) => eb.or([eb('f.tenant_id', 'is', null), eb('t.deleted_at', 'is', null)]));
}

export async function findOpenProvider(reader: Reader, providerId: string): Promise<FederationProvider | null> {
  const row = await openProviders(reader)
    .select(['f.id', 'f.tenant_id', 'f.name', 'f.issuer', 'f.client_id', 'f.client_secret_ref', 'f.updated_at'])
    .where('f.id', '=', providerId)
    .executeTakeFirst();
  return row
    ? {
        providerId: row.id,
        tenantId: row.tenant_id === null ? null : asId(row.tenant_id),
        name: row.name,
        issuer: row.issuer,
        clientId: row.client_id,
        clientSecretRef: row.client_secret_ref === null ? null : asId(row.client_secret_ref),
        revision: `${row.id}@${row.updated_at.toISOString()}`,
      }
    : null;
}

/** Enough to tell one from several: nobody is asked to choose. */
const AMBIGUOUS = 20;

/** The platform's own providers that are open. */
export async function findPlatformProviders(reader: Reader): Promise<readonly (ProviderChoice & { name: string })[]> {
  const rows = await openProviders(reader)
    .select(['f.id', 'f.name'])
    .where('f.tenant_id', 'is', null)
    .orderBy('f.id')
    .limit(AMBIGUOUS)
    .execute();
  return rows.map((row) => ({ providerId: row.id, tenantId: null, name: row.name }));
}

/** The open providers of the organisation with a slug. */
export async function findProvidersOfSlug(reader: Reader, slug: string): Promise<readonly ProviderChoice[]> {
  const rows = await openProviders(reader)
    .select(['f.id', 'f.tenant_id'])
    .where('t.slug', '=', slug)
    .orderBy('f.id')
    .limit(AMBIGUOUS)
    .execute();
  return rows.map((row) => ({ providerId: row.id, tenantId: row.tenant_id }));
}

/** The open provider behind a proven domain. */
export async function findProviderOfDomain(reader: Reader, domain: string): Promise<ProviderChoice | null> {
  const row = await openProviders(reader)
    .innerJoin('federation_domain_bindings as b', 'b.provider_id', 'f.id')
    .select(['f.id', 'f.tenant_id'])
    .where('b.domain', '=', domain)
    .where('b.verification_state', '=', 'verified')
    .executeTakeFirst();
  return row ? { providerId: row.id, tenantId: row.tenant_id } : null;
}

/** The organisation that has proven a domain, whether or not its provider is open. */
export async function findTenantOfDomain(reader: Reader, domain: string): Promise<TenantId | null> {
  const row = await reader
    .selectFrom('federation_domain_bindings as b')
    .innerJoin('tenants as t', 't.id', 'b.tenant_id')
    .select('b.tenant_id')
    .where('b.domain', '=', domain)
    .where('b.verification_state', '=', 'verified')
    .where('t.deleted_at', 'is', null)
    .executeTakeFirst();
  return row ? asId(row.tenant_id) : null;
}

/** Locks the provider of that name until commit, if there is one. */
export async function lockProviderByName(
  tx: Tx,
  tenantId: string | null,
  name: string,
): Promise<{ providerId: string; clientSecretRef: SecretRef | null } | null> {
  const row = await tx
    .selectFrom('federation_providers')
    .select(['id', 'client_secret_ref'])
    .where(sql<boolean>`tenant_id IS NOT DISTINCT FROM ${tenantId}::uuid`)
    .where('name', '=', name)
    .forNoKeyUpdate()
    .executeTakeFirst();
  return row
    ? { providerId: row.id, clientSecretRef: row.client_secret_ref === null ? null : asId(row.client_secret_ref) }
    : null;
}

export interface ProviderConfiguration {
  readonly enabled: boolean;
  readonly issuer: string;
  readonly clientId: string;
  readonly clientSecretRef: SecretRef | null;
  readonly now: Date;
}

export async function insertProvider(
  tx: Tx,
  provider: ProviderConfiguration & { readonly tenantId: string | null; readonly name: string },
): Promise<string> {
  const id = newId<'federation_provider'>();
  await guarded(
    tx
      .insertInto('federation_providers')
      .values({
        id,
        tenant_id: provider.tenantId,
        name: provider.name,
        enabled: provider.enabled,
        issuer: provider.issuer,
        client_id: provider.clientId,
        client_secret_ref: provider.clientSecretRef,
        created_at: provider.now,
        updated_at: provider.now,
      })
      .execute(),
  );
  return id;
}

export async function replaceProvider(tx: Tx, providerId: string, provider: ProviderConfiguration): Promise<void> {
  await tx
    .updateTable('federation_providers')
    .set({
      enabled: provider.enabled,
      issuer: provider.issuer,
      client_id: provider.clientId,
      client_secret_ref: provider.clientSecretRef,
      updated_at: provider.now,
    })
    .where('id', '=', providerId)
    .execute();
}

/** Whether a provider is that organisation's. */
export async function providerBelongsTo(reader: Reader, providerId: string, tenantId: string): Promise<boolean> {
  const row = await reader
    .selectFrom('federation_providers')
    .select('id')
    .where('id', '=', providerId)
    .where('tenant_id', '=', tenantId)
    .executeTakeFirst();
  return row !== undefined;
}

/** A binding to prove, or the one that is there with a new provider and a new proof to give. */
export async function putDomainBinding(
  tx: Tx,
  binding: { tenantId: string; domain: string; providerId: string; dnsToken: string; now: Date },
): Promise<string> {
  const row = await tx
    .insertInto('federation_domain_bindings')
    .values({
      id: newId(),
      tenant_id: binding.tenantId,
      domain: binding.domain,
      provider_id: binding.providerId,
      verification_state: 'pending',
      dns_token: binding.dnsToken,
      created_at: binding.now,
      updated_at: binding.now,
    })
    .onConflict((conflict) =>
      conflict.constraint('federation_domain_bindings_once').doUpdateSet({
        provider_id: binding.providerId,
        verification_state: 'pending',
        dns_token: binding.dnsToken,
        updated_at: binding.now,
      }),
    )
    .returning('id')
    .executeTakeFirstOrThrow();
  return row.id;
}

export async function lockDomainBinding(
  tx: Tx,
  bindingId: string,
): Promise<{ tenantId: string; domain: string; dnsToken: string } | null> {
  const row = await tx
    .selectFrom('federation_domain_bindings')
    .select(['tenant_id', 'domain', 'dns_token'])
    .where('id', '=', bindingId)
    .forNoKeyUpdate()
    .executeTakeFirst();
  return row ? { tenantId: row.tenant_id, domain: row.domain, dnsToken: row.dns_token } : null;
}

/** Refuses with 409 where another organisation has proven the domain. */
export async function setDomainVerification(
  tx: Tx,
  bindingId: string,
  state: 'verified' | 'failed',
  now: Date,
): Promise<void> {
  await guarded(
    tx
      .updateTable('federation_domain_bindings')
      .set({ verification_state: state, updated_at: now })
      .where('id', '=', bindingId)
      .execute(),
  );
}

export interface NewAuthState {
  readonly stateHash: Uint8Array;
  readonly tenantId: string | null;
  readonly providerId: string;
  readonly redirectUri: string;
  readonly codeChallenge: string;
  readonly nonce: string;
  readonly action: string | null;
  readonly now: Date;
  readonly expiresAt: Date;
}

export async function insertAuthState(db: Reader, state: NewAuthState): Promise<void> {
  await db
    .insertInto('auth_states')
    .values({
      id: newId(),
      state_hash: Buffer.from(state.stateHash),
      kind: 'oidc',
      tenant_id: state.tenantId,
      provider_id: state.providerId,
      redirect_uri: state.redirectUri,
      code_challenge: state.codeChallenge,
      nonce: state.nonce,
      action: state.action,
      created_at: state.now,
      expires_at: state.expiresAt,
    })
    .execute();
}

export interface ConsumedAuthState {
  readonly providerId: string;
  readonly redirectUri: string;
  readonly codeChallenge: string;
  readonly nonce: string;
}

/** Burns a state that is fresh; null for one that is unknown, used or too old. Of several at once one gets it. */
export async function consumeAuthState(
  db: Reader,
  stateHash: Uint8Array,
  now: Date,
): Promise<ConsumedAuthState | null> {
  const row = await db
    .updateTable('auth_states')
    .set({ consumed_at: now })
    .where('state_hash', '=', Buffer.from(stateHash))
    .where('kind', '=', 'oidc')
    .where('consumed_at', 'is', null)
    .where('expires_at', '>', now)
    .returning(['provider_id', 'redirect_uri', 'code_challenge', 'nonce'])
    .executeTakeFirst();
  return row
    ? {
        providerId: row.provider_id,
        redirectUri: row.redirect_uri,
        codeChallenge: row.code_challenge,
        nonce: row.nonce,
      }
    : null;
}

/** Removes sign-ins that nobody can finish any more; bounded. */
export async function sweepAuthStates(db: Reader, expiredBefore: Date): Promise<void> {
  await sql`DELETE FROM auth_states WHERE id IN (
    SELECT id FROM auth_states WHERE expires_at < ${expiredBefore} ORDER BY expires_at LIMIT 10000)`.execute(db);
}

export interface LinkFacts {
  /** the user behind the active link, unless deleted */
  readonly userId: UserId | null;
  readonly wasRevoked: boolean;
}

/** What is known of an identity. A link of a user who was deleted counts as revoked. */
export async function findLink(reader: Reader, issuer: string, subject: string): Promise<LinkFacts> {
  const rows = await reader
    .selectFrom('identity_links as l')
    .innerJoin('users as u', 'u.id', 'l.user_id')
    .select(['l.user_id', 'l.state', 'u.deleted_at'])
    .where('l.issuer', '=', issuer)
    .where('l.subject', '=', subject)
    .where('l.state', 'in', ['active', 'revoked'])
    .execute();
  const active = rows.find((row) => row.state === 'active' && row.deleted_at === null);
  return { userId: active ? asId(active.user_id) : null, wasRevoked: active === undefined && rows.length > 0 };
}

export interface FederatedIdentity {
  readonly providerName: string;
  readonly issuer: string;
  readonly subject: string;
  readonly email: string | null;
  readonly emailVerified: boolean;
}

/** Links an identity that nobody has. Refuses with 409 where somebody was faster. */
export async function insertFederatedLink(
  tx: Tx,
  userId: string,
  identity: FederatedIdentity,
  now: Date,
): Promise<void> {
  await guarded(
    tx
      .insertInto('identity_links')
      .values(linkValues(userId, identity, 'active', now))
      .execute(),
  );
}

/** Notes that an identity claims somebody's address; once, however often it comes. */
export async function insertConflictingLink(
  tx: Tx,
  userId: string,
  identity: FederatedIdentity,
  now: Date,
): Promise<void> {
  await tx
    .insertInto('identity_links')
    .values(linkValues(userId, identity, 'pending_conflict', now))
    .onConflict((conflict) =>
      conflict.columns(['issuer', 'subject', 'user_id']).where('state', '=', 'pending_conflict').doNothing(),
    )
    .execute();
}

function linkValues(userId: string, identity: FederatedIdentity, state: 'active' | 'pending_conflict', now: Date) {
  return {
    id: newId(),
    user_id: userId,
    provider_type: 'oidc' as const,
    provider_name: identity.providerName,
    issuer: identity.issuer,
    subject: identity.subject,
    email: identity.email,
    email_verified: identity.emailVerified,
    state,
    is_primary: state === 'active',
    created_at: now,
    updated_at: now,
  };
}

/** Someone who goes by an address, as their e-mail or as their name; also someone deleted, whose name stays taken. */
export async function findUserByEmail(reader: Reader, email: string): Promise<UserId | null> {
  const row = await reader
    .selectFrom('users')
    .select('id')
    .where((eb) => eb.or([eb('username_norm', '=', email), eb(sql`lower(email)`, '=', email)]))
    .orderBy(sql`deleted_at IS NOT NULL`)
    .orderBy('created_at')
    .limit(1)
    .executeTakeFirst();
  return row ? asId(row.id) : null;
}

/** Notes the address that a provider has vouched for. */
export async function setVerifiedEmail(tx: Tx, userId: string, emailVerified: boolean, now: Date): Promise<void> {
  await tx
    .updateTable('users')
    .set({ email_verified: emailVerified, updated_at: now })
    .where('id', '=', userId)
    .execute();
}
