import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { advanceTask, decideResult, type NodeTaskEvent, type NodeTaskStatus } from './task-state.js';

const EVENTS: readonly NodeTaskEvent[] = ['dispatch', 'return_to_queue', 'succeed', 'fail', 'reject', 'expire'];
const ENDS: readonly NodeTaskStatus[] = ['completed', 'failed', 'rejected', 'expired'];

describe('the task queue', () => {
  it('ends a task once, whatever happens to its lease', () =>
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...EVENTS), { maxLength: 30 }), (events) => {
        let status: NodeTaskStatus = 'queued';
        let ends = 0;
        for (const event of events) {
          const next = advanceTask(status, event);
          if (next === null) continue;
          if (ENDS.includes(next)) ends += 1;
          status = next;
        }
        expect(ends).toBeLessThanOrEqual(1);
        expect(ends === 1).toBe(ENDS.includes(status));
      }),
    ));

  it('has one effect of any sequence of results', () =>
    fc.assert(
      fc.property(
        fc.array(
          fc.record({ status: fc.constantFrom('success', 'failed', 'rejected'), hash: fc.constantFrom('a', 'b', 'c') }),
          { minLength: 1, maxLength: 12 },
        ),
        (reports) => {
          let task: Parameters<typeof decideResult>[0] = { status: 'dispatched', attempt: 1, resultHash: null };
          let effects = 0;
          for (const report of reports) {
            const decision = decideResult(task, report);
            if (decision.kind === 'repeat') expect(report.hash).toBe(task.resultHash);
            if (decision.kind !== 'accept') continue;
            effects += 1;
            task = { ...task, status: decision.to, resultHash: report.hash };
          }
          expect(effects).toBe(1);
        },
      ),
    ));

  it('accepts the result of a task whose lease was lost', () => {
    expect(decideResult({ status: 'queued', attempt: 1, resultHash: null }, { status: 'success', hash: 'a' })).toEqual({
      kind: 'accept',
      to: 'completed',
    });
  });

  it('believes no result of a task that was never handed out, nor one after its end', () => {
    const report = { status: 'success', hash: 'a' } as const;
    expect(decideResult({ status: 'queued', attempt: 0, resultHash: null }, report).kind).toBe('late');
    expect(decideResult({ status: 'expired', attempt: 1, resultHash: null }, report).kind).toBe('late');
  });
});
