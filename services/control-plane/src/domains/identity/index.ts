import type { ProjectId, UserId } from '@gpuaas/kernel';
import type { AuditEntry } from '../../spine/audit.js';
import type { DomainModule } from '../../spine/domain.js';
import type { CallContext } from '../../spine/operation.js';
import { jobContext } from '../../spine/periodic-jobs.js';
import { ensureOperatorWithPassword, type OperatorOutcome } from './bootstrap.js';
import { createAccessTokens } from './crypto/access-tokens.js';
import { createPasswordHasher, DEFAULT_PASSWORD_HASHING } from './crypto/password-hasher.js';
import { createSigningKeyRing } from './crypto/signing-keys.js';
import { recordDenial } from './denials.js';
import type { IdentityDependencies, IdentitySettings } from './dependencies.js';
import { type AuthenticateBearer, createAuthenticateBearer, projectScopeOf } from './faces.js';
import { createFederationConfiguration, type FederationConfiguration } from './federation.js';
import { identityJobs } from './jobs.js';
import { auditLogOperations } from './operations/audit-logs.js';
import { federatedSignInOperations } from './operations/federated-sign-in.js';
import { machineTokenOperations } from './operations/machine-tokens.js';
import { personalAccountOperations } from './operations/personal-accounts.js';
import { platformRoleOperations } from './operations/platform-roles.js';
import { projectOperations } from './operations/projects.js';
import { serviceAccountOperations } from './operations/service-accounts.js';
import { sessionOperations } from './operations/sessions.js';
import { sshKeyOperations } from './operations/ssh-keys.js';
import { tenantMemberOperations } from './operations/tenant-members.js';
import { userOperations } from './operations/users.js';
import { createPresenceRecorder } from './presence.js';
import { DEFAULT_ATTEMPT_LIMITS } from './rules/attempts.js';
import { DEFAULT_SESSION_LIFETIMES } from './rules/session.js';
import { createSessionIssuer } from './sign-in.js';
import { createUserViews } from './views/user-view.js';

export { OperatorNameTaken, type OperatorOutcome } from './bootstrap.js';
export type { PasswordHashing } from './crypto/password-hasher.js';
export type { IdentityDependencies, IdentitySettings, ProjectUsage, WalletPort } from './dependencies.js';
export type { IdentityEvents, IdentityEventType } from './events.js';
export { type AuthenticateBearer, projectScopeOf } from './faces.js';
export type { FederationConfiguration, ProviderSettings } from './federation.js';
export {
  type OidcClient,
  type OidcIdentity,
  type OidcProviderAccess,
  OidcProviderUnavailable,
  OidcRejection,
} from './oidc-client.js';
export type { AttemptLimits } from './rules/attempts.js';
export type { SessionLifetimes } from './rules/session.js';
export { type PosixIdentity, posixIdentityOf } from './store/posix-identities.js';
export { shareProject } from './store/projects.js';
export { type SshKeyChoice, type SshKeyRef, sshKeysFor } from './store/ssh-keys.js';

export type { ProjectId, UserId };

export const DEFAULT_IDENTITY_SETTINGS: Omit<IdentitySettings, 'tokenIssuer' | 'tokenAudience'> = {
  accessTokenSeconds: 900,
  sessionLifetimes: DEFAULT_SESSION_LIFETIMES,
  passwordHashing: DEFAULT_PASSWORD_HASHING,
  attemptLimits: DEFAULT_ATTEMPT_LIMITS,
  personalAccounts: { login: true, signup: true },
  signInRedirectUris: [],
  allowsPlainHttpProviders: false,
  currency: 'USD',
};

export interface IdentityDomain extends DomainModule {
  /** Who a bearer token stands for at this moment; refuses with 401 `token_invalid` or `token_expired`. */
  readonly authenticateBearer: AuthenticateBearer;
  /** The project as a principal may work in it; null where it is unknown or not theirs. */
  readonly projectScopeOf: typeof projectScopeOf;
  /** Puts a refusal on record, once an actor, action and minute, in a transaction of its own. */
  recordDenial(ctx: CallContext, denial: Omit<AuditEntry, 'result'> & { readonly who?: string }): Promise<void>;
  /**
   * Makes the first operator, a superadmin without a tenant; may be repeated. An existing password stays unless a
   * reset is asked for. Throws OperatorNameTaken.
   */
  ensureOperator(account: {
    readonly username: string;
    readonly password: string;
    readonly resetPassword?: boolean;
  }): Promise<OperatorOutcome>;
  /** Configures outside identity providers and the domains that lead to them; no operation of the contract does. */
  readonly federation: FederationConfiguration;
  /** Makes the first signing key and reads those that are there, so that no request has to. */
  start(): Promise<void>;
  /** Writes down what was remembered of sessions in use. */
  close(): Promise<void>;
}

export function createIdentityDomain(dependencies: IdentityDependencies): IdentityDomain {
  const { db, custody, policies, clock, log, wallet, oidcClient, projectUsage } = dependencies;
  const settings: IdentitySettings = { ...DEFAULT_IDENTITY_SETTINGS, ...dependencies.settings };
  const lifetimes = settings.sessionLifetimes;
  const ring = createSigningKeyRing(db, custody, clock);
  const tokens = createAccessTokens(ring, { issuer: settings.tokenIssuer, audience: settings.tokenAudience }, clock);
  const hasher = createPasswordHasher(settings.passwordHashing);
  const presence = createPresenceRecorder(db, log);
  const views = createUserViews(wallet, settings.currency);
  const sessions = createSessionIssuer({
    tokens,
    clock,
    lifetimes,
    accessTokenSeconds: settings.accessTokenSeconds,
    views,
  });

  return {
    name: 'identity',
    operations: {
      ...personalAccountOperations({ db, clock, wallet, settings, hasher, sessions }),
      ...federatedSignInOperations({ db, clock, custody, wallet, oidcClient, settings, sessions }),
      ...sessionOperations({ db, clock, custody, sessions, lifetimes }),
      ...userOperations({ clock, hasher, views }),
      ...projectOperations({ clock, projectUsage }),
      ...sshKeyOperations({ clock }),
      ...serviceAccountOperations({ clock }),
      ...machineTokenOperations({ db, clock, policies, tokens, audience: settings.tokenAudience }),
      ...tenantMemberOperations({ clock, wallet, hasher }),
      ...platformRoleOperations({ clock }),
      ...auditLogOperations({ db, clock }),
    },
    periodicJobs: identityJobs({ clock, ring, lifetimes }),
    authenticateBearer: createAuthenticateBearer({ tokens, clock, lifetimes, presence }),
    projectScopeOf,
    federation: createFederationConfiguration({ custody, clock, settings }),
    recordDenial: (ctx, denial) => recordDenial(db, ctx, denial),
    ensureOperator: (account) =>
      ensureOperatorWithPassword({ db, hasher, clock }, jobContext('bootstrap', { clock, log }), account),
    start: async () => {
      await ring.signingKey();
    },
    close: () => presence.flush(),
  };
}
