import { audit } from '../../../spine/audit.js';
import { command } from '../../../spine/operation.js';
import { publish } from '../../../spine/outbox.js';
import { badRequest } from '../../../spine/refusal.js';
import { toWireTime } from '../../../spine/wire.js';
import { effectsOf } from '../rules/restriction.js';
import { setRestriction } from '../store/restrictions.js';
import { findRestrictionScope } from '../views/directory.js';

/** Free text and objects that come in are kept for good; so much of them is kept. */
const METADATA_CHARACTERS = 65_536;

/**
 * Sets the operator's word about a person, a project or a tenant. It bars new spending only: nothing that runs is
 * stopped, and what depletion or a chargeback says stays as it is.
 */
export const adminSetFinancialRestriction = command<'adminSetFinancialRestriction'>(
  async ({ tx, ctx, path, body }) => {
    const scope = await findRestrictionScope(tx, path.scope_type, path.scope_id);
    if (scope === undefined) throw badRequest('scope_not_found', '/path/scope_id', `no such ${path.scope_type}`);
    if (JSON.stringify(body.metadata ?? {}).length > METADATA_CHARACTERS)
      throw badRequest('metadata_too_large', '/body/metadata', `holds more than ${METADATA_CHARACTERS} characters`);

    const { restriction, from } = await setRestriction(tx, ctx, {
      scopeType: path.scope_type,
      scopeId: path.scope_id,
      source: 'operator',
      state: body.state,
      reason: body.reason,
      metadata: body.metadata ?? {},
    });
    await audit(tx, ctx, {
      action: 'billing.financial_restriction.set',
      targetType: path.scope_type,
      targetId: path.scope_id,
      targetUserId: path.scope_type === 'user' ? path.scope_id : null,
      projectId: path.scope_type === 'project' ? path.scope_id : null,
      tenantId: scope.tenantId,
      metadata: { from, to: body.state, reason: body.reason },
    });
    await publish(tx, ctx, {
      type: 'platform.billing.restriction.changed',
      aggregateType: 'financial_restriction',
      aggregateId: restriction.id,
      payload: { scope_type: path.scope_type, scope_id: path.scope_id, source: 'operator', from, to: body.state },
    });
    return {
      status: 200,
      body: {
        id: restriction.id,
        scope_type: restriction.scopeType,
        scope_id: restriction.scopeId,
        state: restriction.state,
        reason: restriction.reason,
        effects: { ...effectsOf(restriction.state) },
        correlation_id: restriction.correlationId,
        updated_at: toWireTime(restriction.updatedAt),
      },
    };
  },
  { keepsKeyForMoney: true },
);
