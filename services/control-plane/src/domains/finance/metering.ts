import type { AllocationId, ProjectId, TenantId, UserId } from '@gpuaas/kernel';
import type { CallContext, Tx } from '../../spine/operation.js';
import { chargeRatings, reverseCharges } from './charging.js';
import { RATING_RULE, rateUsage } from './rules/rating.js';
import { dropHolds } from './store/holds.js';
import { ensurePriceVersion } from './store/price-versions.js';
import { lockOpenUsage, openAllocationUsage } from './store/usage.js';

export interface MeteringStart {
  readonly source: 'allocation';
  readonly allocationId: AllocationId;
  readonly tenantId: TenantId;
  readonly projectId: ProjectId;
  /** who pays; for a service account its owning person */
  readonly userId: UserId;
  readonly sku: string;
  readonly unit: 'gpu_hour' | 'node_hour' | 'vcpu_hour';
  /** GPUs, vCPUs, or 1 for a whole node */
  readonly units: number;
  /** minor units for one unit and one hour, as promised at the launch */
  readonly unitPriceMinor: bigint;
  readonly currency: string;
  readonly startedAt: Date;
}

export interface MeteringStop {
  readonly allocationId: AllocationId;
  readonly endedAt: Date;
  /** Nothing was served after `endedAt`: what is charged already for the time after it is given back. */
  readonly givesBack?: boolean;
}

/** Billable time begins and ends in the very transaction of the state change that begins and ends it. */
export interface Metering {
  /** From here on the allocation costs. Nothing happens where it is metered already. */
  start(tx: Tx, ctx: CallContext, usage: MeteringStart): Promise<void>;
  /**
   * Ends the metering and charges what is not yet rated; gives the launch's hold free. Nothing happens where nothing is
   * metered. Locks the record, then its wallet. What is charged stays charged, and an end before it is moved to it;
   * with `givesBack` the wallet gets the difference back as an entry of its own.
   */
  stop(tx: Tx, ctx: CallContext, usage: MeteringStop): Promise<void>;
}

export const metering: Metering = {
  async start(tx, ctx, usage) {
    const now = ctx.clock.now();
    const priceVersionId = await ensurePriceVersion(
      tx,
      { sku: usage.sku, currency: usage.currency, billingUnit: usage.unit, unitPriceMinor: usage.unitPriceMinor },
      usage.startedAt,
      now,
    );
    await openAllocationUsage(
      tx,
      { ...usage, units: BigInt(usage.units), priceVersionId, rule: RATING_RULE, correlationId: ctx.correlationId },
      now,
    );
  },

  async stop(tx, ctx, { allocationId, endedAt, givesBack }) {
    const usage = await lockOpenUsage(tx, allocationId);
    if (usage === null) return dropHolds(tx, [allocationId]);
    const billedUntil = usage.lastBilledAt ?? usage.startTime;
    const endTime = new Date(Math.max(endedAt.getTime(), billedUntil.getTime()));
    await chargeRatings(tx, ctx, [{ usage, windows: rateUsage(usage, endTime), endTime, nextRateAt: null }]);
    if (givesBack === true && endedAt < billedUntil) await reverseCharges(tx, ctx, usage, endedAt);
  },
};
