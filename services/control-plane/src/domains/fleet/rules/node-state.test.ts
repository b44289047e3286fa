import { NODE_STATUSES } from '@gpuaas/node-protocol';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { advanceNode, type NodeEvent, type NodePlace, nodeStatuses, statusesMovedBy } from './node-state.js';

const EVENTS: readonly NodeEvent[] = [
  'issue_token',
  'first_contact',
  'tokens_lapsed',
  'poll',
  'go_silent',
  'cordon',
  'resume_scheduling',
  'drain',
  'drained',
  'drained_for_retirement',
  'retire',
  'reactivate',
  'remove',
  'remove_unenrolled',
  'uninstalled',
  'detach',
  'force_detach',
  'quarantine',
  'repaired',
];

/** Walks the machine; a refused event leaves the node where it is. */
function walk(
  start: NodePlace,
  events: readonly NodeEvent[],
  visit: (from: NodePlace, event: NodeEvent, to: NodePlace) => void,
) {
  let place = start;
  for (const event of events) {
    if (place === 'gone') return place;
    const step = advanceNode(place, event);
    if (!step.ok) continue;
    visit(place, event, step.to);
    place = step.to;
  }
  return place;
}

const anyWalk = fc.tuple(fc.constantFrom(...nodeStatuses), fc.array(fc.constantFrom(...EVENTS), { maxLength: 40 }));

describe('the node state machine', () => {
  it('knows the statuses that the node protocol knows', () => {
    expect([...nodeStatuses].sort()).toEqual([...NODE_STATUSES].sort());
  });

  it('leaves retirement only by reactivation or for good, and never straight into service', () =>
    fc.assert(
      fc.property(anyWalk, ([start, events]) => {
        walk(start, events, (from, event, to) => {
          if (from === 'retired' && to !== 'retired') expect(['offline', 'removing', 'gone']).toContain(to);
          if (from === 'removing' && to !== 'removing') expect(to).toBe('gone');
          if (from === 'retired' && to === 'offline') expect(event).toBe('reactivate');
        });
      }),
    ));

  it('becomes schedulable only by a poll, by resumed scheduling or by a repair', () =>
    fc.assert(
      fc.property(anyWalk, ([start, events]) => {
        walk(start, events, (from, event, to) => {
          if (to === 'active' && from !== 'active') expect(['poll', 'resume_scheduling', 'repaired']).toContain(event);
        });
      }),
    ));

  it('leaves draining only by the end of the drain, by force or into quarantine', () =>
    fc.assert(
      fc.property(anyWalk, ([start, events]) => {
        walk(start, events, (from, event, to) => {
          if (from === 'draining' && to !== 'draining') {
            expect(['drained', 'drained_for_retirement', 'force_detach', 'quarantine']).toContain(event);
          }
        });
      }),
    ));

  it('is gone only from retirement, removal or a forced detachment', () =>
    fc.assert(
      fc.property(anyWalk, ([start, events]) => {
        walk(start, events, (from, _event, to) => {
          if (to === 'gone') expect(['retired', 'removing', 'draining']).toContain(from);
        });
      }),
    ));

  it('lets a silent node fall offline from service alone', () => {
    expect(statusesMovedBy('go_silent')).toEqual(['active']);
    expect([...statusesMovedBy('poll')].sort()).toEqual(['enrolling', 'offline']);
  });
});
