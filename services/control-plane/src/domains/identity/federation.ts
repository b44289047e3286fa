import { randomBytes } from 'node:crypto';
import type { Clock } from '@gpuaas/kernel';
import { audit } from '../../spine/audit.js';
import type { Custody } from '../../spine/custody.js';
import type { CallContext, Tx } from '../../spine/operation.js';
import { badRequest, conflict, notFound } from '../../spine/refusal.js';
import type { IdentitySettings } from './dependencies.js';
import {
  decideIssuer,
  domainChallenge,
  isPublicMailDomain,
  normaliseDomain,
  provesDomain,
} from './rules/federation.js';
import {
  insertProvider,
  lockDomainBinding,
  lockProviderByName,
  providerBelongsTo,
  putDomainBinding,
  replaceProvider,
  setDomainVerification,
} from './store/federation.js';
import { lockTenant } from './store/tenants.js';

/** What a client secret is sealed for. */
export const CLIENT_SECRET_PURPOSE = 'identity.federation-client-secret';

export interface ProviderSettings {
  /** null: the platform's own, for people without an organisation */
  readonly tenantId: string | null;
  /** unique within its organisation; configuring a name again replaces what it had */
  readonly name: string;
  readonly issuer: string;
  readonly clientId: string;
  /** absent: the one that is kept stays; null: a public client */
  readonly clientSecret?: string | null;
  readonly enabled: boolean;
}

/** Configuration of sign-in at outside providers, for programs; each change leaves an audit row. */
export interface FederationConfiguration {
  /** Makes or replaces a provider; returns its id. Refuses with 400 an issuer that may not be asked. */
  configureProvider(tx: Tx, ctx: CallContext, provider: ProviderSettings): Promise<string>;
  /**
   * Binds a domain to a provider of the organisation. Routes nobody until it is verified: the answer tells the TXT
   * record that proves it, at `_gpuaas-challenge.<domain>`.
   */
  bindDomain(
    tx: Tx,
    ctx: CallContext,
    binding: { readonly tenantId: string; readonly providerId: string; readonly domain: string },
  ): Promise<{ readonly bindingId: string; readonly challenge: string }>;
  /** Judges the TXT records that were found; 409 `domain_bound_elsewhere` where another organisation was faster. */
  verifyDomain(
    tx: Tx,
    ctx: CallContext,
    evidence: { readonly bindingId: string; readonly txtRecords: readonly string[] },
  ): Promise<'verified' | 'failed'>;
}

export function createFederationConfiguration(parts: {
  readonly custody: Pick<Custody, 'seal' | 'destroy'>;
  readonly clock: Clock;
  readonly settings: Pick<IdentitySettings, 'allowsPlainHttpProviders'>;
}): FederationConfiguration {
  const { custody, clock, settings } = parts;
  return {
    async configureProvider(tx, ctx, provider) {
      const decision = decideIssuer(provider.issuer, settings.allowsPlainHttpProviders);
      if (!decision.ok) throw badRequest(decision.reason, '/body/issuer', 'must be an https URL without parts');
      if (provider.tenantId !== null && (await lockTenant(tx, provider.tenantId)).type !== 'enterprise') {
        throw conflict('tenant_not_enterprise', { resource: 'tenant' });
      }
      const { tenantId, name, issuer, clientId, clientSecret, enabled } = provider;
      const now = clock.now();
      const known = await lockProviderByName(tx, tenantId, name);
      const kept = known?.clientSecretRef ?? null;
      const clientSecretRef =
        clientSecret === undefined
          ? kept
          : clientSecret === null
            ? null
            : await custody.seal(tx, CLIENT_SECRET_PURPOSE, clientSecret);
      const configuration = { issuer, clientId, enabled, clientSecretRef, now };
      let providerId: string;
      if (known) {
        providerId = known.providerId;
        await replaceProvider(tx, providerId, configuration);
        if (kept !== null && kept !== clientSecretRef) await custody.destroy(tx, kept);
      } else {
        providerId = await insertProvider(tx, { ...configuration, tenantId, name });
      }
      await audit(tx, ctx, {
        action: 'federation.provider.configure',
        targetType: 'federation_provider',
        targetId: providerId,
        tenantId,
        metadata: { name, issuer, enabled, confidential: clientSecretRef !== null },
      });
      return providerId;
    },

    async bindDomain(tx, ctx, { tenantId, providerId, domain: text }) {
      const domain = normaliseDomain(text);
      if (domain === null) throw badRequest('domain_invalid', '/body/domain', 'must be a domain name');
      if (isPublicMailDomain(domain)) {
        throw badRequest('domain_public', '/body/domain', 'is a public mail service and belongs to nobody');
      }
      if (!(await providerBelongsTo(tx, providerId, tenantId))) throw notFound('federation_provider');
      const dnsToken = randomBytes(24).toString('base64url');
      const bindingId = await putDomainBinding(tx, { tenantId, domain, providerId, dnsToken, now: clock.now() });
      await audit(tx, ctx, {
        action: 'federation.domain.bind',
        targetType: 'federation_domain_binding',
        targetId: bindingId,
        tenantId,
        metadata: { domain },
      });
      return { bindingId, challenge: domainChallenge(dnsToken) };
    },

    async verifyDomain(tx, ctx, { bindingId, txtRecords }) {
      const binding = await lockDomainBinding(tx, bindingId);
      if (!binding) throw notFound('federation_domain_binding');
      const state = provesDomain(binding.dnsToken, txtRecords) ? 'verified' : 'failed';
      await setDomainVerification(tx, bindingId, state, clock.now());
      await audit(tx, ctx, {
        action: 'federation.domain.verify',
        targetType: 'federation_domain_binding',
        targetId: bindingId,
        tenantId: binding.tenantId,
        result: state === 'verified' ? 'success' : 'failure',
        metadata: { domain: binding.domain },
      });
      return state;
    },
  };
}
