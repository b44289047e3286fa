import type { Schema } from '@gpuaas/contract';
import type { Clock, Logger, ProjectId, TenantId, UserId } from '@gpuaas/kernel';
import type { Custody } from '../../spine/custody.js';
import type { Reader, Tx } from '../../spine/operation.js';
import type { Policies } from '../../spine/policy-registry.js';
import type { PasswordHashing } from './crypto/password-hasher.js';
import type { OidcClient } from './oidc-client.js';
import type { AttemptLimits } from './rules/attempts.js';
import type { SessionLifetimes } from './rules/session.js';

/** What identity needs of finance, in its own words. */
export interface WalletPort {
  /** Opens a person's wallet at zero; may be repeated. */
  openWallet(tx: Tx, owner: { readonly tenantId: TenantId; readonly userId: UserId }): Promise<void>;
  /** Balances in the default currency by user id; someone without a wallet is missing. */
  walletBalancesOfPage(
    reader: Reader,
    owners: readonly { readonly tenantId: TenantId; readonly userId: UserId }[],
  ): Promise<ReadonlyMap<string, Schema<'Money'>>>;
}

/** What still lives in a project, by kind (`allocations`, `app_instances`, `buckets`); asked under the project's lock. */
export type ProjectUsage = (tx: Tx, projectId: ProjectId) => Promise<Readonly<Record<string, number>>>;

export interface IdentitySettings {
  /** `iss` and `aud` of access tokens: the address of this site */
  readonly tokenIssuer: string;
  readonly tokenAudience: string;
  readonly accessTokenSeconds: number;
  readonly sessionLifetimes: SessionLifetimes;
  readonly passwordHashing: PasswordHashing;
  readonly attemptLimits: AttemptLimits;
  /** whether people may sign in and up with a password of their own */
  readonly personalAccounts: { readonly login: boolean; readonly signup: boolean };
  /** where a browser may be sent back to after a sign-in at a provider; compared exactly, none by default */
  readonly signInRedirectUris: readonly string[];
  /** development: providers may be reached over plain HTTP */
  readonly allowsPlainHttpProviders: boolean;
  /** the currency in which someone without any wallet has nothing */
  readonly currency: string;
}

export interface IdentityDependencies {
  /** the read-write pool: for work outside a request's transaction, such as counting failed sign-ins */
  readonly db: Reader;
  readonly custody: Custody;
  readonly policies: Policies;
  readonly clock: Clock;
  readonly log: Logger;
  readonly wallet: WalletPort;
  readonly oidcClient: OidcClient;
  readonly projectUsage: readonly ProjectUsage[];
  /** absent ones have the documented defaults */
  readonly settings: Partial<IdentitySettings> & Pick<IdentitySettings, 'tokenIssuer' | 'tokenAudience'>;
}
