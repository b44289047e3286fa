import type { Clock, Logger } from '@gpuaas/kernel';
import { createFinanceDomain, openWallet, walletBalancesOfPage } from '../domains/finance/index.js';
import type { AttemptLimits, PasswordHashing, SessionLifetimes } from '../domains/identity/index.js';
import { createIdentityDomain } from '../domains/identity/index.js';
import type { CertificateAuthority } from '../spine/certificate-authority.js';
import type { Custody } from '../spine/custody.js';
import type { DomainModule } from '../spine/domain.js';
import type { OperationHandlers, Reader } from '../spine/operation.js';
import type { Policies } from '../spine/policy-registry.js';
import type { Signals } from '../spine/signals.js';

export interface DomainSettings {
  readonly passwordHashing?: PasswordHashing;
  readonly attemptLimits?: AttemptLimits;
  readonly sessionLifetimes?: SessionLifetimes;
}

export interface DomainParts {
  readonly db: Reader;
  readonly custody: Custody;
  readonly policies: Policies;
  readonly authority: CertificateAuthority;
  readonly signals: Signals;
  readonly clock: Clock;
  readonly log: Logger;
  nodeApiUrl(): string;
  readonly acceptsInternalTokens: boolean;
  readonly settings: DomainSettings;
}
