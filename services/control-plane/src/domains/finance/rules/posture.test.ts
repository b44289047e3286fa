import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decidePosture, defaultDepletionAction, POSTURES, projectDepletion } from './posture.js';

const NOW = new Date('2026-03-01T12:00:00Z');
const LIMITS = { lowBalanceMinor: 500n, noticeMilliseconds: 3_600_000 };
const posture = fc.constantFrom(...POSTURES);
const reading = fc.record({
  availableMinor: fc.bigInt({ min: -10_000n, max: 100_000n }),
  burnMinorPerHour: fc.bigInt({ min: 0n, max: 5_000n }),
});

describe('wallet posture', () => {
  it('reaches depleted only from a notice, and never while there is money', () => {
    fc.assert(
      fc.property(posture, reading, (from, wallet) => {
        const { to } = decidePosture(from, wallet, LIMITS, NOW);
        if (to !== 'depleted') return;
        expect(wallet.availableMinor).toBeLessThanOrEqual(0n);
        expect(['auto_release_pending', 'depleted']).toContain(from);
      }),
    );
  });

  it('gets worse only while something runs', () => {
    fc.assert(
      fc.property(posture, reading, (from, wallet) => {
        const { to } = decidePosture(from, { ...wallet, burnMinorPerHour: 0n }, LIMITS, NOW);
        expect(POSTURES.indexOf(to)).toBeLessThanOrEqual(POSTURES.indexOf(from));
      }),
    );
  });

  it('stays where it is when nothing changes', () => {
    fc.assert(
      fc.property(posture, reading, (from, wallet) => {
        const settled = decidePosture(decidePosture(from, wallet, LIMITS, NOW).to, wallet, LIMITS, NOW).to;
        expect(decidePosture(settled, wallet, LIMITS, NOW).to).toBe(settled);
      }),
    );
  });

  it('is healthy again after a top-up, from wherever it was', () => {
    fc.assert(
      fc.property(posture, fc.bigInt({ min: 0n, max: 5_000n }), (from, burnMinorPerHour) => {
        const wallet = { availableMinor: 100_000n, burnMinorPerHour };
        expect(decidePosture(from, wallet, LIMITS, NOW).to).toBe('healthy');
      }),
    );
  });

  it.each([
    ['plenty', 'healthy', 10_000n, 100n, 'healthy'],
    ['five dollars left for five hours', 'healthy', 500n, 100n, 'low_balance'],
    ['an hour left', 'low_balance', 100n, 100n, 'auto_release_pending'],
    ['gone since the last look', 'healthy', -3n, 100n, 'auto_release_pending'],
    ['gone after the notice', 'auto_release_pending', 0n, 100n, 'depleted'],
    ['an empty wallet that nothing uses', 'healthy', 0n, 0n, 'healthy'],
    ['released after depletion, not topped up', 'depleted', -3n, 0n, 'depleted'],
    ['released after depletion, topped up a little', 'depleted', 400n, 0n, 'low_balance'],
  ] as const)('%s', (_, from, availableMinor, burnMinorPerHour, to) => {
    expect(decidePosture(from, { availableMinor, burnMinorPerHour }, LIMITS, NOW).to).toBe(to);
  });

  it('projects no depletion where nothing runs, and now where it has happened', () => {
    expect(projectDepletion({ availableMinor: 5n, burnMinorPerHour: 0n }, NOW)).toBeNull();
    expect(projectDepletion({ availableMinor: 0n, burnMinorPerHour: 7n }, NOW)).toEqual(NOW);
    expect(projectDepletion({ availableMinor: 50n, burnMinorPerHour: 100n }, NOW)).toEqual(
      new Date('2026-03-01T12:30:00Z'),
    );
    expect(projectDepletion({ availableMinor: 10n ** 15n, burnMinorPerHour: 1n }, NOW)?.getUTCFullYear()).toBe(2126);
  });

  it('ends what runs on prepaid money and only bars new work where there is credit', () => {
    expect(defaultDepletionAction(0n)).toBe('force_release');
    expect(defaultDepletionAction(1n)).toBe('restrict');
  });
});
