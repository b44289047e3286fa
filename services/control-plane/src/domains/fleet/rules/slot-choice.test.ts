import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { chooseGuests, chooseSlots, type FreeSlot } from './slot-choice.js';

const host = fc.uniqueArray(fc.integer({ min: 0, max: 15 }), { maxLength: 16 }).chain((indexes) =>
  fc.tuple(
    ...indexes.map((slotIndex) =>
      fc.record({
        slotIndex: fc.constant(slotIndex),
        topologyGroup: fc.constantFrom(null, 'a', 'b'),
        numaNode: fc.constantFrom(null, 0, 1),
      }),
    ),
  ),
);
const count = fc.integer({ min: 1, max: 8 });

const sizes = <Key>(slots: readonly FreeSlot[], keyOf: (slot: FreeSlot) => Key) => {
  const found = new Map<Key, number>();
  for (const slot of slots) found.set(keyOf(slot), (found.get(keyOf(slot)) ?? 0) + 1);
  return found;
};

describe('the slots of one guest', () => {
  it('are as many as asked for, of one group, or none where no group has so many', () => {
    fc.assert(
      fc.property(host, count, (free, wanted) => {
        const chosen = chooseSlots(free, wanted);
        const biggest = Math.max(0, ...sizes(free, (slot) => slot.topologyGroup).values());
        expect(chosen === null).toBe(biggest < wanted);
        if (chosen === null) return;
        expect(new Set(chosen).size).toBe(wanted);
        expect(free).toEqual(expect.arrayContaining([...chosen]));
        expect(new Set(chosen.map((slot) => slot.topologyGroup)).size).toBe(1);
      }),
    );
  });

  it('are of one NUMA node wherever one has enough', () => {
    fc.assert(
      fc.property(host, count, (free, wanted) => {
        const chosen = chooseSlots(free, wanted);
        const domains = sizes(free, (slot) => `${slot.topologyGroup}/${slot.numaNode}`);
        if (chosen === null || Math.max(0, ...domains.values()) < wanted) return;
        expect(new Set(chosen.map((slot) => slot.numaNode)).size).toBe(1);
      }),
    );
  });

  it('come from where they leave the least behind', () => {
    const slot = (slotIndex: number, numaNode: number) => ({ slotIndex, numaNode, topologyGroup: null });
    const free = [slot(0, 0), slot(1, 0), slot(2, 0), slot(3, 0), slot(6, 1), slot(7, 1)];
    expect(chooseSlots(free, 2)?.map((chosen) => chosen.slotIndex)).toEqual([6, 7]);
    expect(chooseSlots(free, 3)?.map((chosen) => chosen.slotIndex)).toEqual([0, 1, 2]);
    expect(chooseSlots(free, 5)?.map((chosen) => chosen.slotIndex)).toEqual([0, 1, 2, 3, 6]);
    expect(chooseSlots(free, 7)).toBeNull();
  });

  it('are never given to two guests', () => {
    fc.assert(
      fc.property(host, count, fc.integer({ min: 0, max: 6 }), (free, wanted, guests) => {
        const chosen = chooseGuests(free, wanted, guests);
        expect(chosen.length).toBeLessThanOrEqual(guests);
        const all = chosen.flat();
        expect(new Set(all).size).toBe(all.length);
        if (chosen.length < guests) {
          expect(
            chooseSlots(
              free.filter((slot) => !all.includes(slot)),
              wanted,
            ),
          ).toBeNull();
        }
      }),
    );
  });
});
