import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { advanceSlot, type SlotStatus, slotEvents, slotMove, slotStatuses } from './slot-state.js';

const walk = fc.array(fc.constantFrom(...slotEvents), { maxLength: 40 });

describe('a slot', () => {
  it('goes from one guest to the next only by proof that nothing is left', () => {
    fc.assert(
      fc.property(walk, (events) => {
        let status: SlotStatus = 'available';
        let guests = 0;
        for (const event of events) {
          const to = advanceSlot(status, event);
          if (to === null) continue;
          if (event === 'reserve') guests += 1;
          if (event === 'free') guests -= 1;
          if (to === 'available') expect(event).toBe('free');
          expect(guests).toBe(to === 'available' ? 0 : 1);
          status = to;
        }
      }),
    );
  });

  it('is not taken by anybody while it is blocked, failed, in cleanup or disabled', () => {
    for (const status of slotStatuses) {
      expect(advanceSlot(status, 'reserve')).toBe(status === 'available' ? 'reserved' : null);
    }
  });

  it('is left to operators where no claim can have brought it', () => {
    for (const status of ['cleanup', 'failed', 'disabled'] as const) {
      for (const event of slotEvents) expect(advanceSlot(status, event)).toBeNull();
    }
  });

  it('moves alike one by one and as a set', () => {
    for (const event of slotEvents) {
      const { from, to } = slotMove(event);
      for (const status of slotStatuses) {
        expect(advanceSlot(status, event)).toBe(from.includes(status) ? to : null);
      }
    }
  });
});
