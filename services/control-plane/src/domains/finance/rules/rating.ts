/** The name of the rule below as price snapshots carry it; another rule gets another name. */
export const RATING_RULE = 'telescoping_half_up_v1';

const MILLISECONDS_AN_HOUR = 3_600_000n;

export interface Price {
  /** minor units of the currency for one unit and one hour */
  readonly unitPriceMinor: bigint;
  /** GPUs, vCPUs, or 1 for a whole node */
  readonly units: bigint;
}

/** A usage record as far as rating sees it. */
export interface RateableUsage extends Price {
  readonly id: string;
  readonly startTime: Date;
  /** null while nothing of it is rated */
  readonly lastBilledAt: Date | null;
}

export interface RatedWindow {
  readonly from: Date;
  readonly to: Date;
  /** minor units */
  readonly amountMinor: bigint;
  /** thousandths of a unit-hour */
  readonly unitQuantityMillis: bigint;
  /** one a window for ever: charging it again is refused by the database */
  readonly ratingKey: string;
}

/** What the first `milliseconds` of a usage cost in total, rounded once, half up. Negative times cost nothing. */
export function costAfter(price: Price, milliseconds: bigint): bigint {
  return milliseconds <= 0n ? 0n : halfUp(price.unitPriceMinor * price.units * milliseconds, MILLISECONDS_AN_HOUR);
}

/** Thousandths of a unit-hour in the first `milliseconds` of a usage, rounded once, half up. */
export function quantityAfter(units: bigint, milliseconds: bigint): bigint {
  return milliseconds <= 0n ? 0n : halfUp(units * milliseconds, MILLISECONDS_AN_HOUR / 1000n);
}

/**
 * The charges from where the record is rated up to `to`, one a window.
 * A window costs the difference of two totals counted from the start of the record, so that any slicing of a usage,
 * however fine, sums to one rounding of its exact cost; rounding each slice would lose or win up to half a unit a slice.
 */
export function rateUsage(usage: RateableUsage, to: Date): readonly RatedWindow[] {
  const start = usage.startTime.getTime();
  return cutAtHours(usage.lastBilledAt ?? usage.startTime, to).map((window) => {
    const before = BigInt(window.from.getTime() - start);
    const after = BigInt(window.to.getTime() - start);
    return {
      ...window,
      amountMinor: costAfter(usage, after) - costAfter(usage, before),
      unitQuantityMillis: quantityAfter(usage.units, after) - quantityAfter(usage.units, before),
      ratingKey: `v1:${usage.id}:${window.from.getTime()}:${window.to.getTime()}`,
    };
  });
}

/** What is used and not yet rated at `at`. */
export function unratedCost(usage: RateableUsage & { readonly endTime: Date | null }, at: Date): bigint {
  const start = usage.startTime.getTime();
  const until = Math.min(at.getTime(), usage.endTime?.getTime() ?? at.getTime());
  const billed = (usage.lastBilledAt ?? usage.startTime).getTime();
  return until <= billed ? 0n : costAfter(usage, BigInt(until - start)) - costAfter(usage, BigInt(billed - start));
}

/** What of the charges so far is for the time after `servedUntil`. */
export function overcharged(usage: RateableUsage, servedUntil: Date): bigint {
  const start = usage.startTime.getTime();
  const billed = (usage.lastBilledAt ?? usage.startTime).getTime();
  if (servedUntil.getTime() >= billed) return 0n;
  return costAfter(usage, BigInt(billed - start)) - costAfter(usage, BigInt(servedUntil.getTime() - start));
}

/** The end of the last rating window that is over at `now`; windows are aligned to UTC and `windowSeconds` long. */
export function lastWindowEnd(now: Date, windowSeconds: number): Date {
  const length = windowSeconds * 1000;
  return new Date(Math.floor(now.getTime() / length) * length);
}

/** The end of the rating window that `at` lies in. */
export function windowEndAfter(at: Date, windowSeconds: number): Date {
  return new Date(lastWindowEnd(at, windowSeconds).getTime() + windowSeconds * 1000);
}

/**
 * `[from, to)` in pieces that do not cross a UTC hour, and so no month either. A rater that comes each window writes
 * one piece; one that was away for a night writes one an hour instead of one a window.
 */
function cutAtHours(from: Date, to: Date): { from: Date; to: Date }[] {
  const hour = Number(MILLISECONDS_AN_HOUR);
  const pieces: { from: Date; to: Date }[] = [];
  for (let at = from.getTime(); at < to.getTime(); ) {
    const next = Math.min((Math.floor(at / hour) + 1) * hour, to.getTime());
    pieces.push({ from: new Date(at), to: new Date(next) });
    at = next;
  }
  return pieces;
}

/** ⌊numerator/denominator + ½⌋ for numbers that are not negative. */
function halfUp(numerator: bigint, denominator: bigint): bigint {
  return (2n * numerator + denominator) / (2n * denominator);
}
