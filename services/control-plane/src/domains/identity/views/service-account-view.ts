import type { Schema } from '@gpuaas/contract';
import { toWireTime, toWireTimeOrNull } from '../../../spine/wire.js';
import type { ServiceAccountRow } from '../store/service-accounts.js';

export function serviceAccountView(account: ServiceAccountRow): Schema<'ServiceAccount'> {
  return {
    id: account.id,
    org_id: account.tenantId,
    project_id: account.projectId,
    name: account.name,
    slug: account.slug,
    description: account.description,
    purpose: account.purpose,
    state: account.state,
    created_by_user_id: account.createdByUserId,
    created_at: toWireTime(account.createdAt),
    disabled_at: toWireTimeOrNull(account.disabledAt),
    deleted_at: toWireTimeOrNull(account.deletedAt),
  };
}
