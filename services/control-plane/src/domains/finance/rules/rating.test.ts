import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  costAfter,
  lastWindowEnd,
  quantityAfter,
  type RateableUsage,
  rateUsage,
  unratedCost,
  windowEndAfter,
} from './rating.js';

const HOUR = 3_600_000;
const START = Date.UTC(2026, 0, 31, 23, 17, 5, 123);

const price = fc.record({
  unitPriceMinor: fc.bigInt({ min: 0n, max: 1_000_000_000n }),
  units: fc.bigInt({ min: 1n, max: 1_000n }),
});

function usage(over: Partial<RateableUsage> = {}): RateableUsage {
  return { id: 'u', unitPriceMinor: 250n, units: 1n, startTime: new Date(START), lastBilledAt: null, ...over };
}

/** Rates step by step, as raters that come at these moments would; a moment in the past rates nothing. */
function rateInSteps(from: RateableUsage, moments: readonly number[]) {
  let billed = from;
  return moments.flatMap((moment) => {
    const windows = rateUsage(billed, new Date(moment));
    const last = windows.at(-1);
    if (last) billed = { ...billed, lastBilledAt: last.to };
    return windows;
  });
}

describe('telescoping rating', () => {
  it('charges the same total however the time is sliced, and never a window twice', () => {
    fc.assert(
      fc.property(
        price,
        fc.integer({ min: 1, max: 400 * HOUR }),
        fc.array(fc.nat(400 * HOUR), { maxLength: 40 }),
        (cost, length, cuts) => {
          const end = START + length;
          const moments = [...cuts.map((cut) => START + (cut % length)), end].sort((left, right) => left - right);
          const record = usage(cost);
          const lines = rateInSteps(record, moments);

          expect(lines.reduce((sum, line) => sum + line.amountMinor, 0n)).toBe(costAfter(cost, BigInt(length)));
          expect(lines.reduce((sum, line) => sum + line.unitQuantityMillis, 0n)).toBe(
            quantityAfter(cost.units, BigInt(length)),
          );
          expect(lines.every((line) => line.amountMinor >= 0n && line.from < line.to)).toBe(true);
          expect(lines.map((line) => line.from.getTime())).toEqual([
            START,
            ...lines.slice(0, -1).map((line) => line.to.getTime()),
          ]);
          expect(new Set(lines.map((line) => line.ratingKey)).size).toBe(lines.length);
        },
      ),
    );
  });

  it('takes up where a crash left it: what was kept and what is rated again make one whole', () => {
    fc.assert(
      fc.property(price, fc.integer({ min: 1, max: 90 * HOUR }), fc.nat(100), (cost, length, survived) => {
        const end = new Date(START + length);
        const before = rateUsage(usage(cost), new Date(START + Math.ceil(length / 2)));
        const kept = before.slice(0, survived % (before.length + 1));
        const after = rateUsage(usage({ ...cost, lastBilledAt: kept.at(-1)?.to ?? null }), end);
        const lines = [...kept, ...after];
        expect(lines.reduce((sum, line) => sum + line.amountMinor, 0n)).toBe(costAfter(cost, BigInt(length)));
        expect(lines.slice(1).map((line) => line.from)).toEqual(lines.slice(0, -1).map((line) => line.to));
      }),
    );
  });

  it('keeps each line within one unit and its price of price times quantity', () => {
    fc.assert(
      fc.property(
        price,
        fc.array(fc.integer({ min: 1, max: 10 * HOUR }), { minLength: 1, maxLength: 20 }),
        (cost, steps) => {
          let at = START;
          const moments = steps.map((step) => (at += step));
          for (const line of rateInSteps(usage(cost), moments)) {
            const exact = cost.unitPriceMinor * line.unitQuantityMillis;
            const difference = line.amountMinor * 1000n - exact;
            expect(difference < 0n ? -difference : difference).toBeLessThanOrEqual(1000n + cost.unitPriceMinor);
          }
        },
      ),
    );
  });

  it('loses nothing where rounding each minute would lose four percent', () => {
    const day = Array.from({ length: 24 * 60 }, (_, minute) => START + (minute + 1) * 60_000);
    expect(rateInSteps(usage(), day).reduce((sum, line) => sum + line.amountMinor, 0n)).toBe(6000n);
  });

  it('never lets a window cross a UTC hour, so that none crosses a month', () => {
    const windows = rateUsage(usage(), new Date(START + 3 * HOUR));
    expect(windows.map((window) => window.to.toISOString())).toEqual([
      '2026-02-01T00:00:00.000Z',
      '2026-02-01T01:00:00.000Z',
      '2026-02-01T02:00:00.000Z',
      '2026-02-01T02:17:05.123Z',
    ]);
  });

  it('charges nothing for a moment that is not after what is billed', () => {
    const billed = usage({ lastBilledAt: new Date(START + HOUR) });
    expect(rateUsage(billed, new Date(START + HOUR))).toEqual([]);
    expect(rateUsage(billed, new Date(START - HOUR))).toEqual([]);
    expect(unratedCost({ ...billed, endTime: null }, new Date(START))).toBe(0n);
  });

  it('accrues to the end of a closed record and no further', () => {
    const closed = { ...usage({ lastBilledAt: new Date(START + HOUR) }), endTime: new Date(START + 2 * HOUR) };
    expect(unratedCost(closed, new Date(START + 50 * HOUR))).toBe(250n);
    expect(unratedCost({ ...closed, endTime: null }, new Date(START + 3 * HOUR))).toBe(500n);
  });
});

describe('rating windows', () => {
  it('are aligned to UTC and hold every moment in exactly one', () => {
    fc.assert(
      fc.property(fc.constantFrom(1, 15, 60, 900, 3600), fc.integer({ min: 0, max: 4e12 }), (seconds, at) => {
        const now = new Date(at);
        const end = lastWindowEnd(now, seconds).getTime();
        expect(end % (seconds * 1000)).toBe(0);
        expect(end).toBeLessThanOrEqual(at);
        expect(windowEndAfter(now, seconds).getTime()).toBe(end + seconds * 1000);
        expect(windowEndAfter(now, seconds).getTime()).toBeGreaterThan(at);
      }),
    );
  });
});
