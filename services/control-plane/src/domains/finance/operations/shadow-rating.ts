import type { Schema } from '@gpuaas/contract';
import { query } from '../../../spine/operation.js';
import { badRequest } from '../../../spine/refusal.js';
import { toWireInteger, toWireTime } from '../../../spine/wire.js';
import { MAXIMUM_UNIT_PRICE_MINOR } from '../rules/money.js';
import { costAfter, quantityAfter, RATING_RULE } from '../rules/rating.js';
import { findRatedUsage, type RatedUsage } from '../store/usage.js';
import { money } from '../wallets.js';

/**
 * What the span that is already rated of each usage would have cost at another price. Reads only.
 * Usage that cannot be compared (of another tenant, of another kind, in another currency) is refused, with its ids.
 */
export const adminDryRunShadowRating = query<'adminDryRunShadowRating'>(async ({ db, body }) => {
  const { candidate_unit_price: candidate, org_id: tenantId } = body;
  if (
    !Number.isSafeInteger(candidate.amount_minor) ||
    candidate.amount_minor < 0 ||
    candidate.amount_minor > MAXIMUM_UNIT_PRICE_MINOR
  ) {
    throw badRequest(
      'amount_out_of_range',
      '/body/candidate_unit_price/amount_minor',
      `must lie in 0..${MAXIMUM_UNIT_PRICE_MINOR}`,
    );
  }
  const ids = body.usage_record_ids.map((id) => id.toLowerCase());
  if (new Set(ids).size !== ids.length)
    throw badRequest('usage_record_repeated', '/body/usage_record_ids', 'names a record twice');

  const usages = new Map((await findRatedUsage(db, ids)).map((usage) => [usage.id, usage]));
  const lines: Schema<'BillingShadowRatingLine'>[] = [];
  const unusable: string[] = [];
  for (const id of ids) {
    const usage = usages.get(id);
    if (
      usage === undefined ||
      usage.tenantId !== tenantId.toLowerCase() ||
      usage.currency !== candidate.currency ||
      usage.allocationId === null ||
      usage.unit !== 'gpu_hour'
    )
      unusable.push(id);
    else lines.push(shadowLine(usage));
  }
  if (unusable.length > 0)
    throw badRequest(
      'usage_record_not_comparable',
      '/body/usage_record_ids',
      `not GPU time of an allocation of this tenant in ${candidate.currency}: ${unusable.join(', ')}`,
    );

  const total = (pick: (line: Schema<'BillingShadowRatingLine'>) => Schema<'Money'>) =>
    money(
      lines.reduce((sum, line) => sum + BigInt(pick(line).amount_minor), 0n),
      candidate.currency,
    );
  return {
    status: 200,
    body: {
      lines,
      totals: {
        existing_rated_amount: total((line) => line.existing_rated_amount),
        candidate_rated_amount: total((line) => line.candidate_rated_amount),
        delta_amount: total((line) => line.delta_amount),
      },
      ledger_writes: false,
      rated_usage_writes: false,
    },
  };

  function shadowLine(usage: RatedUsage): Schema<'BillingShadowRatingLine'> {
    const from = usage.startTime.getTime();
    const to = (usage.lastBilledAt ?? usage.startTime).getTime();
    const unitPriceMinor = BigInt(candidate.amount_minor);
    const candidateMinor = costAfter({ unitPriceMinor, units: usage.units }, BigInt(to - from));
    return {
      usage_record_id: usage.id,
      existing_rated_amount: money(usage.ratedMinor, usage.currency),
      candidate_rated_amount: money(candidateMinor, usage.currency),
      delta_amount: money(candidateMinor - usage.ratedMinor, usage.currency),
      candidate_rating_key: `shadow:v1:${usage.id}:${from}:${to}`,
      usage_source: 'allocation',
      usage_unit: usage.unit,
      bill_from: toWireTime(new Date(from)),
      bill_to: toWireTime(new Date(to)),
      unit_quantity_millis: toWireInteger(quantityAfter(usage.units, BigInt(to - from))),
      unit_price: candidate,
      units: toWireInteger(usage.units),
      pricing_source: body.pricing_source,
      pricing_plan_id: body.pricing_plan_id ?? null,
      pricing_plan_version: body.pricing_plan_version ?? null,
      pricing_snapshot: {
        ...body.pricing_snapshot,
        rule: RATING_RULE,
        unit_price_minor: candidate.amount_minor,
        units: toWireInteger(usage.units),
        start_ms: from,
      },
    };
  }
});
