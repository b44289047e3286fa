import { describe, expect, it } from 'vitest';
import { type NodeFacts, occupancyStatusOf, readinessOf } from './node-readiness.js';

const now = new Date('2026-11-20T12:00:00Z');
const node: NodeFacts = { status: 'active', lastSeenAt: now, occupant: null, slices: null, freshSince: now };
const before = new Date(now.getTime() - 1);

describe('a node, as tenants see it', () => {
  it.each([
    ['ready', {}, 'ready', 'available'],
    ['silent', { lastSeenAt: before }, 'agent_unreachable', 'unavailable'],
    ['never seen', { lastSeenAt: null }, 'agent_unreachable', 'unavailable'],
    ['taken', { occupant: 'active' }, 'capacity_exhausted', 'assigned'],
    ['being prepared', { occupant: 'provisioning' }, 'capacity_exhausted', 'reserved'],
    ['left in an unknown state', { occupant: 'failed' }, 'capacity_exhausted', 'cleanup'],
    ['cordoned', { status: 'cordoned' }, 'cordoned', 'unavailable'],
    ['quarantined', { status: 'quarantined' }, 'unavailable', 'unavailable'],
    ['sliced with room', { slices: { free: 1, claimed: 3 } }, 'ready', 'available'],
    ['sliced and full', { slices: { free: 0, claimed: 4 } }, 'capacity_exhausted', 'assigned'],
    ['sliced and blocked', { slices: { free: 0, claimed: 0 } }, 'capacity_exhausted', 'unavailable'],
  ] as const)('is %s', (_name, given, state, occupancy) => {
    const facts: NodeFacts = { ...node, ...given };
    expect(readinessOf(facts).state).toBe(state);
    expect(readinessOf(facts).schedulable).toBe(state === 'ready');
    expect(occupancyStatusOf(facts)).toBe(occupancy);
  });
});
