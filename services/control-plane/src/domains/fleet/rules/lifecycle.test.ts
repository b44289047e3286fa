import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  DRAIN_INTENTS,
  decideDetach,
  decideDrain,
  decideDrained,
  decideForceDetach,
  decideRecovery,
  decideReissueEnrollment,
  decideRemove,
  decideRetire,
  taskOfTransition,
} from './lifecycle.js';
import { nodeStatuses } from './node-state.js';

const facts = fc.record({
  status: fc.constantFrom(...nodeStatuses),
  openClaims: fc.integer({ min: 0, max: 8 }),
  everEnrolled: fc.boolean(),
});
const now = new Date('2026-11-20T12:00:00Z');

describe('leaving the fleet', () => {
  it('never takes a node with a live claim out of it', () =>
    fc.assert(
      fc.property(facts, (node) => {
        for (const decide of [decideRetire, decideRemove, decideDetach, decideForceDetach]) {
          const decision = decide(node);
          if (decision.ok && decision.changed) expect(node.openClaims).toBe(0);
        }
      }),
    ));

  it('says node_in_use where only a claim stands in the way', () => {
    expect(decideRetire({ status: 'active', openClaims: 1, everEnrolled: true })).toEqual({
      ok: false,
      code: 'node_in_use',
      reason: 'node_has_claims',
    });
  });

  it('repeats a retirement without complaint', () => {
    expect(decideRetire({ status: 'retired', openClaims: 0, everEnrolled: true })).toEqual({
      ok: true,
      to: 'retired',
      changed: false,
    });
  });

  it('asks an agent to leave only where there is one', () => {
    expect(decideRemove({ status: 'retired', openClaims: 0, everEnrolled: true })).toMatchObject({ to: 'removing' });
    expect(decideRemove({ status: 'retired', openClaims: 0, everEnrolled: false })).toMatchObject({ to: 'gone' });
  });

  it('refuses to force out a node in service', () => {
    expect(decideForceDetach({ status: 'active', openClaims: 0, everEnrolled: true })).toMatchObject({
      ok: false,
      code: 'invalid_request',
    });
  });
});

describe('draining', () => {
  it('is over exactly when the host is quiet and no claim is left', () =>
    fc.assert(
      fc.property(
        fc.constantFrom(...nodeStatuses),
        fc.integer({ min: 0, max: 3 }),
        fc.boolean(),
        fc.constantFrom(...DRAIN_INTENTS),
        (status, openClaims, quiesced, intent) => {
          const place = decideDrained({ status, openClaims, quiesced, intent });
          const over = status === 'draining' && quiesced && openClaims === 0;
          expect(place).toBe(over ? (intent === 'retire' ? 'retired' : 'cordoned') : null);
        },
      ),
    ));

  it('reaches nodes that are out of reach only on the way to retirement', () => {
    const offline = { status: 'offline', openClaims: 0, everEnrolled: true } as const;
    expect(decideDrain(offline)).toMatchObject({ ok: false, code: 'node_offline' });
    expect(decideDrain(offline, 'retirement')).toMatchObject({ ok: true, to: 'draining' });
  });
});

describe('resuming a stuck transition', () => {
  it('leaves a live task alone, requeues a lost one and replaces an ended one', () => {
    const later = new Date(now.getTime() + 1);
    expect(decideRecovery({ status: 'queued', leaseExpiresAt: null }, now)).toBe('task_already_queued');
    expect(decideRecovery({ status: 'dispatched', leaseExpiresAt: later }, now)).toBe('task_in_progress');
    expect(decideRecovery({ status: 'dispatched', leaseExpiresAt: now }, now)).toBe('task_requeued');
    for (const status of ['completed', 'failed', 'rejected', 'expired'] as const) {
      expect(decideRecovery({ status, leaseExpiresAt: null }, now)).toBe('task_recreated');
    }
    expect(decideRecovery(null, now)).toBe('task_recreated');
  });

  it('exists only where a node waits for its host', () => {
    expect(nodeStatuses.filter((status) => taskOfTransition(status) !== null).sort()).toEqual(['draining', 'removing']);
  });
});

describe('reissuing an enrolment', () => {
  it('is for nodes that were enrolled and are not leaving', () => {
    expect(decideReissueEnrollment({ status: 'offline', openClaims: 0, everEnrolled: true }).ok).toBe(true);
    expect(decideReissueEnrollment({ status: 'registered', openClaims: 0, everEnrolled: false })).toMatchObject({
      reason: 'node_never_enrolled',
    });
    expect(decideReissueEnrollment({ status: 'retired', openClaims: 0, everEnrolled: true }).ok).toBe(false);
  });
});
