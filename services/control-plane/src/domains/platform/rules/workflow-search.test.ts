import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  canMatch,
  decideWorkflowSearch,
  RUN_STATUSES,
  runStatusesOf,
  shownStatus,
  type WorkflowQuery,
} from './workflow-search.js';

const NOW = new Date('2026-03-01T00:00:00Z');
const time = fc
  .date({ min: new Date('2025-01-01'), max: new Date('2027-01-01'), noInvalidDate: true })
  .map((at) => at.toISOString());
const query: fc.Arbitrary<WorkflowQuery> = fc.record(
  {
    family: fc.constantFrom('provisioning' as const, 'reconciliation' as const),
    status: fc.constantFrom('running' as const, 'failed' as const, 'unknown' as const),
    workflow_id: fc.uuid(),
    org_id: fc.uuid(),
    correlation_id: fc.string(),
    time_range: fc.constantFrom('6h' as const, '24h' as const, '7d' as const, 'custom' as const),
    from: time,
    to: time,
  },
  { requiredKeys: [] },
) as fc.Arbitrary<WorkflowQuery>;

describe('decideWorkflowSearch', () => {
  it('lets nothing through that would read the whole history', () => {
    fc.assert(
      fc.property(query, (asked) => {
        const decision = decideWorkflowSearch(asked, NOW);
        if (!decision.ok) return;
        const { filter } = decision;
        const named = [filter.workflow_id, filter.tenant_id, filter.correlation_id].some(
          (value) => value !== undefined,
        );
        if (named) return;
        expect(filter.family).toBeDefined();
        if (filter.from === null) throw new Error('without a beginning');
        expect((filter.to ?? NOW).getTime() - filter.from.getTime()).toBeLessThanOrEqual(7 * 86_400_000);
      }),
    );
  });

  it('takes from and to for the range `custom` and for no other', () => {
    fc.assert(
      fc.property(query, (asked) => {
        const decision = decideWorkflowSearch(asked, NOW);
        const other = asked.time_range !== undefined && asked.time_range !== 'custom';
        if ((asked.from !== undefined || asked.to !== undefined) && other) expect(decision.ok).toBe(false);
        if (decision.ok && decision.filter.from && decision.filter.to) {
          expect(decision.filter.from < decision.filter.to).toBe(true);
        }
      }),
    );
  });
});

describe('the words for a status', () => {
  it('cover each of ours by exactly one of the contract’s', () => {
    const shown = ['running', 'completed', 'failed', 'cancelled', 'terminated', 'timed_out', 'unknown'] as const;
    for (const status of RUN_STATUSES) {
      expect(shown.filter((word) => runStatusesOf(word).includes(status))).toEqual([shownStatus(status)]);
    }
    expect(runStatusesOf('unknown')).toEqual([]);
    expect(canMatch({ statuses: [], from: null, to: null })).toBe(false);
  });
});
