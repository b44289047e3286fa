import { addressBucket, equalBytes, newId } from '@gpuaas/kernel';
import { audit } from '../../../spine/audit.js';
import { exchange, type OperationHandlers, type RequestContext } from '../../../spine/operation.js';
import type { ServiceAccountScope } from '../../../spine/principal.js';
import { badRequest, type Refusal, refuse } from '../../../spine/refusal.js';
import { inTransaction } from '../../../spine/transaction.js';
import type { AccessTokens } from '../crypto/access-tokens.js';
import { secretHash } from '../crypto/opaque-tokens.js';
import { recordDenial } from '../denials.js';
import type { IdentityDependencies } from '../dependencies.js';
import { decideScopes } from '../rules/service-accounts.js';
import { insertMachineToken, type ServiceAccountRow, shareLiveKey } from '../store/service-accounts.js';

export interface MachineTokenParts extends Pick<IdentityDependencies, 'db' | 'clock' | 'policies'> {
  readonly tokens: AccessTokens;
  readonly audience: string;
}

type Minting =
  | {
      readonly outcome: 'refused';
      readonly refusal: Refusal;
      readonly account: ServiceAccountRow | null;
      readonly why: string;
    }
  | {
      readonly outcome: 'minted';
      readonly account: ServiceAccountRow;
      readonly jti: string;
      readonly scopes: readonly ServiceAccountScope[];
      readonly lifetimeSeconds: number;
    };

const ACTION = 'auth.service_account.token';

export function machineTokenOperations(parts: MachineTokenParts): OperationHandlers {
  const { db, clock, policies, tokens, audience } = parts;
  return {
    /**
     * 200: a short-lived token for the account's own project. Who cannot show the secret learns nothing: unknown
     * account, unknown key and wrong secret are one 401, and whether the account is disabled comes after it.
     */
    createServiceAccountToken: exchange<'createServiceAccountToken'>(async ({ ctx, body }) => {
      if (body.audience !== undefined && body.audience !== audience) {
        throw badRequest('audience_unknown', '/body/audience', 'is not an audience of this site');
      }
      const minting = await inTransaction(db, async (tx): Promise<Minting> => {
        const key = await shareLiveKey(tx, body.service_account_id, body.key_id);
        const genuine = key !== undefined && equalBytes(key.secretHash, secretHash(body.client_secret));
        if (!genuine) {
          return {
            outcome: 'refused',
            refusal: refuse('token_invalid', { reason: 'credentials_invalid' }, 'the credentials are not valid'),
            account: null,
            why: 'credentials_invalid',
          };
        }
        const { account } = key;
        const refusedWith = (refusal: Refusal, why: string): Minting => ({ outcome: 'refused', refusal, account, why });
        if (account.state !== 'active') {
          return refusedWith(
            refuse('insufficient_permissions', { reason: 'service_account_disabled' }),
            'service_account_disabled',
          );
        }
        const decision = decideScopes(account.purpose, body.scope);
        if (!decision.ok) {
          return refusedWith(
            refuse('token_scope_invalid', { reason: 'scope_exceeds_purpose' }),
            'scope_exceeds_purpose',
          );
        }
        const lifetimeSeconds = await policies.policyNumber(tx, 'auth.service_account_token_ttl_seconds', {
          projectId: account.projectId,
          tenantId: account.tenantId,
        });
        const jti = newId();
        const expiresAt = new Date(clock.now().getTime() + lifetimeSeconds * 1000);
        await insertMachineToken(tx, { jti, keyId: body.key_id, expiresAt });
        await audit(tx, asAccount(ctx, account, decision.scopes), {
          action: ACTION,
          targetType: 'service_account',
          targetId: account.id,
          tenantId: account.tenantId,
          projectId: account.projectId,
          metadata: { key_id: body.key_id, scopes: decision.scopes },
        });
        return { outcome: 'minted', account, jti, scopes: decision.scopes, lifetimeSeconds };
      });

      if (minting.outcome === 'refused') {
        await recordDenial(db, ctx, {
          action: ACTION,
          targetType: 'service_account',
          targetId: minting.account?.id ?? null,
          tenantId: minting.account?.tenantId ?? null,
          projectId: minting.account?.projectId ?? null,
          metadata: { reason: minting.why },
          // an id that does not exist is no actor: whoever makes ids up is known by the address
          who: minting.account ? `service_account:${minting.account.id}` : `address:${addressBucket(ctx.actorIp)}`,
        });
        throw minting.refusal;
      }
      const { account, jti, scopes, lifetimeSeconds } = minting;
      const token = await tokens.sign(
        {
          actor_type: 'service_account',
          sub: account.id,
          org_id: account.tenantId,
          project_id: account.projectId,
          scope: [...scopes],
          jti,
        },
        lifetimeSeconds,
      );
      return {
        status: 200,
        body: { access_token: token, expires_in_seconds: lifetimeSeconds, token_type: 'Bearer' },
      };
    }),
  };
}

/** The context as of the robot that has just proven who it is. */
function asAccount(
  ctx: RequestContext,
  account: ServiceAccountRow,
  scopes: readonly ServiceAccountScope[],
): RequestContext {
  return {
    ...ctx,
    principal: {
      kind: 'service_account',
      serviceAccountId: account.id,
      projectId: account.projectId,
      tenantId: account.tenantId,
      createdByUserId: account.createdByUserId,
      scopes: new Set(scopes),
      purpose: account.purpose,
    },
  };
}
