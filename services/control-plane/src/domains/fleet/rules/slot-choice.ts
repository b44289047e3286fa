/** A slot that could be taken right now. */
export interface FreeSlot {
  readonly slotIndex: number;
  /** slots of two groups never serve one guest; null is a group of its own kind */
  readonly topologyGroup: string | null;
  readonly numaNode: number | null;
}

/**
 * Which slots of one host one guest gets: all of one topology group, of one NUMA node where that is possible, and of
 * the place where they leave the least behind, so that bigger guests find room later. Null where no group has enough.
 */
export function chooseSlots<Slot extends FreeSlot>(free: readonly Slot[], count: number): readonly Slot[] | null {
  const offers = groupsOf(free, (slot) => slot.topologyGroup)
    .filter((slots) => slots.length >= count)
    .map((slots) => offerOf(slots, count));
  offers.sort((left, right) => left.domains - right.domains || left.remainder - right.remainder);
  return offers[0]?.slots ?? null;
}

interface Offer<Slot> {
  readonly slots: readonly Slot[];
  /** NUMA nodes over which it is spread */
  readonly domains: number;
  /** free slots that stay behind where it takes some */
  readonly remainder: number;
}

function offerOf<Slot extends FreeSlot>(free: readonly Slot[], count: number): Offer<Slot> {
  const domains = groupsOf(free, (slot) => slot.numaNode).map((slots) =>
    slots.toSorted((left, right) => left.slotIndex - right.slotIndex),
  );
  const within = domains.filter((slots) => slots.length >= count).sort((left, right) => left.length - right.length)[0];
  if (within !== undefined) return { slots: within.slice(0, count), domains: 1, remainder: within.length - count };
  // Spread over as few as possible: the fullest first.
  const spread: Slot[] = [];
  let used = 0;
  let touched = 0;
  for (const slots of domains.sort((left, right) => right.length - left.length)) {
    if (spread.length === count) break;
    spread.push(...slots.slice(0, count - spread.length));
    used += 1;
    touched += slots.length;
  }
  return { slots: spread, domains: used, remainder: touched - count };
}

/** As many guests of `count` slots each as the free slots allow, up to `guests`. */
export function chooseGuests<Slot extends FreeSlot>(
  free: readonly Slot[],
  count: number,
  guests: number,
): readonly (readonly Slot[])[] {
  const chosen: (readonly Slot[])[] = [];
  let rest = free;
  while (chosen.length < guests) {
    const slots = chooseSlots(rest, count);
    if (slots === null) break;
    chosen.push(slots);
    rest = rest.filter((slot) => !slots.includes(slot));
  }
  return chosen;
}

function groupsOf<Slot, Key>(slots: readonly Slot[], keyOf: (slot: Slot) => Key): Slot[][] {
  const groups = new Map<Key, Slot[]>();
  for (const slot of slots) {
    const key = keyOf(slot);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [slot]);
    else group.push(slot);
  }
  return [...groups.values()];
}
