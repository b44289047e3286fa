import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  ALLOCATION_EVENTS,
  ALLOCATION_STATUSES,
  type AllocationStatus,
  advance,
  isMetered,
  meteringEffect,
} from './allocation-state.js';
import { CLAIM_STATUSES, claimStatusesBefore, claimStatusOf, mayClaimMove } from './claim-state.js';
import { isOperationOpen, mayOperationMove, OPERATION_STATUSES } from './operation-state.js';

const walks = fc.tuple(fc.constantFrom(...ALLOCATION_STATUSES), fc.array(fc.constantFrom(...ALLOCATION_EVENTS)));

/** Every legal step of a walk; illegal ones leave the status as it is. */
function steps([start, events]: [AllocationStatus, (typeof ALLOCATION_EVENTS)[number][]]) {
  let from = start;
  return events.flatMap((event) => {
    const step = advance(from, event);
    if (!step.ok) return [];
    const taken = { from, event, to: step.to };
    from = step.to;
    return [taken];
  });
}

const LEAVING: readonly AllocationStatus[] = ['releasing', 'released', 'release_failed'];

describe('the states of an allocation', () => {
  it('never serves again once it is leaving or has failed; only proven teardown frees it', () =>
    fc.assert(
      fc.property(walks, (walk) => {
        for (const { from, event, to } of steps(walk)) {
          if (LEAVING.includes(from)) expect(LEAVING).toContain(to);
          if (from === 'failed') expect(to).toBe('released');
          if (to === 'released') expect(event).toBe('tornDown');
        }
      }),
    ));

  it('opens the usage window exactly when it begins to be metered, and closes it exactly when that ends', () =>
    fc.assert(
      fc.property(walks, (walk) => {
        let open = isMetered(walk[0]);
        for (const { from, to } of steps(walk)) {
          const effect = meteringEffect(from, to);
          expect(effect === 'start' ? open : effect === 'stop' ? !open : false).toBe(false);
          if (effect !== 'none') open = effect === 'start';
          expect(open).toBe(isMetered(to));
        }
      }),
    ));

  it('moves its claims along legal moves, whatever happens', () =>
    fc.assert(
      fc.property(walks, (walk) => {
        for (const { from, to } of steps(walk)) {
          const [before, after] = [claimStatusOf(from), claimStatusOf(to)];
          if (before !== after) expect(mayClaimMove(before, after)).toBe(true);
        }
      }),
    ));

  it('refuses a second release by its own code', () => {
    expect(advance('releasing', 'release')).toEqual({ ok: false, code: 'allocation_already_releasing' });
    expect(advance('released', 'release')).toEqual({ ok: false, code: 'allocation_not_active' });
    expect(advance('provisioning', 'restart')).toEqual({ ok: false, code: 'allocation_not_active' });
  });

  it('reaches every status from a launch, and can always get to its end', () => {
    const reachable = new Set<AllocationStatus>(['requested']);
    for (const status of reachable) {
      for (const event of ALLOCATION_EVENTS) {
        const step = advance(status, event);
        if (step.ok) reachable.add(step.to);
      }
    }
    expect([...reachable].sort()).toEqual([...ALLOCATION_STATUSES].sort());
    for (const status of ALLOCATION_STATUSES) {
      const ends = ['release', 'tornDown'].reduce<AllocationStatus>((from, event) => {
        const step = advance(from, event as 'release');
        return step.ok ? step.to : from;
      }, status);
      expect(ends).toBe('released');
    }
  });
});

describe('the states of a claim', () => {
  it('end only in released, which is never left', () => {
    for (const from of CLAIM_STATUSES) {
      expect(mayClaimMove('released', from)).toBe(false);
      if (from !== 'released') expect(CLAIM_STATUSES.some((to) => mayClaimMove(from, to))).toBe(true);
    }
    expect(claimStatusesBefore('reserved')).toEqual([]);
  });
});

describe('the states of an operation', () => {
  it('never leave an end', () => {
    for (const from of OPERATION_STATUSES) {
      const moves = OPERATION_STATUSES.filter((to) => mayOperationMove(from, to));
      expect(moves.length > 0).toBe(isOperationOpen(from));
      for (const to of moves) expect(to === from).toBe(false);
    }
  });
});
