import { z } from 'zod';
import type { CallContext, Tx } from '../../../spine/operation.js';
import type { EventSubscriber } from '../../../spine/relay.js';
import type { FleetPort } from '../ports.js';
import { acceptsAccessChanges } from '../rules/allocation-state.js';
import { findGrantsOfPerson, findGrantsWithKey, revokeGrant } from '../store/access-grants.js';
import { lockAllocations } from '../store/allocations.js';
import { allocationsWithKey, deleteOwnerKey } from '../store/keys.js';
import { findProjectMember } from '../views/project-members.js';
import { changeKeySet } from './key-sync.js';

const keyRevoked = z.object({ ssh_key_id: z.guid() });
const membershipChanged = z.object({ user_id: z.guid(), tenant_id: z.guid() });

/** Whoever loses a key or a membership loses the access that it gave, on every host. */
export function accessSubscribers(fleet: FleetPort): readonly EventSubscriber[] {
  return [
    {
      name: 'compute.revoked-keys',
      eventTypes: ['identity.ssh_key.revoked'],
      async handle(tx, ctx, event) {
        const { ssh_key_id: keyId } = keyRevoked.parse(event.payload);
        const allocations = await lockAllocations(tx, await allocationsWithKey(tx, keyId));
        const grants = await findGrantsWithKey(tx, keyId);
        for (const allocation of allocations) {
          await deleteOwnerKey(tx, allocation.id, keyId);
          for (const grant of grants.filter((one) => one.allocation_id === allocation.id)) {
            await revokeGrant(tx, grant.id, null, allocation.keySetVersion + 1, ctx.clock.now());
          }
          if (acceptsAccessChanges(allocation.status)) await changeKeySet(tx, ctx, fleet, allocation);
        }
      },
    },
    {
      name: 'compute.lost-memberships',
      eventTypes: ['identity.membership.changed'],
      async handle(tx, ctx, event) {
        const { user_id: userId, tenant_id: tenantId } = membershipChanged.parse(event.payload);
        await revokeGrantsOfFormerMember(tx, ctx, fleet, { userId, tenantId });
      },
    },
  ];
}

async function revokeGrantsOfFormerMember(
  tx: Tx,
  ctx: CallContext,
  fleet: FleetPort,
  person: { readonly userId: string; readonly tenantId: string },
): Promise<void> {
  const grants = await findGrantsOfPerson(tx, person);
  const allocations = await lockAllocations(
    tx,
    grants.map((grant) => grant.allocation_id),
  );
  for (const allocation of allocations) {
    // The event says that something changed; what is so now is asked of the tables.
    if ((await findProjectMember(tx, allocation.projectId, person.userId)) !== null) continue;
    for (const grant of grants.filter((one) => one.allocation_id === allocation.id)) {
      await revokeGrant(tx, grant.id, null, allocation.keySetVersion + 1, ctx.clock.now());
    }
    if (acceptsAccessChanges(allocation.status)) await changeKeySet(tx, ctx, fleet, allocation);
  }
}
