import type { Schema } from '@gpuaas/contract';
import { toWireTime, toWireTimeOrNull } from '../../../spine/wire.js';
import type { SshKeyRow } from '../store/ssh-keys.js';

export function sshKeyView(key: SshKeyRow): Schema<'SshPublicKey'> {
  return {
    id: key.id,
    owner_scope: key.ownerScope,
    user_id: key.userId,
    project_id: key.projectId,
    created_by_service_account_id: key.createdByServiceAccountId,
    name: key.name,
    public_key: key.publicKey,
    fingerprint: key.fingerprint,
    is_default: key.isDefault,
    last_used_at: toWireTimeOrNull(key.lastUsedAt),
    created_at: toWireTime(key.createdAt),
    revoked_at: toWireTimeOrNull(key.revokedAt),
  };
}
