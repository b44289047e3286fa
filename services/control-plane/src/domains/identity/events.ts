import type { CallContext, Tx } from '../../spine/operation.js';
import { publish } from '../../spine/outbox.js';

/** What identity tells others, each with its payload. Names are stable; a breaking payload gets a new version. */
export interface IdentityEvents {
  'identity.ssh_key.revoked': {
    readonly ssh_key_id: string;
    readonly owner_scope: 'user' | 'project';
    readonly user_id: string | null;
    readonly project_id: string | null;
  };
  'identity.membership.changed': {
    readonly user_id: string;
    readonly tenant_id: string;
    readonly change: 'bound' | 'removed' | 'rehomed';
    /** projects in which the user's role changed or ended; empty where only the tenant role did */
    readonly project_ids: readonly string[];
  };
  'identity.session.revoked': { readonly session_id: string; readonly user_id: string; readonly reason: string };
  'identity.service_account.disabled': {
    readonly service_account_id: string;
    readonly project_id: string;
    readonly state: 'disabled' | 'deleted';
  };
  'identity.credential.rotated': { readonly service_account_id: string; readonly project_id: string };
  'identity.project.deleted': { readonly project_id: string; readonly tenant_id: string };
}

export type IdentityEventType = keyof IdentityEvents;

const AGGREGATES: Readonly<Record<IdentityEventType, string>> = {
  'identity.ssh_key.revoked': 'ssh_key',
  'identity.membership.changed': 'user',
  'identity.session.revoked': 'session',
  'identity.service_account.disabled': 'service_account',
  'identity.credential.rotated': 'service_account',
  'identity.project.deleted': 'project',
};

/** Records an event of identity in the caller's transaction. */
export async function announce<Type extends IdentityEventType>(
  tx: Tx,
  ctx: CallContext,
  type: Type,
  aggregateId: string,
  payload: IdentityEvents[Type],
): Promise<void> {
  await publish(tx, ctx, { type, aggregateType: AGGREGATES[type], aggregateId, payload: { ...payload } });
}
