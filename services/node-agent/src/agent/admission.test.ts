import { isExclusive, MAX_RUNNING_TASKS, NODE_TASK_TYPES } from '@gpuaas/node-protocol';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { admissible, type Claim } from './admission.js';
import { backoffMilliseconds } from './timing.js';

const claims = fc.array(
  fc.record({ type: fc.constantFrom(...NODE_TASK_TYPES), resourceKey: fc.constantFrom('a', 'b', 'c', 'd', 'e') }),
  { maxLength: 40 },
);

it('never runs two tasks of one key, nothing beside an exclusive one, and at most eight', () =>
  fc.assert(
    fc.property(claims, fc.infiniteStream(fc.nat()), (waiting, choices) => {
      const queue = [...waiting];
      let running: Claim[] = [];
      const finished: Claim[] = [];
      // Every task gets its turn: whenever something waits, something runs or starts.
      while (queue.length > 0 || running.length > 0) {
        const started = admissible(running, queue);
        for (const task of started) queue.splice(queue.indexOf(task), 1);
        running = [...running, ...started];
        expect(running.length).toBeGreaterThan(0);
        expect(running.length).toBeLessThanOrEqual(MAX_RUNNING_TASKS);
        expect(new Set(running.map((task) => task.resourceKey)).size).toBe(running.length);
        if (running.some((task) => isExclusive(task.type))) expect(running).toHaveLength(1);
        const [ended] = running.splice((choices.next().value ?? 0) % running.length, 1);
        if (ended) finished.push(ended);
      }
      // Tasks of one key end in the order in which they came.
      for (const key of ['a', 'b', 'c', 'd', 'e']) {
        const ofKey = (tasks: readonly Claim[]) => tasks.filter((task) => task.resourceKey === key);
        expect(ofKey(finished)).toEqual(ofKey(waiting));
      }
    }),
  ));

it('backs off between half and all of a ceiling that doubles up to a minute', () =>
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 10_000 }), fc.double({ min: 0, max: 1, noNaN: true }), (failures, random) => {
      const ceiling = Math.min(60_000, 1000 * 2 ** (failures - 1));
      const wait = backoffMilliseconds(failures, random);
      expect(wait).toBeGreaterThanOrEqual(ceiling / 2);
      expect(wait).toBeLessThanOrEqual(ceiling);
    }),
  ));
