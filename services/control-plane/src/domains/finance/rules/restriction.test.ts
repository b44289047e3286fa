import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { effectiveRestriction, effectsOf, launchBar, type Restriction, type RestrictionState } from './restriction.js';

const STATES: readonly RestrictionState[] = ['healthy', 'at_risk', 'restricted', 'suspended', 'collections_hold'];

const restriction: fc.Arbitrary<Restriction> = fc.record({
  scopeType: fc.constantFrom('tenant', 'project', 'user'),
  source: fc.constantFrom('operator', 'depletion', 'chargeback'),
  state: fc.constantFrom(...STATES),
  reason: fc.string(),
});

describe('restrictions', () => {
  it('bar ever more as they get more severe', () => {
    const barred = STATES.map((state) => Object.values(effectsOf(state)).filter(Boolean).length);
    expect(barred).toEqual([0, 1, 2, 5, 6]);
  });

  it('take effect by the most severe, whatever the order they are found in', () => {
    fc.assert(
      fc.property(fc.array(restriction), (found) => {
        const worst = effectiveRestriction(found)?.state ?? 'healthy';
        expect(found.every((one) => STATES.indexOf(one.state) <= STATES.indexOf(worst))).toBe(true);
        expect(effectiveRestriction([...found].reverse())?.state).toBe(effectiveRestriction(found)?.state);
      }),
    );
  });

  it('bar a launch from restricted on, unless only the depletion sweep says so', () => {
    fc.assert(
      fc.property(fc.array(restriction), (found) => {
        const barring = found.some(
          (one) => one.source !== 'depletion' && ['restricted', 'suspended', 'collections_hold'].includes(one.state),
        );
        expect(launchBar(found) !== null).toBe(barring);
      }),
    );
  });
});
